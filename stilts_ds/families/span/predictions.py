"""JSON `{question id: answer text}`; labels are SQuAD's JSON.

What a head says of a window is (start logits [L], end logits [L]). The rank that has them makes the window's best span
of them (`condense`), and rank 0 joins those of a question's windows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.files import (
    Expected,
    PredictionFile,
    check_ids,
    check_labelled,
    fail,
    line_of,
    load_json,
    read_text,
)
from stilts_ds.families.span.decode import Decoded, best_null_threshold, best_span, join_windows
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.retired import RETIRED
from stilts_ds.rows.rows import Rows, rows_by_example
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.spec import Task

Logits = tuple[np.ndarray, np.ndarray]


# --- decoding --------------------------------------------------------------------------------------------------------


def output(logits: np.ndarray) -> Logits:
    return logits[:, 0], logits[:, 1]


def contexts(records: Sequence[Span], rows: Rows, windows: Sequence[int]) -> list[str]:
    """The context of each of these windows."""
    return [records[rows.example[window]].context for window in windows]


def condense(context: str, rows: Rows, window: int, logits: Logits, evaluation: EvaluationPart) -> np.ndarray:
    """A window's score of "no answer" and its best span (`best_span`): [2, 3], or [1, 3] without text."""
    assert rows.place is not None
    offsets = rows.place[rows.starts[window] : rows.starts[window + 1]]
    return best_span(context, (*logits, offsets), evaluation.max_answer_length, window)


def decode(
    records: Sequence[Span],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> dict[str, str]:
    """The answer of every question by its id, from what its windows say best."""
    decoded = decode_questions(records, rows, outputs, evaluation)
    return {id: question.answer for id, question in decoded.items()}


def decode_questions(
    records: Sequence[Span], rows: Rows, outputs: Sequence[np.ndarray], evaluation: EvaluationPart
) -> dict[str, Decoded]:
    """The decoded answer of every question, with the score of "no answer"."""
    windows = rows_by_example(rows)
    decoded = {}
    for number, record in enumerate(records):
        spans = [outputs[window] for window in windows[number]]
        decoded[record.id] = join_windows(record.context, spans, evaluation.null_threshold)
    return decoded


def tune(
    records: Sequence[Span], rows: Rows, outputs: Sequence[np.ndarray], evaluation: EvaluationPart
) -> EvaluationPart:
    """With questions that have no answer (SQuAD 2.0) the threshold for "no answer" is the one that suits these examples
    best, as in the official scorer."""
    if not any(record.impossible for record in records):
        return evaluation
    # A copy: the recipe's own setting stays what its author wrote.
    threshold, _ = best_null_threshold(records, decode_questions(records, rows, outputs, evaluation))
    return evaluation.model_copy(update={"null_threshold": threshold})


# --- files -----------------------------------------------------------------------------------------------------------


def settings(evaluation: EvaluationPart) -> dict[str, Any]:
    """How answers are read off a model's logits."""
    return {
        "max_answer_length": evaluation.max_answer_length,
        "null_threshold": evaluation.null_threshold,
    }


def selection_settings(evaluation: EvaluationPart) -> dict[str, Any]:
    """The same, as names of phases hold them."""
    return RETIRED | settings(evaluation)


def read(path: Path, labels: Iterable[str] = ()) -> dict[str, str]:
    text = read_text(path)
    answers = load_json(path, text)
    if not isinstance(answers, dict):
        fail(path, 1, "is not a JSON object; write {question id: answer text}")
    for key, value in answers.items():
        if not isinstance(value, str):
            fail(path, line_of(text, key, 1), f"the answer of {key!r} is {value!r}; write a text")
    return answers


def _spans(path: Path) -> list[Span]:
    text = read_text(path)
    try:
        # Read without the checks of records: answers need not stand in their context (MultiCheckList).
        articles = load_json(path, text)["data"]
        spans = [_span(p["context"], q) for a in articles for p in a["paragraphs"] for q in p["qas"]]
    except (KeyError, TypeError, AttributeError) as error:
        fail(path, 1, f"is not in SQuAD's JSON schema ({error!r}); write data > paragraphs > qas > answers")
    seen: set[str] = set()
    for span in spans:
        if span.id in seen:
            fail(path, line_of(text, span.id, 2), f"repeats the question id {span.id!r}; write each question once")
        seen.add(span.id)
        if not span.impossible and not any(a.text for a in span.answers):
            fail(path, line_of(text, span.id, 1), f"question {span.id!r} has no gold answer; give a labelled file")
    return spans


def _span(context: str, question: Mapping[str, Any]) -> Span:
    answers = tuple(Answer(_of(str, a["text"]), _of(int, a["answer_start"])) for a in question["answers"])
    impossible = _of(bool, question.get("is_impossible", False))
    # Ids may be numbers in JSON; predictions are filed under texts.
    id, asked = str(_of((str, int), question["id"])), _of(str, question["question"])
    # What an impossible question lists (SQuAD 2.0's plausible answers) is no answer.
    return Span(id, asked, _of(str, context), () if impossible else answers, impossible)


def _of(kind: Any, value: Any) -> Any:
    """The value itself. Raises TypeError where it is of another kind: `null` must not become the answer "None"."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{str(value)[:60]!r}")
    return value


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[Span]:
    return check_labelled(path, _spans(path))


def shared_texts(task: Task, labels: Path, gold: Sequence[Span]) -> list[str]:
    """The paragraph of each question, which label files hold."""
    return [getattr(question, task.shared_text) for question in gold]


def write(path: Path, values: Mapping[str, str]) -> None:
    if not all(isinstance(text, str) for text in values.values()):
        raise ValueError("an answer is not a text")
    write_atomically(path, json.dumps(dict(values), ensure_ascii=False, indent=1) + "\n")


def write_labels(path: Path, values: Iterable[Span]) -> None:
    write_atomically(path, json.dumps(_squad_json(values), ensure_ascii=False, indent=1) + "\n")


def _squad_json(spans: Iterable[Span]) -> dict[str, Any]:
    # Runs, not groups: questions keep their order, and a context that comes again is written again.
    paragraphs = [
        {"context": context, "qas": [_question_json(span) for span in group]}
        for context, group in groupby(spans, key=lambda span: span.context)
    ]
    return {"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}


def _question_json(span: Span) -> dict[str, Any]:
    answers = [{"text": a.text, "answer_start": a.start} for a in span.answers]
    question: dict[str, Any] = {"id": span.id, "question": span.question, "answers": answers}
    return question | ({"is_impossible": True} if span.impossible else {})


def check(path: Path, predicted: Mapping[str, str], gold: Iterable[Span]) -> None:
    check_ids(path, predicted, {span.id for span in gold})


def expect(records: Sequence[Span]) -> Expected:
    return Expected(len(records), ids=frozenset(record.id for record in records))


def check_expected(path: Path, values: Mapping[str, str], expected: Expected) -> None:
    check_ids(path, values, expected.ids)


def right(question: Span) -> list[str]:
    """The texts that answer a question; none answers an impossible one."""
    return [answer.text for answer in question.answers]


FILE = PredictionFile(".json", read, read_labels, write, write_labels, check, check_expected, expect, right=right)


def files(task: Task) -> PredictionFile:
    return FILE
