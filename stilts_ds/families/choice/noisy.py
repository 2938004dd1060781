"""Choices with noise in the premise and in all candidates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from stilts_ds.families.base import Writer
from stilts_ds.families.choice.record import COPA_QUESTIONS, Choice
from stilts_ds.families.files import write_lines
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Choice], noise: TextNoise, task: Task) -> list[Choice]:
    """Prompt and choices get noise; COPA's question, which this project adds to the premise, stays."""
    changed = []
    for record in records:
        end = len(record.prompt)
        question_start = end - len(_question(record.prompt))
        protected = [(question_start, end)] if question_start < end else []
        prompt = noise.text(record.prompt, record.id, "prompt", protected)
        choices = (noise.text(text, record.id, f"choice {n}").text for n, text in enumerate(record.choices))
        changed.append(dataclasses.replace(record, prompt=prompt.text, choices=tuple(choices)))
    return changed


def _question(prompt: str) -> str:
    """COPA's question at the end of a prompt, with the space before it; empty where there is none."""
    endings = (f" {question}" for question in COPA_QUESTIONS.values())
    return next((ending for ending in endings if prompt.endswith(ending)), "")


def write_copa(split_file: Part, records: Sequence[Choice]) -> None:
    """XCOPA's JSON lines."""
    write_lines(split_file.path, [json.dumps(_copa_row(record), ensure_ascii=False) for record in records])


def _copa_row(record: Choice) -> dict[str, Any]:
    # The file has the question's kind in a column of its own, so the words are taken off the prompt again.
    ending = _question(record.prompt)
    kinds = {f" {question}": kind for kind, question in COPA_QUESTIONS.items()}
    row: dict[str, Any] = {"premise": record.prompt.removesuffix(ending)}
    row |= {f"choice{number}": text for number, text in enumerate(record.choices, start=1)}
    number = int(record.id) if record.id.isdecimal() else record.id  # XCOPA numbers its rows
    row |= {"question": kinds[ending], "idx": number}
    return row if record.label is None else row | {"label": record.label}


WRITERS: dict[str, Writer] = {"copa_jsonl": write_copa}
