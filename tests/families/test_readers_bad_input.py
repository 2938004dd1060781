"""Bad input: every fault is a UserError that names the file and the place, whatever the bytes are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_files import COSMOS_HEADER, MNLI_DEV, QQP_HEADER, READERS, conllu, empty_source, nli, put, rows, squad

from stilts_ds.errors import UserError
from stilts_ds.sources.source import DataSource, Part
from stilts_ds.tasks.registry import TASKS, get_task


@pytest.fixture
def source(tmp_path: Path) -> DataSource:
    return empty_source(tmp_path)


BAD_FILES: list[tuple[str, str, Any, str]] = [
    ("mnli", MNLI_DEV, [nli("maybe")], r"jsonl:1: unknown label 'maybe'"),
    ("mnli", MNLI_DEV, [{"gold_label": "neutral"}], r":1: there is no field `sentence1` \(found: gold_label\)"),
    ("mnli", MNLI_DEV, [nli("neutral"), ["x"]], r":2: is no JSON object"),
    ("mnli", MNLI_DEV, '{"gold_label": neutral}\n', r":1: invalid JSON at line 1 column 16"),
    ("mnli", MNLI_DEV, json.dumps(nli("neutral"))[:-9], r":1: the JSON ends too early, the file looks cut short"),
    ("mnli", MNLI_DEV, '{"gold_label": "neutral", "sentence1": "\\ud800", "sentence2": ""}', "half a surrogate pair"),
    ("mnli", MNLI_DEV, b"", "is empty; download"),
    ("mnli", MNLI_DEV, [nli("-")], r"there are no examples \(rows without a gold label \(-\): 1\)"),
    ("mnli", MNLI_DEV, json.dumps(nli("neutral")).encode() + b"\n{\xff", r":2: byte 2 of the line \(0xff\) is not"),
    ("mnli", MNLI_DEV, "version https://git-lfs.github.com/spec/v1\noid x\n", "is a Git LFS pointer"),
    ("mnli", MNLI_DEV, "\n<!DOCTYPE html>\n<p>404</p>", "is an HTML page"),
    ("mnli", MNLI_DEV, b"\x1f\x8b\x08\x00", "gzip-compressed"),
    ("mnli", MNLI_DEV, "x\n".encode("utf-16"), "is UTF-16 text"),
    ("mnli", MNLI_DEV, "[" * 100_000, "no sensible JSON"),
    ("qqp", "qqp/dev.tsv", "a\tb\n", r"tsv:1: the header must be id qid1 qid2"),
    ("qqp", "qqp/dev.tsv", QQP_HEADER + "1\t2\t3\t4\t5\t6\t7\n", r"tsv:2: 7 columns, expected 6"),
    ("qqp", "qqp/dev.tsv", QQP_HEADER + "1\t2\t3\t4\t5\tyes\n", r"tsv:2: unknown label 'yes'"),
    ("xnli", "xnli/dev-en.tsv", "one\n", r"tsv:1: 1 column"),
    ("xnli", "xnli/dev-en.tsv", "a\tb\tmaybe\n", "unknown label"),
    ("squad_v1", "squad_v1/dev-v1.1.json", squad(context="Ada."), "question 'q1': the answer '1843' is not at"),
    ("squad_v1", "squad_v1/dev-v1.1.json", squad(answers=[{"text": "A", "answer_start": -21}]), "not at character -21"),
    ("squad_v1", "squad_v1/dev-v1.1.json", json.dumps(squad())[:-30], "looks cut short"),
    ("squad_v1", "squad_v1/dev-v1.1.json", {"data": [3]}, r"data\[0\]: expected a JSON object with `paragraphs`"),
    ("squad_v1", "squad_v1/dev-v1.1.json", {"data": squad()["data"] * 2}, "question id 'q1' occurs twice"),
    ("hellaswag", "hellaswag/hellaswag_val.jsonl",
     [{"ind": 1, "ctx_a": "", "ctx_b": "", "endings": ["a", "b"], "label": 2}], "label 2 is out of range for 2"),
    ("cosmosqa", "cosmosqa/valid.csv", "id,context\n", "the header has no column question"),
    ("cosmosqa", "cosmosqa/valid.csv", COSMOS_HEADER + "i,c,q\n", r"csv:2: 3 columns, expected 8"),
    ("cosmosqa", "cosmosqa/valid.csv", COSMOS_HEADER + 'i,"c', r"csv:2: invalid CSV"),
    ("commonsenseqa", "commonsenseqa/dev_rand_split.jsonl",
     [{"id": "x", "answerKey": "F", "question": {"stem": "", "choices": [{"label": "A", "text": ""}]}}],
     "the answer 'F' is none of the choices A"),
    ("panx", "panx/dev-en.tsv", "Ann\tB-PER\nwent\n", r"tsv:2: 1 column, expected word TAB tag"),
    ("panx", "panx/dev-en.tsv", "Ann\tB-PER\nwent\t\n", "tsv:2: 2 columns"),
    ("panx", "panx/dev-en.tsv", "Ann\tPERSON\n", r"tsv:1: unknown label 'PERSON'"),
]  # fmt: skip


@pytest.mark.parametrize("task, file, content, message", BAD_FILES)
def test_bad_files_are_named(source: DataSource, task: str, file: str, content: Any, message: str) -> None:
    path = put(source, task, file, content)
    with pytest.raises(UserError, match=message) as caught:
        rows(source, task)
    assert str(path) in str(caught.value) or "there are no examples" in str(caught.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("1\tIm\n", "2 columns, CoNLL-U has 10"),
        (conllu("1-2 Im _ _", "1 In x ADP"), "lacks its last part"),
        (conllu("2-1 Im _ _", "1 In x ADP"), "runs backwards"),
        (conllu("x In x ADP"), "is no CoNLL-U word number"),
        (conllu("1 In x PREP"), "unknown label 'PREP'"),
    ],
)
def test_bad_conllu(source: DataSource, text: str, message: str) -> None:
    put(source, "udpos", "ud-treebanks-v2.5/X/de_x-ud-test.conllu", text)
    with pytest.raises(UserError, match=message):
        rows(source, "udpos", "test", "de")


def test_missing_files_and_folders_say_where_to_get_them(source: DataSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train file for 'en': there is no .*train-en.tsv; get it from https://"):
        rows(source, "pawsx", "train")
    with pytest.raises(UserError, match="Make ccg/train.tsv and ccg/dev.tsv from your own copy"):
        rows(source, "ccg")
    with pytest.raises(UserError, match="data.xtreme is not set"):
        rows(DataSource("local"), "xnli")
    with pytest.raises(UserError, match="data.intermediate: there is no folder"):
        rows(DataSource("local", tmp_path / "nowhere"), "mnli")
    with pytest.raises(UserError, match="xnli has no language 'sv'"):
        rows(source, "xnli", language="sv")
    with pytest.raises(UserError, match="mnli has no split 'test'"):
        rows(source, "mnli", "test")


def test_training_needs_labels(source: DataSource) -> None:
    put(source, "pawsx", "pawsx/train-en.tsv", "a\tb\nc\td\n")
    with pytest.raises(UserError, match="'train-en:1' has no label"):
        rows(source, "pawsx", "train")


@pytest.mark.parametrize("content", ["\u3000\n", "\x85\n\u2003\n"])  # white space that no editor shows
def test_a_label_file_of_blank_lines_is_refused(content: str, tmp_path: Path) -> None:
    texts, labels = tmp_path / "test-de.tsv", tmp_path / "labels.txt"
    texts.write_text("a\tb\n")
    labels.write_text(content)
    part = Part(texts, get_task("xnli"), "de", "test", labels=labels)
    with pytest.raises(UserError, match=r"labels.txt holds blank lines only; download the file again"):
        list(READERS["pair_tsv"](part))


SCHEMAS = [(schema, task.name) for task in TASKS.values() for split in task.local.values()
           for schema in {entry.schema for entry in split}]  # fmt: skip
PIECES = st.sampled_from(
    ['{"', '":', "[", "]}", "\t", "\n", '"', ",", "1-2", "_", "id", "-", "data", "is_duplicate", "\\u"]
)
CONTENT = st.one_of(st.binary(max_size=80), st.lists(PIECES | st.text(max_size=4), max_size=30).map("".join))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=CONTENT, beside=CONTENT, which=st.sampled_from(sorted(set(SCHEMAS)) + [("conllu", "udpos")]))
def test_no_content_crashes_a_reader(tmp_path: Path, content: Any, beside: Any, which: tuple[str, str]) -> None:
    paths = [tmp_path / name for name in ("data", "beside")]
    for path, value in zip(paths, (content, beside)):
        path.write_bytes(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
    part = Part(paths[0], get_task(which[1]), "en", "dev", pivot=paths[1], labels=paths[1], pool=(("en", paths[1]),))
    try:
        list(READERS[which[0]](part))
    except UserError as error:
        assert str(error)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["data", "paragraphs", "context", "qas", "id", "question", "answers", "text", "answer_start", "choices",
         "label", "stem", "endings", "ctx_a", "ctx_b", "ind", "premise", "choice1", "choice2", "idx", "answerKey"]),
        inner, max_size=8),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON_VALUES, schema=st.sampled_from(sorted(name for name in READERS if "json" in name)))
def test_no_json_of_another_shape_crashes_a_reader(tmp_path: Path, value: Any, schema: str) -> None:
    path = tmp_path / "data"
    path.write_text(json.dumps(value))
    try:
        list(READERS[schema](Part(path, get_task("mnli"), "en", "dev")))
    except UserError as error:
        assert str(path) in str(error)
