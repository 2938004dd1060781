"""Prediction and label files: what is written reads back, and every fault is a message with file and line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stilts_ds.errors import UserError
from stilts_ds.families.bitext.predictions import FILES, check_pair_ids
from stilts_ds.families.choice.predictions import LABEL_LINES
from stilts_ds.families.files import INDEX_FILE, PredictionFile
from stilts_ds.families.pair import predictions as pair
from stilts_ds.families.registry import family_of
from stilts_ds.families.span import predictions as span
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag import predictions as tag
from stilts_ds.tasks.registry import get_task

NLI = ("contradiction", "entailment", "neutral")
# The layouts of prediction files by what stands in them.
FILE_OF: dict[str, PredictionFile] = {
    "label": pair.FILE, "index": INDEX_FILE, "tags": tag.FILE, "pairs": FILES["pairs"], "answers": span.FILE,
}  # fmt: skip
SPANS = [
    Span("q1", "wer?", "Anna\tund\u2028Otto", (Answer("Otto", 9), Answer("Anna", 0))),
    Span("q2", "wo?", "Anna\tund\u2028Otto", (), impossible=True),
    Span("q3", "なに?", "別の文", (Answer("別", 0),)),
]


@pytest.mark.parametrize(
    "kind, values, text",
    [
        ("label", ["neutral", "entailment"], "neutral\nentailment\n"),
        ("index", [0, 17], "0\n17\n"),
        ("tags", [["NOUN", "X"], ["VERB"]], "NOUN\nX\n\nVERB\n"),
        ("pairs", [("de-1", "en-2"), ("de-2", "en-1")], "de-1\ten-2\nde-2\ten-1\n"),
        ("pairs", [], ""),
    ],
)
def test_written_lines_read_back(tmp_path: Path, kind: Any, values: Any, text: str) -> None:
    path = tmp_path / "task" / "test-de.tsv"
    FILE_OF[kind].write(path, values)
    assert path.read_bytes().decode() == text
    assert FILE_OF[kind].read(path, ()) == values
    assert [p.name for p in path.parent.iterdir()] == [path.name]


UTF8 = st.characters(codec="utf-8")


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(UTF8, min_size=1), st.text(UTF8)))
def test_any_answers_read_back(tmp_path_factory: pytest.TempPathFactory, answers: dict[str, str]) -> None:
    path = tmp_path_factory.mktemp("answers") / "test-de.json"
    FILE_OF["answers"].write(path, answers)
    assert FILE_OF["answers"].read(path, ()) == answers


def test_span_labels_read_back(tmp_path: Path) -> None:
    path = tmp_path / "dev-de.json"
    FILE_OF["answers"].write_labels(path, SPANS)
    assert FILE_OF["answers"].read_labels(path, ()) == SPANS
    assert len(json.loads(path.read_text(encoding="utf-8"))["data"][0]["paragraphs"]) == 2


@pytest.mark.parametrize("raw", [b"\xef\xbb\xbf0\n1\n", b"0\r\n1\r\n", b"\xef\xbb\xbf0\r\n1", b"0\n1", b" 0 \n1\n"])
def test_byte_order_mark_crlf_and_missing_last_newline_are_accepted(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "test-de.tsv"
    path.write_bytes(raw)
    assert FILE_OF["index"].read(path, ()) == [0, 1]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", " \n\n", "\r\n"])
@pytest.mark.parametrize(
    "kind, text, values",
    [
        ("label", "a\nb\n", ["a", "b"]),
        ("index", "0\n1\n", [0, 1]),
        ("tags", "X\n\nX\nX\n", [["X"], ["X", "X"]]),
        ("tags", "\nX\n\n\n \nX\nX\n", [["X"], ["X", "X"]]),  # as in XTREME's Vietnamese PAN-X file
        ("pairs", "de-1\ten-1\n", [("de-1", "en-1")]),
        ("answers", '{"a": "x"}\n', {"a": "x"}),
    ],
)
def test_blank_lines_at_the_end_are_no_values(tmp_path: Path, kind: Any, text: str, values: Any, end: str) -> None:
    path = tmp_path / "test-de.tsv"
    text = text.replace("\n", "\r\n") if "\r" in end else text
    path.write_bytes((text + end).encode())
    assert FILE_OF[kind].read(path, ()) == values
    if kind not in ("answers", "tags"):
        assert FILE_OF[kind].read_labels(path, ()) == values


def test_lines_are_counted_past_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "test-de.tsv"
    path.write_text("\n\nX\n\n\nX\nX\nX\n\n")
    read = FILE_OF["tags"].read(path, ())
    with pytest.raises(UserError, match="line 8: sentence 2 has 3 tags for 2 words"):
        FILE_OF["tags"].check(path, read, [["X"], ["X", "X"]])
    with pytest.raises(UserError, match="line 6: 2 sentences for 1 gold sentence"):
        FILE_OF["tags"].check(path, read, [["X"]])


GOLD_PAIRS = [("de-001", "en-007"), ("de-002", "en-005")]


@pytest.mark.parametrize(
    "predicted, gold, message",
    [
        ([("de-003", "en-007"), ("en-005", "de-002")], GOLD_PAIRS, "line 2: 'en-005' is an id of the other side"),
        ([("en-009", "de-004")], GOLD_PAIRS, "line 1: 'en-009' is no id of this side, whose ids .* begin with 'de-'"),
        ([("fr-001", "en-007")], GOLD_PAIRS, "line 1: 'fr-001' is no id of this side"),
        ([("de-001", "en-007")], [("en-007", "de-001")], "line 1: 'de-001' is an id of the other side"),
        ([("1", "7"), ("7", "2")], [("7", "1"), ("3", "7")], "line 1: no pair is right, and with its columns"),
    ],
)
def test_pairs_of_the_other_order_are_refused(tmp_path: Path, predicted: Any, gold: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FILE_OF["pairs"].check(tmp_path / "test-de.tsv", predicted, gold)


@pytest.mark.parametrize(
    "predicted, gold",
    [
        ([("de-009", "en-001")], GOLD_PAIRS),
        ([], GOLD_PAIRS),
        ([("1", "2"), ("2", "1")], [("1", "2"), ("3", "1")]),
        ([("4", "2")], [("1", "2"), ("3", "1")]),
    ],
)
def test_wrong_pairs_of_the_right_order_are_just_wrong(tmp_path: Path, predicted: Any, gold: Any) -> None:
    FILE_OF["pairs"].check(tmp_path / "test-de.tsv", predicted, gold)


@pytest.mark.parametrize(
    "kind, raw, line, message",
    [
        ("label", b"neutral\nnutral\n", 2, "unknown label 'nutral'; did you mean neutral"),
        ("label", b"neutral\n\nneutral\n", 2, "is empty"),
        ("label", b"neutral\tentailment\n", 1, "holds a tab"),
        ("label", b"neutral\r\nneutral\n", 2, "mixes newline styles"),
        ("label", b"neutral\nneutral\r\nneutral", 1, "mixes newline styles"),
        ("label", b"neutral\rneutral\n", 1, "mixes newline styles"),
        ("label", b"neutral\n\xff\n", 2, "is not UTF-8"),
        ("index", b"0\nnan\n", 2, "'nan' is not a whole number"),
        ("index", b"-1\n", 1, "'-1' is not a whole number"),
        ("index", "٣\n".encode(), 1, "is not a whole number"),
        ("tags", b"neutral\nword\tneutral\n", 2, "holds a tab"),
        ("pairs", b"de-1\ten-1\nde-2 en-2\n", 2, "not two ids with one tab"),
        ("pairs", b"de-1\ten-1\t0.5\n", 1, "not two ids with one tab"),
        ("pairs", b"de-1\t\n", 1, "not two ids with one tab"),
        ("pairs", b"de-1\ten-1\nde-2\ten-1\nde-1\ten-1\n", 3, "repeats the pair of line 1"),
        ("answers", b'{"a": "x",\n"b": "y",\n"a": "z"}', 3, "repeats the id 'a'"),
        ("answers", b'{"a": "x",\n"b": NaN}', 2, "NaN is not a value"),
        ("answers", b'{"a": "x",\n"b": 3}', 2, "the answer of 'b' is 3"),
        ("answers", b'{"a": "x",\n"b"}', 2, "is not valid JSON"),
        ("answers", b'["a"]', 1, "is not a JSON object"),
    ],
)
def test_faults_are_named_with_file_and_line(tmp_path: Path, kind: Any, raw: bytes, line: int, message: str) -> None:
    path = tmp_path / "test-de.tsv"
    path.write_bytes(raw)
    with pytest.raises(UserError) as caught:
        FILE_OF[kind].read(path, NLI)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


def test_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        FILE_OF["label"].read(tmp_path / "test-de.tsv", ())


def squad(*questions: str) -> str:
    return '{"data": [{"paragraphs": [{"context": "c", "qas": [\n' + ",\n".join(questions) + "\n]}]}]}"


@pytest.mark.parametrize(
    "text, line, message",
    [
        (squad(*['{"id": "a", "question": "q", "answers": [{"text": "c", "answer_start": 0}]}'] * 2), 3, "repeats the"),
        (squad('{"id": "a", "question": "q", "answers": [{"text": "", "answer_start": 0}]}'), 2, "has no gold answer"),
        (squad('{"id": "a", "question": "q", "answers": []}'), 2, "has no gold answer"),
        (squad('{"id": "a", "answers": []}'), 1, "not in SQuAD's JSON schema (KeyError('question'))"),
        ('{"data": []}', 1, "has no labels"),
    ],
)
def test_faulty_span_labels(tmp_path: Path, text: str, line: int, message: str) -> None:
    path = tmp_path / "test-de.json"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        FILE_OF["answers"].read_labels(path, ())
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "kind, predicted, gold, message",
    [
        ("label", ["a", "b", "c"], ["a", "b"], "line 3: one line too many: 3 lines for 2 examples"),
        ("index", [1], [1, 2, 3], "line 2: is missing: 1 line for 3 examples"),
        ("tags", [["X"], ["X", "X"]], [["X"], ["X"]], "line 4: sentence 2 has 2 tags for 1 word"),
        ("tags", [["X"], ["X"]], [["X"], ["X", "X"]], "line 4: sentence 2 has 1 tag for 2 words"),
        ("tags", [["X"], ["X"]], [["X"]], "line 3: 2 sentences for 1 gold sentence"),
        ("answers", {"q1": ""}, SPANS, "line 1: 2 of 3 questions have no answer: 'q2', 'q3'"),
    ],
)
def test_predictions_must_fit_the_labels(tmp_path: Path, kind: Any, predicted: Any, gold: Any, message: str) -> None:
    path = tmp_path / "test-de.tsv"
    FILE_OF[kind].write(path, predicted)
    with pytest.raises(UserError) as caught:
        FILE_OF[kind].check(path, predicted, gold)
    assert message in str(caught.value)


def test_unknown_question_id_is_found_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "test-de.json"
    answers = {span.id: "" for span in SPANS} | {"q9": ""}
    FILE_OF["answers"].write(path, answers)
    with pytest.raises(UserError, match="line 5: 1 question id is not in the labels: 'q9'"):
        FILE_OF["answers"].check(path, answers, SPANS)


def test_pair_ids_must_exist(tmp_path: Path) -> None:
    pairs = [("zh-1", "en-1"), ("zh-2", "en-7")]
    check_pair_ids(tmp_path / "zh.gold", pairs, {"zh-1", "zh-2"}, {"en-1", "en-7"})
    with pytest.raises(UserError, match="zh.gold, line 2: the id 'en-7' names no sentence"):
        check_pair_ids(tmp_path / "zh.gold", pairs, {"zh-1", "zh-2"}, {"en-1"})


@pytest.mark.parametrize(
    "kind, values",
    [
        ("label", ["a\tb"]),
        ("label", [""]),
        ("index", [-1]),
        ("index", [0.5]),
        ("tags", [["X"], []]),
        ("pairs", [("a", "b\n")]),
        ("answers", {"a": None}),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path: Path, kind: Any, values: Any) -> None:
    with pytest.raises(ValueError):
        FILE_OF[kind].write(tmp_path / "test-de.tsv", values)
    assert not list(tmp_path.iterdir())


def test_a_task_s_literal_says_which_layout_its_files_have() -> None:
    tasks = [get_task(name) for name in ("bucc2018", "tatoeba", "xcopa", "mlqa")]
    layouts = {task.name: family_of(task).files(task) for task in tasks}
    assert layouts["bucc2018"] is FILES["pairs"] and layouts["tatoeba"] is FILES["nearest"]
    assert layouts["xcopa"] is LABEL_LINES
    assert layouts["mlqa"].name("dev", "zh") == "dev-zh.json"
    with pytest.raises(UserError, match="family 'text'"):
        family_of(get_task("mlm")).files(get_task("mlm"))
