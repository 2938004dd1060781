"""The statistics of a study: pure functions of arrays, numpy alone. What they mean is told in docs/report.md.

Every score here is a ratio of sums over examples, `100 * sum(numerators) / sum(denominators)`: accuracy is right / 1,
F1 is 2 * correct / (predicted + gold), question answering (EM + F1) / 2 / 1. So one resampling serves all metrics.

Legend: N items that are drawn, L languages, S seeds, R resamples. An array of *replicates* has 1 + R rows: row 0 is the
observed sample, the others are resamples of it. Any function of scores (a mean over languages, a gap, a difference)
that works along the last axis therefore gives the observed value and its bootstrap distribution at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

BOOTSTRAP_SEED = 20200526  # of every draw; the same run gives the same report
CELLS_AT_A_TIME = 4_000_000  # resampled examples held at once: 32 MB


@dataclass(frozen=True)
class Settings:
    """How differences are tested. `resamples` bounds the smallest p-value, 2 / (resamples + 1)."""

    resamples: int = 10_000
    level: float = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference in points with its percentile interval. Nothing but `value` is known where nothing was tested.

    `adjusted` is `p` corrected for the other comparisons of its table, `significant` whether it is below the level.
    """

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    adjusted: float | None = None
    significant: bool | None = None


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
    both = np.concatenate([numerators, denominators], axis=1)
    sums = np.concatenate([drawn @ both for drawn in weights(len(both), resamples, rng)])
    above, below = np.split(sums, 2, axis=1)
    return np.divide(100.0 * above, below, out=np.zeros_like(above), where=below > 0)


def median_over_seeds(scores: Floats, rng: np.random.Generator) -> Floats:
    """Median over the seeds [1 + R, S, L] -> [1 + R, L]; each resample draws S seeds with replacement, row 0 none.

    So an interval holds the spread between seeds as well as that between examples, as far as S seeds can show it.
    """
    rows, seeds, _ = scores.shape
    picks = rng.integers(0, seeds, size=(rows, seeds))
    picks[0] = np.arange(seeds)
    return np.median(np.take_along_axis(scores, picks[:, :, None], axis=1), axis=1)


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
