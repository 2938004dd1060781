"""Metrics as values: every score is a ratio of sums over units that can be drawn again.

A unit is what is judged at once: a pair, a question, a sentence with its tags, a source sentence with its mined pairs.
A metric counts columns over units (right answers, predicted chunks, ...) and says which columns are summed above and
below the line. So a score, its bootstrap and the check of one against the other come from one definition.

Legend: N units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stilts_ds.errors import counted

Floats = NDArray[np.float64]
Sums = Mapping[str, float]


@dataclass(frozen=True)
class Units:
    """The units of one prediction file by name, and what was counted over them: columns [N] by name."""

    names: tuple[str, ...]
    columns: Mapping[str, Floats]

    @classmethod
    def of(cls, names: Iterable[str], rows: Sequence[Sequence[float]], *columns: str) -> Units:
        """Units from one row of counts for each name."""
        table = np.asarray(rows, dtype=np.float64).reshape(-1, len(columns))
        return cls(tuple(names), {column: table[:, i] for i, column in enumerate(columns)})

    @classmethod
    def numbered(cls, rows: Sequence[Sequence[float]], *columns: str) -> Units:
        """Units named by their place in the file, from 0."""
        return cls.of((str(number) for number in range(len(rows))), rows, *columns)

    def sum(self, column: str) -> float:
        # Python's own sum, one value after the other: numpy adds pairwise and rounds otherwise.
        return sum(self.columns[column].tolist())

    def total(self, columns: Iterable[str]) -> Floats:
        """The sum of several columns, [N]."""
        return np.sum([self.columns[column] for column in columns], axis=0)


Count = Callable[[Sequence[Any], Any, str], Units]  # gold values, predictions, language


def share(above: float, below: float) -> float:
    """above / below in percent, 0 where nothing is below."""
    return above / below * 100 if below else 0.0


def percent(above: float, below: float) -> float:
    """The same, multiplied first: the last digit of published files depends on the order."""
    return 100.0 * above / below if below else 0.0


def harmonic_f1(correct: float, predicted: float, gold: float) -> float:
    """F1 from precision and recall, in percent; 0 when nothing is right."""
    # Also where nothing is predicted or gold, which precision and recall could not be divided by.
    if not correct:
        return 0.0
    # By way of precision and recall, as seqeval and XTREME's scripts do: 2c / (p + g) rounds otherwise.
    precision, recall = correct / predicted, correct / gold
    return 2 * precision * recall / (precision + recall) * 100


@dataclass(frozen=True)
class Metric:
    """One score of one file, in percent.

    `count(gold, predicted, language)` gives the units; it raises ValueError where the two do not belong together.
    The score is 100 * sum(above) / sum(below) over the named columns; a column named twice counts twice. `formula`
    computes it from the columns' sums, in the order of operations that the benchmark's own scorer has. A metric with
    `parts` is their mean. Where they do not share the columns below the line, `above` and `below` are empty: such a
    metric selects models, and is not resampled. A `diagnostic` one says how a model answers and not how well: right
    predictions need not give 100, and nothing is selected by it. A `signed` one may be below 0. An `optional` one is
    left out where nothing is below the line: it was not measured.
    """

    name: str
    count: Count
    above: tuple[str, ...]
    below: tuple[str, ...]
    formula: Callable[[Units], float]
    parts: tuple[str, ...] = ()
    diagnostic: bool = False
    signed: bool = False
    optional: bool = False

    def score(self, units: Units) -> float:
        return self.formula(units)

    def ratio(self, units: Units) -> tuple[Floats, Floats]:
        """Numerators and denominators of the units, [N] each: 100 * sum / sum is the score, up to rounding.

        Raises ValueError for a mean of metrics with different denominators, which is no such ratio.
        """
        if not self.below:
            raise ValueError(f"{self.name} is no ratio of sums: its parts have different denominators")
        return units.total(self.above), units.total(self.below)

    def of_scores(self, scores: Sums) -> float:
        """This metric's value from scores (or averages of scores) by name."""
        if not self.parts:
            return scores[self.name]
        return sum(scores[name] for name in self.parts) / len(self.parts)


