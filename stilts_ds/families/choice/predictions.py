"""The index of the right candidate, a line each: a number or, in XTREME-R's layout (XCOPA), `{"label": index}`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.files import (
    INDEX_FILE,
    PredictionFile,
    check_as_many,
    check_expected_indices,
    check_labelled,
    fail,
    file_lines,
    write_lines,
    written_index,
)
from stilts_ds.rows.rows import Rows
from stilts_ds.tasks.spec import Task


def output(logits: np.ndarray) -> np.ndarray:
    """One score for each candidate, [k]."""
    return logits[:, 0]


def decode(
    records: Sequence[Choice],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> list[int]:
    """The candidate with the highest score."""
    return [int(np.argmax(scores)) for scores in outputs]


def read_label_lines(path: Path, labels: Iterable[str] = ()) -> list[int]:
    """`{"label": index}` a line; further keys are passed over, so that XCOPA's own files are label files."""
    indices = []
    for number, line in enumerate(file_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            fail(path, number, f"is not JSON ({error}); write {EXAMPLE}")
        index = row.get("label") if isinstance(row, dict) else None
        # Not isinstance, for which true and false are integers.
        if type(index) is not int or index < 0:
            fail(path, number, f"`label` is {index!r}, which is no index from 0; write {EXAMPLE}")
        indices.append(index)
    return indices


def read_gold_label_lines(path: Path, labels: Iterable[str] = ()) -> list[int]:
    return check_labelled(path, read_label_lines(path))


def write_label_lines(path: Path, values: Iterable[Any]) -> None:
    write_lines(path, [json.dumps({"label": written_index(value)}) for value in values])


EXAMPLE = '{"label": 0} a line'
LABEL_LINES = PredictionFile(
    ".jsonl", read_label_lines, read_gold_label_lines, write_label_lines, write_label_lines, check_as_many,
    check_expected_indices,
)  # fmt: skip


def files(task: Task) -> PredictionFile:
    return LABEL_LINES if task.predictions == "label_lines" else INDEX_FILE
