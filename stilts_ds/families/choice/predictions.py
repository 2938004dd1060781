"""The index of the right candidate, a line each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.files import INDEX_FILE, PredictionFile
from stilts_ds.rows.rows import Rows
from stilts_ds.tasks.spec import Task


def output(logits: np.ndarray) -> np.ndarray:
    """One score for each candidate, [k]."""
    return logits[:, 0]


def decode(
    records: Sequence[Choice], rows: Rows, outputs: Sequence[np.ndarray], labels: Sequence[str], part: EvaluationPart
) -> list[int]:
    """The candidate with the highest score."""
    return [int(np.argmax(scores)) for scores in outputs]


def files(task: Task) -> PredictionFile:
    return INDEX_FILE
