"""F1 of a set of mined pairs (BUCC), accuracy of nearest neighbours (Tatoeba)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from stilts_ds.families.metrics import ACCURACY, Metric, Units, f1_metrics
from stilts_ds.tasks.spec import Task

Pair = tuple[str, str]


def count_pairs(gold: Sequence[Pair], predicted: Sequence[Pair], language: str) -> Units:
    """Pairs by the source sentence that they stand on: columns correct, predicted and gold.

    Sentences in no pair count for nothing in F1, so they are no units.
    """
    # As tuples: a pair that was read from JSON is a list, which no set takes.
    gold_pairs, predicted_pairs = {tuple(pair) for pair in gold}, {tuple(pair) for pair in predicted}
    correct = Counter(source for source, _ in gold_pairs & predicted_pairs)
    mined = Counter(source for source, _ in predicted_pairs)
    wanted = Counter(source for source, _ in gold_pairs)
    names = sorted({*mined, *wanted})
    rows = [(correct[name], mined[name], wanted[name]) for name in names]
    return Units.of(names, rows, "correct", "predicted", "gold")


METRICS = {**f1_metrics(count_pairs), "accuracy": ACCURACY}


def metrics(task: Task) -> Mapping[str, Metric]:
    return METRICS
