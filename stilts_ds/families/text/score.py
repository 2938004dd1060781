"""Percent of masked tokens that are filled in right, or of next tokens that are foreseen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from stilts_ds.families.metrics import Metric, Units, check_same_length, percent, ratio_metric
from stilts_ds.tasks.spec import Task


def count_tokens(gold: Sequence[np.ndarray], predicted: Sequence[np.ndarray], language: str) -> Units:
    """Masked or next tokens of each row: columns right and tokens."""
    check_same_length(gold, predicted)
    rows = [(int((g == p).sum()), len(g)) for g, p in zip(gold, predicted)]
    return Units.numbered(rows, "right", "tokens")


MASKED_ACCURACY = ratio_metric("masked_accuracy", count_tokens, "right", "tokens", percent)

NEXT_ACCURACY = ratio_metric("next_token_accuracy", count_tokens, "right", "tokens", percent)


# Both at once: which of them a task names depends on the model, and is not known here (`left_task`).
def metrics(task: Task) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in (MASKED_ACCURACY, NEXT_ACCURACY)}


def left_task(task: Task) -> Task:
    """Nothing is masked where a model reads from left to right."""
    return dataclasses.replace(task, metrics=(NEXT_ACCURACY.name,), main_score=NEXT_ACCURACY.name)
