"""Questions with noise: the question alone, or the passage, too, with its answers untouched and their places moved."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.families.base import Writer
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.noise.clusters import Noised
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.run_dir import write_atomically
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task

Answers = Mapping[str, Sequence[tuple[int, int]]]  # a context -> start and end of every answer that it holds


def noisy(records: Sequence[Span], noise: TextNoise, task: Task) -> list[Span]:
    """No edit reaches into a gold answer. A passage stays one text for all questions about it."""
    answers = _answers_by_context(records) if noise.spec.context else {}
    changed = []
    for record in records:
        question = noise.text(record.question, record.id, "question").text
        noisy_question = dataclasses.replace(record, question=question)
        if noise.spec.context:
            changed.append(_noisy_context(noisy_question, noise, answers))
        else:
            changed.append(noisy_question)
    return changed


def _answers_by_context(records: Sequence[Span]) -> Answers:
    # Of all questions at once: a passage is noised once, and no question's answer may be hit.
    answers: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for record in records:
        answers[record.context] += [(answer.start, answer.start + len(answer.text)) for answer in record.answers]
    return answers


def _noisy_context(record: Span, noise: TextNoise, answers: Answers) -> Span:
    # Keyed by the passage itself, so that all its questions get the same edits.
    context = noise.text(record.context, record.context, "context", answers.get(record.context, ()))
    moved = tuple(_moved(answer, context, record.id) for answer in record.answers)
    return dataclasses.replace(record, context=context.text, answers=moved)


def _moved(answer: Answer, context: Noised, question: str) -> Answer:
    """An answer where it stands in the noisy context. Raises UserError where an edit has changed it."""
    try:
        start = context.moved(answer.start)
    except ValueError:
        start = -1
    if start < 0 or context.text[start : start + len(answer.text)] != answer.text:
        raise UserError(f"question {question}: noise would cut the gold answer {answer.text[:60]!r}; protect its place")
    return Answer(answer.text, start)


def write_squad(split_file: Part, records: Sequence[Span]) -> None:
    """SQuAD's JSON: a paragraph for each run of questions about one context."""
    paragraphs: list[dict[str, Any]] = []
    for record in records:
        if not paragraphs or paragraphs[-1]["context"] != record.context:
            paragraphs.append({"context": record.context, "qas": []})
        paragraphs[-1]["qas"].append(_question_row(record))
    content = {"version": "1.1", "data": [{"title": split_file.path.stem, "paragraphs": paragraphs}]}
    write_atomically(split_file.path, json.dumps(content, ensure_ascii=False) + "\n")


def _question_row(record: Span) -> dict[str, Any]:
    answers = [{"text": answer.text, "answer_start": answer.start} for answer in record.answers]
    row: dict[str, Any] = {"id": record.id, "question": record.question, "answers": answers}
    return row | {"is_impossible": True} if record.impossible else row  # as in SQuAD 1.1, which has no such key


WRITERS: dict[str, Writer] = {"squad_json": write_squad}
