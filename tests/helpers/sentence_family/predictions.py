"""Outputs of the model to predictions; their files are those of pairs, a label a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart
from stilts_ds.families.pair.predictions import files
from stilts_ds.rows.rows import Rows

__all__ = ["decode", "files", "output"]


def output(logits: np.ndarray) -> np.ndarray:
    return logits[0]


def decode(
    records: Sequence[Any], rows: Rows, outputs: Sequence[np.ndarray], labels: Sequence[str], part: EvaluationPart
) -> list[str]:
    return [labels[int(np.argmax(logits))] for logits in outputs]
