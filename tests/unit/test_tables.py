"""Tables as users bring them: every format gives the same rows, and every fault names its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from table_files import write_csv, write_jsonl

from stilts_ds.errors import UserError
from stilts_ds.sources.tables import number_cell, saved_files, table_rows, text_cell

# Texts that guess-work turns into something else: none, a number, a date, a row of another file.
TRAPS = ["NA", "null", "1.0", "2024-01-01 10:00:00", 'say "no", twice', "tail\u2028line"]


def rows(path: Path) -> list[dict[str, object]]:
    return [row for _, row in table_rows(path)]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv", "a.tsv.gz", "a.jsonl", "a.jsonl.gz", "a[1].csv"])
def test_text_tables_keep_every_cell_as_it_is_written(name: str, tmp_path: Path) -> None:
    given = [{"sentence": text, "stars": "good"} for text in TRAPS]
    if "jsonl" in name:
        write_jsonl(tmp_path / name, given)
    else:
        write_csv(tmp_path / name, given, **({"delimiter": "\t"} if "tsv" in name else {}))
    assert rows(tmp_path / name) == given


def test_a_csv_cell_may_hold_a_line_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one\ntwo",x\nthree,y\n')
    assert [(where.rpartition(":")[2], row["text"]) for where, row in table_rows(tmp_path / "a.csv")] == [
        ("3", "one\ntwo"),
        ("4", "three"),
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz", "saved"])
def test_arrow_tables_give_the_names_behind_class_indices(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "stars": datasets.ClassLabel(names=["bad", "good"])}
    )
    data_set = datasets.Dataset.from_dict({"sentence": TRAPS, "stars": [1, 0, 1, 0, 1, -1]}, features=features)
    files = [tmp_path / name]
    if name == "saved":
        data_set.save_to_disk(tmp_path / name)
        files = saved_files(tmp_path / name)
    else:
        data_set.to_parquet(tmp_path / "a.parquet")
        packed = gzip.compress((tmp_path / "a.parquet").read_bytes())
        (tmp_path / "a.parquet.gz").write_bytes(packed)
    read = [row for file in files for row in rows(file)]
    assert [row["sentence"] for row in read] == TRAPS
    assert [row["stars"] for row in read] == ["good", "bad", "good", "bad", "good", None]


FAULTS = [
    ("a.csv", b"text,label\na,b\nc,d,e\n", r"a.csv:3: 3 cells, but the header names 2"),
    ("a.csv", b"text,label\na,b\nc\n", r"a.csv:3: 1 cell, but the header names 2"),
    ("a.csv", b'text,label\n"a,b\n', r"a.csv:\d: is no valid CSV"),
    ("a.csv", b"text,text\na,b\n", r"a.csv:1: two columns are called 'text'"),
    ("a.csv", b",\na,b\n", r"a.csv:1: has no header"),
    ("a.csv", b"text,label\na,\xff\n", r"a.csv:2: byte 3 of the line"),
    ("a.csv", b"", r"a.csv: is empty"),
    ("a.tsv", b"text\tlabel\na\tb\tc\n", r"a.tsv:2: 3 cells, but the header names 2"),
    # mtime=0: the cases must have one name in every process that collects them.
    ("a.jsonl", b'{"text": "a"}\n{"text":\n', r"a.jsonl:2: the JSON ends too early"),
    ("a.csv.gz", b"text,label\n", r"a.csv.gz: cannot be unpacked"),
    ("a.csv.gz", gzip.compress(b"text,label\n" * 99, mtime=0)[:-9], r"a.csv.gz: cannot be unpacked"),
    ("a.csv.gz", gzip.compress(b"text\n\xff\n", mtime=0), r"a.csv.gz:2: is not valid UTF-8"),
    ("a.csv.gz", gzip.compress(b"", mtime=0), r"a.csv.gz: is empty"),
    ("a.jsonl.gz", gzip.compress(b"[1]\n", mtime=0), r"a.jsonl.gz:1: is no JSON object"),
    ("a.xlsx", b"PK", r"a.xlsx: the ending .xlsx is no table's; give .csv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), FAULTS)
def test_a_broken_table_says_where_and_what_to_do(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        rows(tmp_path / name)


@pytest.mark.parametrize("name", ["a.parquet", "a.parquet.gz", "a.arrow"])
def test_a_broken_binary_file_is_refused(name: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / name).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(UserError, match=f"{name}: is no whole .* file"):
        rows(tmp_path / name)


def test_a_saved_folder_must_be_whole_and_hold_one_split(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not written by `save_to_disk`"):
        saved_files(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    with pytest.raises(UserError, match="data-00000-of-00001.arrow is missing"):
        saved_files(tmp_path)
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="is no state of a data set"):
        saved_files(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(UserError, match="holds several splits.*of: train"):
        saved_files(tmp_path)


def test_cells_are_refused_by_column_and_place() -> None:
    row = {"sentence": " ", "number": 3, "rating": "x"}
    with pytest.raises(UserError, match=r"f:2: there is no column 'sentenc'; did you mean sentence.*found: sentence"):
        text_cell(row, "sentenc", "f:2")
    with pytest.raises(UserError, match="f:2: column 'sentence' is empty"):
        text_cell(row, "sentence", "f:2")
    with pytest.raises(UserError, match="f:2: column 'number' must hold text, not int"):
        text_cell(row, "number", "f:2")
    for value in ("x", "nan", True, None, [1]):
        with pytest.raises(UserError, match="f:2: column 'rating' must hold a number"):
            number_cell({"rating": value}, "rating", "f:2")
    assert number_cell({"rating": "3.5"}, "rating", "f:2") == 3.5
