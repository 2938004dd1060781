"""A label word a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.files import (
    Expected,
    PredictionFile,
    check_as_many,
    check_count,
    check_labelled,
    file_lines,
    read_word,
    writable,
    write_lines,
)
from stilts_ds.families.pair.record import Pair
from stilts_ds.rows.rows import Rows
from stilts_ds.tasks.spec import Task


def output(logits: np.ndarray) -> np.ndarray:
    """Logits of the item's one token, [C]."""
    return logits[0]


def decode(
    records: Sequence[Pair],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> list[str]:
    """The label with the highest logit."""
    return [labels[int(np.argmax(logits))] for logits in outputs]


def read(path: Path, labels: Iterable[str] = ()) -> list[str]:
    known = frozenset(labels)
    return [read_word(path, number, line, known, "label") for number, line in enumerate(file_lines(path), start=1)]


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[str]:
    return check_labelled(path, read(path, labels))


def write(path: Path, values: Iterable[str]) -> None:
    write_lines(path, [writable(value) for value in values])


def check_expected(path: Path, values: Sequence[str], expected: Expected) -> None:
    check_count(path, len(values), expected.count)


FILE = PredictionFile(".tsv", read, read_labels, write, write, check_as_many, check_expected)


def files(task: Task) -> PredictionFile:
    return FILE
