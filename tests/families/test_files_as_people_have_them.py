"""Data files as people have them: every variant reads as the official file does, or is refused by name.

The variants of whole files (`VARIANTS`) are tried on every reader, so a new reader gets them, too.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fuzz_readers import FILES, SPLITS, written
from reader_files import MNLI_DEV, QQP_HEADER, READERS, empty_source, nli, put, read_bitext, rows, squad

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.tag.record import Tagged
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import TABLE


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return empty_source(tmp_path)


def json_array(raw: bytes) -> bytes:
    """JSON lines as one array over several lines; other text as it is."""
    lines = raw.decode().splitlines()
    return json.dumps([json.loads(line) for line in lines], indent=1).encode() if lines[0].startswith("{") else raw


SAME, REFUSED = "same", "refused"
VARIANTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "byte order mark": (lambda raw: b"\xef\xbb\xbf" + raw, SAME),
    "CRLF": (lambda raw: raw.replace(b"\n", b"\r\n"), SAME),
    "no line feed at the end": (lambda raw: raw.removesuffix(b"\n"), SAME),
    "blank lines at the end": (lambda raw: raw + b"\n \n\n", SAME),
    "CR": (lambda raw: raw.replace(b"\n", b"\r"), REFUSED),
    "CR, LF at the end": (lambda raw: raw.strip().replace(b"\n", b"\r") + b"\n", REFUSED),
    "CRCRLF": (lambda raw: raw.replace(b"\n", b"\r\r\n"), REFUSED),
    "UTF-16": (lambda raw: raw.decode().encode("utf-16"), REFUSED),
    "UTF-16 without a mark": (lambda raw: raw.decode().encode("utf-16-le"), REFUSED),
    "gzip": (gzip.compress, REFUSED),
    "parquet": (lambda raw: b"PAR1\x15\x00" + raw, REFUSED),
    "JSON array": (json_array, REFUSED),
}


def records(split: tuple[str, str, str, tuple[str, ...]], source: DataSource) -> list[Any]:
    task, name, language, _ = split
    return [dataclasses.replace(record, id="") for record in read_examples(get_task(task), name, language, source)]


def test_every_reader_is_tried(tmp_path: Path) -> None:
    source = with_official_files(tmp_path)
    tried = {schema for task, name, language, _ in SPLITS
             for schema, _ in find_origin(get_task(task), name, language, source).parts}  # fmt: skip
    # The same lines as aligned_lines, and tables of people's own columns, which no task of ours reads.
    assert set(READERS) - tried == {"unaligned_lines", TABLE}


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    """Written once: a test that changes a file puts it back."""
    return with_official_files(tmp_path_factory.mktemp("official"))


def with_official_files(folder: Path) -> DataSource:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(written(content))
    return DataSource("local", folder, folder, folder / "text", folder, code=folder)


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: "-".join(split[:3]))
def test_a_file_in_another_guise(official: DataSource, split: Any) -> None:
    assert official.xtreme is not None
    expected = records(split, official)
    for name in split[3]:
        path, raw = official.xtreme / name, written(FILES[name])
        for variant, (change, outcome) in VARIANTS.items():
            path.write_bytes(change(raw))
            try:
                # A JSON value may hold any white space, and a file one line: what is refused elsewhere may be equal.
                assert records(split, official) == expected, (name, variant)
            except UserError as problem:
                assert outcome == REFUSED and path.name in str(problem), (name, variant)
            finally:
                path.write_bytes(raw)


# --- tagged words -----------------------------------------------------------------------------------------------------

ANN = Tagged("dev-de:1", ("Ann", "ging"), ("B-PER", "O"))


@pytest.mark.parametrize(
    "text",
    [
        "de:Ann\tB-PER\nde:ging\tO\n\nde:de:x\tO\nde::\tO\n",  # PAN-X's archives: XTREME takes the prefix off
        "Ann \tB-PER\nging\t O \n\nde:x\tO\n:\tO\n",  # `de:x` is a word here
    ],
)
def test_prefixes_and_spaces_around_cells(source: DataSource, text: str) -> None:
    put(source, "panx", "panx/dev-de.tsv", text)
    assert rows(source, "panx", language="de") == [ANN, Tagged("dev-de:4", ("de:x", ":"), ("O", "O"))]


def test_lines_that_begin_documents_are_no_words(source: DataSource) -> None:
    put(source, "panx", "panx/dev-de.tsv", "-DOCSTART-\tO\n\nAnn\tB-PER\nging\tO\n\n-DOCSTART- -X- O O\nAnn\tO\n")
    tally: Counter[str] = Counter()
    found = rows(source, "panx", language="de", tally=tally)
    assert [record.words for record in found] == [("Ann", "ging"), ("Ann",)]
    assert found[0].id == "dev-de:3" and tally == {"lines of -DOCSTART-": 2}


@pytest.mark.parametrize(
    "text, message",
    [
        ("Ann B-PER\nging O\n", r"dev-de.tsv:1: white space inside the only column \('Ann B-PER'\); separate"),
        ("Ann\nging  VVFIN O O\n", r"dev-de.tsv:2: white space inside the only column"),
        ("Ann\tB-PER\nging O\n", r"dev-de.tsv:2: 1 column, expected word TAB tag"),
        ("Ann\tNE\tB-NP\tB-PER\n", r"dev-de.tsv:1: 4 columns, expected word TAB tag; keep these two"),
        ("# id 1\nAnn\tB-PER\n", r"dev-de.tsv:1: white space|dev-de.tsv:2: 2 columns"),
        ("en:Ann\tB-PER\nen:went\tO\n", r"dev-de.tsv:1: words begin with 'en' and a colon in a file for 'de'"),
        ("de:Ann\tB-PER\n\nging\tO\n", r"dev-de.tsv:3: words of this sentence do not begin with 'de'"),
        ("Ann\tB-PER\n\nde:er\tO\nde:ging\tO\n", r"dev-de.tsv:3: words of this sentence begin with 'de'"),
    ],
)
def test_tag_files_that_would_be_misread(source: DataSource, text: str, message: str) -> None:
    put(source, "panx", "panx/dev-de.tsv", text)
    with pytest.raises(UserError, match=message):
        rows(source, "panx", language="de")


# --- running text -----------------------------------------------------------------------------------------------------


def languages_of(source: DataSource) -> tuple[str, ...]:
    return find_origin(get_task("mlm"), "train", "en", source).languages


@pytest.mark.parametrize(
    "files",
    [
        ["de.txt", "zh-Hant.txt", "en/part-0.txt", "en/part-1.txt"],
        ["de.txt", "zh-Hant.txt", "en.txt", "README.md", "LICENSE", ".de.txt", "raw/notes.md", ".git/x.txt"],
        ["de/a.txt", "zh-Hant/a.txt", "en/a.txt", "en/README.md", "en/.a.txt"],
    ],
)
def test_every_layout_of_text_is_read(source: DataSource, files: list[str]) -> None:
    for name in files:
        put(source, "mlm", name, "a\nb\n")
    assert languages_of(source) == ("de", "en", "zh-Hant")
    read = {record.language for record in read_examples(get_task("mlm"), "train", "en", source)}
    assert read == {"de", "en", "zh-Hant"}


@pytest.mark.parametrize(
    "stranger", ["README.txt", "readme.txt", "train.txt", "all.txt", "fr.TXT", "fr.txt.gz", "fr.jsonl", "fr/part.csv",
                 "fr/more/a.txt", "French/a.txt", "fr/README.txt", "de/a.txt", "old/fr/a.txt"],
)  # fmt: skip
def test_what_would_silently_be_text_or_be_left_out_is_refused(source: DataSource, stranger: str) -> None:
    put(source, "mlm", "de.txt", "a\nb\n")
    if stranger.startswith("fr/"):
        put(source, "mlm", "fr/a.txt", "a\n")
    assert "de" in languages_of(source)
    put(source, "mlm", stranger, "x\n")
    with pytest.raises(UserError, match="would not be read as text of a language.*rename it, unpack it or move it"):
        languages_of(source)


@pytest.mark.parametrize("text", ["eine Zeile\n" * 30, "eine sehr lange Zeile " * 1000])
def test_short_text_says_why_it_has_no_dev_split(source: DataSource, text: str) -> None:
    put(source, "mlm", "de.txt", text)
    with pytest.raises(UserError, match="every 50th line of a file is its dev split.*at least 50 lines") as caught:
        rows(source, "mlm")
    assert "download" not in str(caught.value)
    assert len(rows(source, "mlm", "train")) == text.count("\n") or text.count("\n") == 0


# --- the other families -----------------------------------------------------------------------------------------------


def test_old_mac_line_ends_do_not_make_one_sentence(source: DataSource) -> None:
    put(source, "tatoeba", "tatoeba/tatoeba.fra-eng.fra", b"a\rb\rc\r")
    put(source, "tatoeba", "tatoeba/tatoeba.fra-eng.eng", b"A\rB\rC\r")
    with pytest.raises(UserError, match=r"fra:1: a carriage return \(CR\) stands inside the line.*end lines with LF"):
        read_bitext(get_task("tatoeba"), "test", "fr", source)


@pytest.mark.parametrize(
    "text, message",
    [
        (json.dumps([nli("neutral")], indent=1), "is one JSON value over several lines; this must be a JSON lines"),
        (json.dumps([nli("neutral")]), "1: is no JSON object; this must be a JSON lines file, one object a line"),
        (json.dumps(nli("neutral"), indent=1), "is one JSON value over several lines"),
    ],
)
def test_json_where_json_lines_are_read(source: DataSource, text: str, message: str) -> None:
    put(source, "mnli", MNLI_DEV, text)
    with pytest.raises(UserError, match=message) as caught:
        rows(source, "mnli")
    assert "download" not in str(caught.value)


def test_json_lines_where_json_is_read(source: DataSource) -> None:
    put(source, "squad_v1", "squad_v1/dev-v1.1.json", [squad(), squad()])
    with pytest.raises(UserError, match="another value follows after the first, at line 2 column 1.*one JSON value"):
        rows(source, "squad_v1")


def test_ids_are_not_needed_where_nothing_is_filed_under_them(source: DataSource) -> None:
    row = {key: value for key, value in nli("neutral").items() if key != "pairID"}
    path = put(source, "mnli", MNLI_DEV, [row, {**row, "pairID": 7}])
    assert [record.id for record in rows(source, "mnli")] == [f"{path}:1", "7"]
    swag = {"ctx_a": "He", "ctx_b": "", "endings": ["a", "b"], "label": 1}
    path = put(source, "hellaswag", "hellaswag/hellaswag_val.jsonl", [swag])
    assert [record.id for record in rows(source, "hellaswag")] == [f"{path}:1"]
    put(source, "squad_v1", "squad_v1/dev-v1.1.json", squad(id=12))
    assert rows(source, "squad_v1")[0].id == "12"
    put(source, "squad_v1", "squad_v1/dev-v1.1.json", squad(id=None))
    with pytest.raises(UserError, match="the question has no `id`, which its answer is filed under"):
        rows(source, "squad_v1")


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\tb\tneutral\nc\td\n", r"dev-en.tsv:2: 2 columns, but 3 on the lines before; give every row its label"),
        ("a\tb\nc\td\tneutral\n", r"dev-en.tsv:2: 3 columns, but 2 on the lines before"),
        ("Premise\thypothesis\na\tb\n", r"dev-en.tsv:1: is a header, not a pair of texts; remove the line"),
    ],
)
def test_pairs_have_a_label_each_or_none(source: DataSource, text: str, message: str) -> None:
    put(source, "xnli", "xnli/dev-en.tsv", text)
    with pytest.raises(UserError, match=message):
        rows(source, "xnli")


def test_labels_with_spaces_and_blank_lines_at_the_end(source: DataSource) -> None:
    put(source, "xnli", "xnli/test-sw.tsv", "a\tb\nc\td\n\n")
    put(source, "xnli", "xnli/test-labels.txt", "neutral \nentailment\n\n\n")
    assert rows(source, "xnli", "test", "sw") == [
        Pair("test-sw:1", "a", "b", "neutral"), Pair("test-sw:2", "c", "d", "entailment")]  # fmt: skip


def test_exchanged_columns_of_tables(source: DataSource) -> None:
    for side in ("de", "en"):
        put(source, "bucc2018", f"bucc2018/de-en.dev.{side}", f"{side}-1\tx\n{side}-2\ty\n")
    put(source, "bucc2018", "bucc2018/de-en.dev.gold", "en-1\tde-1\n")
    with pytest.raises(UserError, match="dev.gold:1: the ids stand in the other order; write source id TAB pivot id"):
        read_bitext(get_task("bucc2018"), "dev", "de", source)
    put(source, "qqp", "qqp/dev.tsv", QQP_HEADER.replace("question1\tquestion2", "question2\tquestion1") + "1\t2\t3\n")
    with pytest.raises(UserError, match="dev.tsv:1: the header must be id qid1 qid2 question1 question2 is_duplicate"):
        rows(source, "qqp")


def test_a_choice_without_its_label_among_others_is_named(source: DataSource) -> None:
    row = {"idx": 1, "premise": "x", "choice1": "a", "choice2": "b", "question": "cause", "label": 0}
    unlabelled = {key: value for key, value in row.items() if key != "label"}
    put(source, "xcopa", "xcopa/et/val.et.jsonl", [row, {**unlabelled, "idx": 2}])
    with pytest.raises(UserError, match="xcopa dev et: example '2' has no label, unlike those before"):
        rows(source, "xcopa", language="et")
