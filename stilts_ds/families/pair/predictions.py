"""A label word a line; for programs that are judged, what `attempts` says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.files import (
    PredictionFile,
    check_as_many,
    check_expected_count,
    check_labelled,
    file_lines,
    read_word,
    writable,
    write_lines,
)
from stilts_ds.families.pair import attempts
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
) -> list[str] | list[attempts.Judgement]:
    """The label with the highest logit."""
    if isinstance(records[0], attempts.Attempt):
        return attempts.judge(outputs, labels)
    return [labels[int(np.argmax(logits))] for logits in outputs]


def read(path: Path, labels: Iterable[str] = ()) -> list[str]:
    known = frozenset(labels)
    return [read_word(path, number, line, known, "label") for number, line in enumerate(file_lines(path), start=1)]


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[str]:
    return check_labelled(path, read(path, labels))


def write(path: Path, values: Iterable[str]) -> None:
    write_lines(path, [writable(value) for value in values])


FILE = PredictionFile(".tsv", read, read_labels, write, write, check_as_many, check_expected_count)


FILES = {"": FILE, "judgements": attempts.FILE}


def files(task: Task) -> PredictionFile:
    return FILES[task.predictions]
