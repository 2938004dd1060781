"""A number a line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.files import (
    PredictionFile,
    check_as_many,
    check_expected_count,
    check_labelled,
    fail,
    file_lines,
    write_lines,
)
from stilts_ds.families.regression.record import Rated
from stilts_ds.rows.rows import Rows
from stilts_ds.tasks.spec import Task


def output(logits: np.ndarray) -> np.ndarray:
    """The one number of the item, [1]."""
    return logits[0]


def decode(
    records: Sequence[Rated],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> list[float]:
    """The head's number itself."""
    return [float(number[0]) for number in outputs]


def read(path: Path, labels: Iterable[str] = ()) -> list[float]:
    return [_number(path, line, text) for line, text in enumerate(file_lines(path), start=1)]


def _number(path: Path, line: int, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        fail(path, line, f"{text[:60]!r} is no number; write one number a line, such as 3.25")
    if not math.isfinite(number):
        fail(path, line, f"{text!r} is no finite number; predict again")
    return number


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[float]:
    return check_labelled(path, read(path, labels))


def write(path: Path, values: Iterable[float]) -> None:
    """Raises ValueError for a number that is not finite."""
    lines = []
    for value in values:
        if not math.isfinite(value):
            raise ValueError(f"{value} is no finite number")
        lines.append(repr(float(value)))  # the shortest text that reads back as the same number
    write_lines(path, lines)


FILE = PredictionFile(".tsv", read, read_labels, write, write, check_as_many, check_expected_count)


def files(task: Task) -> PredictionFile:
    return FILE
