"""Accuracy, and for two classes the F1 of the positive one (QQP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stilts_ds.families.metrics import ACCURACY, Metric, Units, check_same_length, f1_metrics, mean_of_different
from stilts_ds.families.pair import attempts
from stilts_ds.tasks.spec import Task


def metrics(task: Task) -> Mapping[str, Metric]:
    """`accuracy`, `f1` and their mean, `accuracy_f1`: F1 of the last of the task's labels ("1" without labels).

    Of programs that are judged, those of `attempts`.
    """
    if task.predictions == "judgements":
        return attempts.METRICS
    positive = task.labels[-1] if task.labels else "1"  # labels are in index order, so "1" of QQP and PAWS-X

    def count(gold: Sequence[str], predicted: Sequence[str], language: str) -> Units:
        check_same_length(gold, predicted)
        is_gold, is_predicted = [g == positive for g in gold], [p == positive for p in predicted]
        rows = [(g and p, p, g) for g, p in zip(is_gold, is_predicted)]
        return Units.numbered(rows, "correct", "predicted", "gold")

    f1 = f1_metrics(count)["f1"]
    mean = mean_of_different("accuracy_f1", ACCURACY, f1)  # GLUE's score of QQP, by which jiant selects
    return {metric.name: metric for metric in (ACCURACY, f1, mean)}
