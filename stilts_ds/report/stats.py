"""The statistics of a study: pure functions of arrays, numpy alone. What they mean is told in docs/report.md.

Every score here is a ratio of sums over examples, `100 * sum(numerators) / sum(denominators)`: accuracy is right / 1,
F1 is 2 * correct / (predicted + gold), question answering (EM + F1) / 2 / 1. So one resampling serves all metrics.

Legend: N items that are drawn (examples, or clusters of them), L languages, S seeds, R resamples. An array of
*replicates* has 1 + R rows: row 0 is the observed sample, the others are resamples of it. After the seeds are
summarised it has 2 + R: the median over seeds, which is printed; the mean over seeds, which is tested; and resamples of
the mean. Any function of scores (a mean over languages, a gap, a difference) that works along the last axis therefore
gives the printed value, the tested value and its distribution at once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOOTSTRAP_SEED = 20200526  # of every draw; the same run gives the same report
CELLS_AT_A_TIME = 4_000_000  # resampled examples held at once: 32 MB
FEWEST_RESAMPLES = 10_000  # of a report that names no number
# Where the smallest p-value is this many times smaller than the correction asks of the first comparison, a comparison
# with a few resamples on the far side of 0 can still come first.
HEADROOM = 5
# The part of the examples' noise that is taken off the spread between seeds. The spread holds all of it, and the drawn
# examples bring it a second time. Taking off all would be right on average, but a spread of two or three seeds is
# itself uncertain: simulated, false positives then reach 6 to 9 %. With half they stay near the level (docs/report.md).
NOISE_TAKEN_OFF = 0.5


@dataclass(frozen=True)
class ComparisonSettings:
    """How differences are tested. `resamples` bounds the smallest p-value, 2 / (resamples + 1).

    0 resamples stand for as many as the study's comparisons need (`enough_resamples`).
    """

    resamples: int = 0
    level: float = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference in points with its percentile interval. Nothing but values is known where nothing was tested.

    `value` is the difference of means over seeds: interval and p-value are of it. `of_medians` is the same difference
    of the medians over seeds (None: no seeds to summarise). `adjusted` is `p` corrected for the other comparisons of
    its table, `significant` whether it is below the level.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    significant: bool | None = None
    of_medians: float | None = None


def fewest_resamples(comparisons: int, level: float) -> int:
    """The fewest resamples with which Holm's first of so many comparisons can pass: the smallest p-value,
    2 / (resamples + 1), times the comparisons is then below the level."""
    return math.floor(2 * comparisons / level + 1e-9)  # 2 * 3 / 0.05 is 120.00000000000001


def enough_resamples(comparisons: int, level: float) -> int:
    """`HEADROOM` times the fewest, rounded up to whole ten thousands: 10,000 up to 50 comparisons at 5 %, 50,000 for
    211."""
    wanted = HEADROOM * fewest_resamples(comparisons, level)
    return max(FEWEST_RESAMPLES, math.ceil(wanted / 10_000) * 10_000)


def generator(*names: object) -> np.random.Generator:
    """A random generator that depends on `names` only, so that one task's draws do not change with another's."""
    return np.random.default_rng([BOOTSTRAP_SEED, *(zlib.crc32(str(name).encode()) for name in names)])


# --- resampling ------------------------------------------------------------------------------------------------------


def weights(items: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """How often each of N items is drawn, [chunk, N] at a time; the first row is the observed sample (all ones)."""
    yield np.ones((1, items))
    chunk = max(1, CELLS_AT_A_TIME // items)
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(0, items, size=(rows, items)) + np.arange(rows)[:, None] * items
        yield np.bincount(drawn.ravel(), minlength=rows * items).reshape(rows, items).astype(np.float64)


def ratio_replicates(numerators: Floats, denominators: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Scores in percent of K columns of counts [N, K] under the same draws of the N items: [1 + R, K].

    Columns are whatever shares items: conditions and seeds (paired), and languages of a translated test set. A column
    whose denominators sum to 0 scores 0, as F1 does when nothing is predicted and nothing is there.
    """
    counts = np.concatenate([numerators, denominators], axis=1)
    sums = np.concatenate([drawn @ counts for drawn in weights(len(counts), resamples, rng)])
    numerator_sums, denominator_sums = np.split(sums, 2, axis=1)
    return np.divide(
        100.0 * numerator_sums, denominator_sums, out=np.zeros_like(numerator_sums), where=denominator_sums > 0
    )


def cluster_sums(counts: Floats, cluster: NDArray[np.intp]) -> Floats:
    """Counts [N, K] summed over the items of each cluster [G, K], in the order of cluster numbers 0 .. G - 1.

    Every score is a ratio of sums over items, so a cluster that is drawn whole is one item with the sums of its own.
    """
    order = np.argsort(cluster, kind="stable")
    first = np.flatnonzero(np.diff(cluster[order], prepend=-1))
    return np.add.reduceat(counts[order], first, axis=0)


# --- seeds -----------------------------------------------------------------------------------------------------------


