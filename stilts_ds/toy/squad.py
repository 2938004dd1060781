"""Readings in the SQuAD file format, which SQuAD, XQuAD, MLQA and TyDiQA share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stilts_ds.toy.facts import Reading, passage
from stilts_ds.toy.sources import write_json


def paragraph(reading: Reading, code: str, name: str, with_impossible: bool) -> dict[str, Any]:
    shown = passage(reading, code)
    answers = [] if reading.impossible else [{"text": shown.answer, "answer_start": shown.start}]
    question: dict[str, Any] = {"id": name, "question": shown.question, "answers": answers}
    if with_impossible:
        question["is_impossible"] = reading.impossible
    return {"context": shown.context, "qas": [question]}


def write_squad(
    path: Path, readings: Sequence[Reading], code: str, version: str, with_impossible: bool = False
) -> None:
    """Write one article with a paragraph for each reading; ids are the same in every language, as in XQuAD and MLQA."""
    split = path.stem.split(".")[0]
    prefix = f"{path.parent.name}-{split}" if version in ("1.1", "v2.0") else version
    paragraphs = [paragraph(one, code, f"{prefix}-{index}", with_impossible) for index, one in enumerate(readings)]
    write_json(path, {"version": version, "data": [{"title": "toy", "paragraphs": paragraphs}]})
