"""Masked or next tokens, and what a model puts in their place. Only dev measures it: running text is no target task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.errors import UserError
from stilts_ds.families.base import Masking
from stilts_ds.families.files import PredictionFile
from stilts_ds.families.text.rows import targets
from stilts_ds.rows.rows import Rows
from stilts_ds.tasks.spec import Task


def output(logits: np.ndarray) -> np.ndarray:
    """The likeliest token at each place that is read, [m]."""
    return logits.argmax(-1)


def decode(
    records: Sequence[Any], rows: Rows, outputs: Sequence[np.ndarray], labels: Sequence[str], evaluation: EvaluationPart
) -> list[np.ndarray]:
    return list(outputs)


def dev_gold(rows: Rows, masking: Masking) -> list[np.ndarray]:
    """The tokens of each row that `masking` hides."""
    gold = []
    for item in range(len(rows)):
        row = int(rows.items[item])
        # A copy, since masking writes into the ids and the rows are a mapped file.
        ids = rows.input_ids[rows.starts[row] : rows.starts[row + 1]].copy()
        gold.append(targets(rows, item, [0], ids, masking).gold)
    return gold


def next_tokens(rows: Rows, masking: Masking) -> list[np.ndarray]:
    """The tokens of each row that a model predicts from those before them."""
    gold = []
    for row in rows.items[:-1].tolist():
        gold.append(np.asarray(rows.input_ids[rows.starts[row] + 1 : rows.starts[row + 1]]))
    return gold


def files(task: Task) -> PredictionFile:
    raise UserError(f"tasks of family 'text' have no predictions to score: {task.name} is running text")
