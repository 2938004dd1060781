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
    # Only SQuAD 2.0's files have the field.
    if with_impossible:
        question["is_impossible"] = reading.impossible
    return {"context": shown.context, "qas": [question]}


def sentence_breaks(context: str) -> list[list[int]]:
    """[start, end) of each sentence, as XQuAD-R's files give them: every one ends with a full stop and a space."""
    breaks, start = [], 0
    while start < len(context):
        stop = context.find(". ", start)
        end = len(context) if stop < 0 else stop + 1
        breaks.append([start, end])
        start = end + 1
    return breaks


def write_xquad_r(path: Path, readings: Sequence[Reading], code: str) -> None:
    """SQuAD's format with sentence breaks; ids are the same in every language."""
    paragraphs = [paragraph(reading, code, f"lareqa-{index}", False) for index, reading in enumerate(readings)]
    for row in paragraphs:
        row["sentence_breaks"] = sentence_breaks(row["context"])
    write_json(path, {"data": [{"paragraphs": paragraphs}]})


def write_squad(
    path: Path, readings: Sequence[Reading], code: str, version: str, with_impossible: bool = False
) -> None:
    """Write one article with a paragraph for each reading; ids are the same in every language, as in XQuAD and MLQA."""
    split = path.stem.split(".")[0]
    # SQuAD's version is no name: train and dev, 1.1 and 2.0 would have the same ids.
    prefix = f"{path.parent.name}-{split}" if version in ("1.1", "v2.0") else version
    paragraphs = [
        paragraph(reading, code, f"{prefix}-{index}", with_impossible) for index, reading in enumerate(readings)
    ]
    write_json(path, {"version": version, "data": [{"title": "toy", "paragraphs": paragraphs}]})