def ratio_metric(
    name: str,
    count: Count,
    above: str,
    below: str,
    scale: Callable[[float, float], float] = share,
    diagnostic: bool = False,
    optional: bool = False,
) -> Metric:
    """A share of one column in another, such as accuracy."""

    def score(units: Units) -> float:
        return scale(units.sum(above), units.sum(below))

    return Metric(name, count, (above,), (below,), score, diagnostic=diagnostic, optional=optional)


def f1_metrics(count: Count) -> dict[str, Metric]:
    """`f1`, `precision` and `recall` of a count with the columns correct, predicted and gold.

    F1 is 2 * correct / (predicted + gold).
    """
    # "correct" twice above the line is the 2 of 2 * correct.
    f1 = Metric(
        "f1", count, ("correct", "correct"), ("predicted", "gold"),
        lambda units: harmonic_f1(units.sum("correct"), units.sum("predicted"), units.sum("gold")),
    )  # fmt: skip
    precision = ratio_metric("precision", count, "correct", "predicted")
    recall = ratio_metric("recall", count, "correct", "gold")
    return {metric.name: metric for metric in (f1, precision, recall)}


def mean_metric(name: str, *parts: Metric) -> Metric:
    """The mean of metrics that count the same units and share the columns below the line."""
    # All columns summed, since those below are the same: (a / n + b / n) / 2 is (a + b) / (n + n).
    first = parts[0]
    above = tuple(column for metric in parts for column in metric.above)
    below = tuple(column for metric in parts for column in metric.below)
    return Metric(
        name, first.count, above, below,
        lambda units: sum(metric.score(units) for metric in parts) / len(parts),
        tuple(metric.name for metric in parts),
    )  # fmt: skip


def mean_of_different(name: str, *parts: Metric) -> Metric:
    """The mean of metrics that count the same units by different columns, such as accuracy and F1."""

    def count(gold: Sequence[Any], predicted: Any, language: str) -> Units:
        counted = [metric.count(gold, predicted, language) for metric in parts]
        # Columns of one name hold the same counts, or the metrics would not count the same units.
        columns = {column: values for units in counted for column, values in units.columns.items()}
        return Units(counted[0].names, columns)

    return Metric(
        name, count, (), (),
        lambda units: sum(metric.score(units) for metric in parts) / len(parts),
        tuple(metric.name for metric in parts),
    )  # fmt: skip


def check_same_length(gold: Sequence[object], predicted: Sequence[object]) -> None:
    """Raise ValueError for unequal lengths or no values at all."""
    if len(gold) != len(predicted):
        raise ValueError(f"{counted(len(gold), 'gold value')} but {counted(len(predicted), 'prediction')}")
    # Two empty lists agree and say nothing: the score would be 0 or a division by it.
    if not gold:
        raise ValueError("no gold values to score against")


def count_equal(gold: Sequence[Any], predicted: Sequence[Any], language: str) -> Units:
    """Columns right (0 or 1) and items (1) of single values."""
    check_same_length(gold, predicted)
    return Units.numbered([(float(g == p), 1.0) for g, p in zip(gold, predicted)], "right", "items")


ACCURACY = ratio_metric("accuracy", count_equal, "right", "items")


def scores_of(metrics: Iterable[Metric], gold: Sequence[Any], predicted: Any, language: str) -> dict[str, float]:
    """Every metric's score of one file, by name, but for optional ones that were not measured; metrics that share a
    count read the files' units once."""
    counted: dict[Count, Units] = {}
    scores = {}
    for metric in metrics:
        if metric.count not in counted:
            counted[metric.count] = metric.count(gold, predicted, language)
        units = counted[metric.count]
        if metric.optional and not units.total(metric.below).any():
            continue
        scores[metric.name] = metric.score(units)
    return scores