def over_seeds(scores: Mapping[str, Floats], seeds: Mapping[str, Sequence[int]], baseline: str) -> dict[str, Floats]:
    """Seeds summarised: condition -> [1 + R, S, L] gives condition -> [2 + R, L] (median, mean, resamples of the mean).

    A resample of the mean is the mean over all seeds under the drawn examples, moved by what other seeds might have
    given. For one language that move is the standard error of a mean over seeds times Student's t, so a difference
    between two conditions with S seeds each is judged as in a t-test with 2 (S - 1) degrees of freedom, and the
    examples' noise is added. Drawing S seeds with replacement instead makes a mean of two or three seeds look more
    certain than it is. One seed shows no spread and is not moved.

    `seeds` are the seeds of each condition. A seed's weights are the same for all tasks, because they share its
    encoder: so means over tasks keep what goes wrong together.
    """
    freedom = _degrees_of_freedom({c: len(numbers) for c, numbers in seeds.items()}, baseline)
    summarised = {}
    for condition, values in scores.items():
        weights = _seed_weights(condition, seeds[condition], len(values) - 1, freedom)
        summarised[condition] = _over_seeds(values, weights)
    return summarised


def _degrees_of_freedom(seeds: Mapping[str, int], baseline: str) -> int:
    """The fewest of any comparison with the baseline that has seeds to compare; 0 where none has."""
    of_baseline = seeds.get(baseline, 1) - 1
    degrees = [number - 1 + of_baseline for condition, number in seeds.items() if condition != baseline]
    return min((number for number in degrees if number), default=of_baseline)


def _over_seeds(scores: Floats, weights: Floats) -> Floats:
    """One condition's seeds summarised; weights [R, S]."""
    observed, drawn = scores[0], scores[1:]
    median, mean = np.median(observed, axis=0), observed.mean(axis=0)
    from_mean = (observed - mean) * _seeds_own_share(scores)
    return np.concatenate([median[None], mean[None], drawn.mean(axis=1) + weights @ from_mean])


def _seeds_own_share(scores: Floats) -> float:
    """By how much the seeds' distances from their mean shrink for the noise of the examples: a factor from 0 to 1.

    Scores are [1 + R, S, L]. It is taken from the mean over languages and used for each: a language's own noise is
    larger, so this is careful.
    """
    by_seed = scores.mean(axis=2)
    seeds = by_seed.shape[1]
    if seeds == 1 or len(by_seed) == 1:
        return 1.0
    from_mean = by_seed - by_seed.mean(axis=1, keepdims=True)
    spread = float((from_mean[0] ** 2).sum())
    noise = float(from_mean[1:].var(axis=0).sum())
    return math.sqrt(max(0.0, 1 - NOISE_TAKEN_OFF * noise / spread)) if spread else 0.0


def _seed_weights(condition: str, seeds: Sequence[int], resamples: int, freedom: int) -> Floats:
    """Weights [R, S] that sum to 0 over seeds: with scores they give their standard error times Student's t.

    Normal weights give the standard error times a normal value. They are divided by the root of a mean of `freedom`
    squared normal values, which all conditions share: that makes a difference of two conditions a single t.
    """
    number = len(seeds)
    if number == 1 or not resamples:
        return np.zeros((resamples, number))
    normal = np.stack([generator("seeds", condition, seed).standard_normal(resamples) for seed in seeds], axis=1)
    normal -= normal.mean(axis=1, keepdims=True)
    squares = [generator("freedom", i).standard_normal(resamples) ** 2 for i in range(freedom)]
    return normal / np.sqrt(number * (number - 1)) / np.sqrt(np.mean(squares, axis=0))[:, None]


# --- tests -----------------------------------------------------------------------------------------------------------


def difference(replicates: Floats, level: float) -> Difference:
    """Test a difference against zero from its replicates [1 + R].

    The interval holds the middle 1 - level of the resamples (percentile method). The two-sided p-value is twice the
    share of resamples on the far side of zero, zero included, the observed sample counted as one of them (Davison and
    Hinkley 1997, section 4.2), so it is never 0. Equal scores have p = 1.
    """
    # Rounded, because sums in another order are no difference.
    value, drawn = float(replicates[0]), np.round(replicates[1:], 9)
    if not len(drawn):
        return Difference(value)
    low, high = np.quantile(drawn, [level / 2, 1 - level / 2])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (1 + tail) / (1 + len(drawn))))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values: reject those below a level and at most that share of *tables* has a false one.

    (Holm 1979: the i-th smallest of m times m - i + 1, made monotone from below.)
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    return _in_place(order, np.minimum(1.0, np.maximum.accumulate(steps)))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values: of those below a level, on average at most that share is false.

    (Benjamini and Hochberg 1995: the i-th smallest of m times m / i, made monotone from above.)
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * len(p) / np.arange(1, len(p) + 1)
    return _in_place(order, np.minimum(1.0, np.minimum.accumulate(steps[::-1])[::-1]))


def _in_place(order: NDArray[np.intp], values: Floats) -> list[float]:
    placed = np.empty(len(values))
    placed[order] = values
    return [float(value) for value in placed]


# --- summaries -------------------------------------------------------------------------------------------------------


def transfer_gap(scores: Floats, languages: Sequence[str], pivot: str) -> Floats | None:
    """Score in the training language minus the mean over the others, in points; scores [..., L] -> [...].

    None where the training language or all the others are not scored (retrieval has no training language).
    """
    others = [i for i, code in enumerate(languages) if code != pivot]
    if pivot not in languages or not others:
        return None
    return scores[..., list(languages).index(pivot)] - scores[..., others].mean(axis=-1)


def group_mean(scores: Mapping[str, tuple[Sequence[str], Floats]], members: set[str]) -> Floats | None:
    """Mean over tasks of the mean over the members that a task is scored in; task -> (languages, [..., L]) -> [...].

    A task without any of the members is left out; None when all are.
    """
    means = []
    for languages, values in scores.values():
        columns = [i for i, code in enumerate(languages) if code in members]
        if columns:
            means.append(values[..., columns].mean(axis=-1))
    return np.mean(means, axis=0) if means else None
