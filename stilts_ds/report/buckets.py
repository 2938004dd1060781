"""Scores by what an example is like: four buckets of equal counts for each attribute, each with an interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stilts_ds.data.data import fitted_task
from stilts_ds.display import number
from stilts_ds.evaluate.attributes import Attributes, read_attributes
from stilts_ds.families.metrics import Units
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.report.compare import Counts, read_counts, table_of
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats, generator, ratio_replicates
from stilts_ds.report.table import Sheet
from stilts_ds.tasks.spec import Task

BUCKETS = 4
RESAMPLES = 1000  # of an interval that is read, and not tested
ABOUT = (
    "Buckets hold equal numbers of a language's examples, from the lowest values to the highest; scores are means over "
    "the languages and seeds, with the middle {share:.0%} of resamples of the examples. Nothing is tested here."
)


@dataclass(frozen=True)
class Bucket:
    """The examples [n] of one bucket, and the values from which to which it goes."""

    items: NDArray[np.intp]
    low: float
    high: float


def buckets_of(values: Sequence[float], number: int = BUCKETS) -> list[Bucket]:
    """Buckets of equal counts (sizes differ by at most one), from low to high; equal values by place. Of an attribute
    with two values, such as whether an example was seen in training, a bucket for each.

    [] where there is nothing to tell apart: one value, or fewer examples than buckets.
    """
    if len(values) < number or min(values) == max(values):
        return []
    # Stable: equal values stay in the order of the file, so the same run has the same buckets.
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable")
    if len(set(values)) == 2:
        # Two values are two kinds of examples: cutting a kind in halves would compare it with itself.
        second = sum(value == min(values) for value in values)
        return [Bucket(items, values[items[0]], values[items[-1]]) for items in (order[:second], order[second:])]
    return [Bucket(items, values[items[0]], values[items[-1]]) for items in np.array_split(order, number)]


def bucket_sheets(data: RunData, settings: ComparisonSettings) -> list[Sheet]:
    """A sheet for each target whose examples' attributes are known."""
    sheets = (_sheet(data, fitted_task(name, data.recipe), settings) for name in data.targets)
    return [sheet for sheet in sheets if sheet.rows]


def _sheet(data: RunData, task: Task, settings: ComparisonSettings) -> Sheet:
    conditions = [c for c in data.conditions if data.results.get(c, {}).get(task.name)]
    shared = [code for code in task.languages if conditions and _scored_by_all(data, task, conditions, code)]
    counts = read_counts(data, task, shared) if shared else None
    rows = [] if counts is None else list(_rows(data, task, counts, shared, conditions, settings))
    about = ABOUT.format(share=1 - settings.level)
    return Sheet(f"{task.name} by kind of example", ("attribute", "from", "to", *conditions), tuple(rows), (about,))


def _scored_by_all(data: RunData, task: Task, conditions: Sequence[str], code: str) -> bool:
    return all(code in run.main for condition in conditions for run in data.results[condition][task.name])


def _rows(
    data: RunData,
    task: Task,
    counts: Counts,
    languages: Sequence[str],
    conditions: Sequence[str],
    settings: ComparisonSettings,
) -> Iterator[tuple[str, ...]]:
    known = {code: _attributes(data, task, code, len(counts.names(code))) for code in languages}
    for name in dict.fromkeys(name for attributes in known.values() for name in attributes):
        by_language = {code: buckets_of(known[code].get(name, ())) for code in languages}
        bucketed = {code: buckets for code, buckets in by_language.items() if buckets}
        count = max(map(len, bucketed.values()), default=0)
        for place in range(count):
            # A language with fewer buckets is left out: its second of two is not the second of four.
            by_code = {code: buckets[place] for code, buckets in bucketed.items() if len(buckets) == count}
            cells = [_cell(task, counts, by_code, condition, settings) for condition in conditions]
            low, high = (min(p.low for p in by_code.values()), max(p.high for p in by_code.values()))
            yield (f"{name}, {place + 1} of {count}", f"{low:.4g}", f"{high:.4g}", *cells)


def _attributes(data: RunData, task: Task, code: str, examples: int) -> Attributes:
    split = next(run.split for runs in data.results.values() for run in runs.get(task.name, []))
    return read_attributes(data.run.labels / task.name / family_of(task).files(task).name(split, code), examples)


def _cell(task: Task, counts: Counts, by_code: dict[str, Bucket], condition: str, settings: ComparisonSettings) -> str:
    """`61.2 [58.0, 64.1]`: the mean over languages and seeds of the scores in one bucket."""
    means = [bucket_scores(task, counts.units[code][condition], bucket, code) for code, bucket in by_code.items()]
    mean = np.mean(means, axis=0)
    low, high = np.quantile(mean[1:], [settings.level / 2, 1 - settings.level / 2])
    return f"{number(mean[0])} [{number(low)}, {number(high)}]"


def bucket_scores(task: Task, units: Sequence[Units], bucket: Bucket, code: str) -> Floats:
    """Scores of one bucket, observed and resampled, [1 + R]: the mean over seeds."""
    above, below = table_of(units, main_metric(task))
    # By task and language only: all conditions see the same draws of a bucket.
    rng = generator("buckets", task.name, code)
    drawn = ratio_replicates(above[bucket.items], below[bucket.items], RESAMPLES, rng)
    return np.asarray(drawn.mean(axis=1))
