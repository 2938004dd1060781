"""How much of the gold numbers' variance is explained, and Pearson's and Spearman's correlations, in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from stilts_ds.families.metrics import Floats, Metric, Units, check_same_length, ratio_metric
from stilts_ds.tasks.spec import Task


def count(gold: Sequence[float], predicted: Sequence[float], language: str) -> Units:
    """Columns: `variance`, the squared distance of the gold number from the mean of all, and `explained`, which is that
    less the squared error; and the two numbers themselves."""
    check_same_length(gold, predicted)
    numbers, answers = np.asarray(gold, float), np.asarray(predicted, float)
    variance = (numbers - numbers.mean()) ** 2
    rows = np.stack([variance, variance - (numbers - answers) ** 2, numbers, answers], axis=1)
    return Units.numbered(rows.tolist(), "variance", "explained", "gold", "predicted")


def pearson(gold: Floats, predicted: Floats) -> float:
    """Pearson's r in percent; 0 where one side does not vary."""
    centred_gold, centred_predicted = gold - gold.mean(), predicted - predicted.mean()
    scale = float(np.sqrt((centred_gold**2).sum() * (centred_predicted**2).sum()))
    return 100 * float((centred_gold * centred_predicted).sum()) / scale if scale else 0.0


def ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values have the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _pearson(units: Units) -> float:
    return pearson(units.columns["gold"], units.columns["predicted"])


def _spearman(units: Units) -> float:
    return pearson(ranks(units.columns["gold"]), ranks(units.columns["predicted"]))


R2 = replace(ratio_metric("r2", count, "explained", "variance"), signed=True)
# Correlations are no ratios of sums, so they are reported and never resampled.
PEARSON = Metric("pearson", count, (), (), _pearson, signed=True)
SPEARMAN = Metric("spearman", count, (), (), _spearman, signed=True)


def metrics(task: Task) -> Mapping[str, Metric]:
    """`r2` (the coefficient of determination, below 0 where the mean of all would be a better answer), `pearson` and
    `spearman`."""
    return {metric.name: metric for metric in (R2, PEARSON, SPEARMAN)}
