"""Do languages with fewer resources gain more? Spearman's correlation of gains with two scales, with intervals.

Legend: L languages, R resamples. A resample draws the languages with replacement, and each language's gain from the
resamples of its examples: the interval holds both what other examples and what other languages might have shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from stilts_ds.report.cells import pivot_of
from stilts_ds.report.compare import Scores
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats, generator
from stilts_ds.report.table import Sheet
from stilts_ds.tasks.resources import RESOURCES

FEWEST = 5  # languages of a correlation that is told
RESAMPLES = 2_000  # of an interval that is read, and not tested
ALL = "all targets"


def _log_size(code: str) -> float | None:
    size = RESOURCES[code].cc100
    # Ranks do not see the logarithm: it is there for those who read or plot the scale.
    return None if size is None else math.log(size)


def _distance(code: str) -> float | None:
    return RESOURCES[code].syntax


SCALES: Mapping[str, Callable[[str], float | None]] = {"log CC-100 size": _log_size, "URIEL distance": _distance}


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over some languages; None where all gains are equal. `low`, `high`: its interval."""

    condition: str
    target: str
    scale: str
    languages: int
    rho: float | None
    low: float | None
    high: float | None


def correlations(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Correlation]:
    """For each condition and target, and for the mean gain over targets, without the training language."""
    computed = []
    for condition in data.conditions:
        if condition == data.baseline:
            continue
        gains = {t: _gains(data, scores, condition, t) for t in data.targets if _both(data, scores, condition, t)}
        if len(gains) > 1:
            gains[ALL] = _mean_gains(list(gains.values()))
        for target, by_language in gains.items():
            computed += [_correlation(condition, target, scale, by_language, settings) for scale in SCALES]
    return [correlation for correlation in computed if correlation.languages >= FEWEST]


def _both(data: RunData, scores: Scores, condition: str, task: str) -> bool:
    return task in scores[condition] and task in scores[data.baseline]


def _gains(data: RunData, scores: Scores, condition: str, task: str) -> dict[str, Floats]:
    """Gain over the baseline of each language, [1 + R]: of the mean over seeds, observed and resampled."""
    ours, base = scores[condition][task], scores[data.baseline][task]
    rows = min(len(ours.replicates), len(base.replicates))
    # Row 0, the medians over seeds, is printed only; the correlation is of what is tested.
    gains = ours.replicates[1:rows] - base.replicates[1:rows]
    pivot = pivot_of(data, task)
    return {code: gains[:, i] for i, code in enumerate(ours.languages) if code != pivot and code in RESOURCES}


def _mean_gains(by_target: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """The mean gain of each language over the targets that have it."""
    rows = min((len(values) for gains in by_target for values in gains.values()), default=0)
    codes = sorted({code for gains in by_target for code in gains})
    return {code: np.mean([gains[code][:rows] for gains in by_target if code in gains], axis=0) for code in codes}


def _correlation(
    condition: str, target: str, scale: str, gains: Mapping[str, Floats], settings: ComparisonSettings
) -> Correlation:
    known = {code: value for code in gains if (value := SCALES[scale](code)) is not None}
    if len(known) < FEWEST:
        return Correlation(condition, target, scale, len(known), None, None, None)
    table = np.stack([gains[code] for code in known], axis=1)
    rng = generator("correlation", condition, target, scale)
    drawn = spearman_replicates(np.array(list(known.values())), table, RESAMPLES, rng)
    # A draw of one language only, many times, has no correlation: it says nothing about the interval.
    rho, resamples = drawn[0], drawn[1:][~np.isnan(drawn[1:])]
    if np.isnan(rho):
        return Correlation(condition, target, scale, len(known), None, None, None)
    low, high = np.quantile(resamples, [settings.level / 2, 1 - settings.level / 2])
    return Correlation(condition, target, scale, len(known), float(rho), float(low), float(high))


def spearman_replicates(scale: Floats, gains: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """Spearman's correlation of a scale [L] with gains [1 + R, L], observed and resampled: [1 + resamples].

    NaN where all values of a draw are equal. Without resamples of the examples (R = 0) languages alone are drawn.
    """
    number = len(scale)
    # Both are drawn: languages with replacement, and with each draw one resample of their examples.
    picks = rng.integers(0, number, (resamples, number))
    rows = 1 + rng.integers(0, len(gains) - 1, resamples) if len(gains) > 1 else np.zeros(resamples, np.intp)
    drawn = np.concatenate([gains[:1], gains[rows[:, None], picks]])
    along = np.concatenate([scale[None], scale[picks]])
    return _pearson(ranks(along), ranks(drawn))


def ranks(values: Floats) -> Floats:
    """Ranks along the last axis from 1, equal values with the mean of theirs: [..., L]."""
    # All pairs at once: L is at most fifty, and ties need no special case.
    lower = (values[..., :, None] > values[..., None, :]).sum(-1)
    equal = (values[..., :, None] == values[..., None, :]).sum(-1)
    return lower + (equal + 1) / 2


def _pearson(left: Floats, right: Floats) -> Floats:
    left = left - left.mean(-1, keepdims=True)
    right = right - right.mean(-1, keepdims=True)
    below = np.sqrt((left**2).sum(-1) * (right**2).sum(-1))
    return np.divide((left * right).sum(-1), below, out=np.full(len(left), np.nan), where=below > 0)


def correlation_sheet(measured: Sequence[Correlation], settings: ComparisonSettings) -> Sheet:
    """A row for each condition and target, `-0.41 [-0.70, -0.02] (38)` for each scale."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for correlation in measured:
        row = rows.setdefault((correlation.condition, correlation.target), {})
        row[correlation.scale] = _shown(correlation)
    cells = [(*names, *(shown.get(scale, "-") for scale in SCALES)) for names, shown in rows.items()]
    notes = (
        "Spearman's correlation of a language's gain over the baseline with the scale; in brackets the middle "
        f"{1 - settings.level:.0%} of resamples of languages and examples, then the number of languages. Below 0 with "
        "CC-100: languages with less text gain more. Languages that CC-100 lacks have no place on its scale. URIEL: "
        f"distance of the syntax from English. Fewer than {FEWEST} languages: not told. Nothing is tested here.",
    )
    return Sheet("Gains and resources", ("condition", "target", *SCALES), tuple(cells), notes)


def _shown(correlation: Correlation) -> str:
    if correlation.rho is None:
        return f"- ({correlation.languages})"
    return f"{correlation.rho:+.2f} [{correlation.low:+.2f}, {correlation.high:+.2f}] ({correlation.languages})"


def correlations_json(measured: Sequence[Correlation]) -> list[dict[str, Any]]:
    return [asdict(correlation) for correlation in measured]
