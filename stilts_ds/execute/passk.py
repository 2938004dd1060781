"""pass@k without bias, in exact integers, and what its differences are worth.

Source: Chen et al. 2021, Evaluating Large Language Models Trained on Code (arXiv 2107.03374), section 2.1: of n samples
with c right ones, pass@k is 1 - C(n-c, k) / C(n, k), averaged over the problems.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import comb

from stilts_ds.errors import UserError, printable
from stilts_ds.execute.programs import Verdict


def pass_at_k(samples: int, right: int, k: int) -> Fraction:
    """The chance that k of the samples, drawn without putting back, hold a right one. Needs 1 <= k <= samples."""
    if not 0 <= right <= samples or not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {right} right ones in {samples} samples is not defined")
    # Exact, where the paper's own program multiplies floats, each of them rounded.
    return 1 - Fraction(comb(samples - right, k), comb(samples, k))


@dataclass(frozen=True)
class Score:
    """Scores of a programming and a natural language. `values[k]` is None where a problem has fewer than k samples."""

    language: str
    natural_language: str
    problems: int
    samples: int
    weak: int
    withheld: int
    values: dict[int, Fraction | None]


def counts(verdicts: Iterable[Verdict]) -> dict[str, tuple[int, int]]:
    """Problem -> (samples, right ones). A withheld verdict is no sample."""
    # Withheld programs are left out of the tally, but `Score.withheld` counts them: nothing goes unseen.
    tally: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for verdict in verdicts:
        if verdict.verdict != "withheld":
            tally[verdict.id][0] += 1
            tally[verdict.id][1] += verdict.passed
    return {name: (samples, right) for name, (samples, right) in tally.items()}


def mean_pass_at_k(tally: dict[str, tuple[int, int]], k: int) -> Fraction | None:
    """The mean over problems; None where k is more than some problem's samples, for which it is not defined."""
    if not tally or min(samples for samples, _ in tally.values()) < k:
        return None
    return sum((pass_at_k(samples, right, k) for samples, right in tally.values()), Fraction()) / len(tally)


def score_verdicts(verdicts: Sequence[Verdict], ks: Sequence[int] = (1, 10, 100)) -> list[Score]:
    """A score for each programming language and natural language, in the order in which they come."""
    groups: dict[tuple[str, str], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.language, verdict.natural_language].append(verdict)
    scores = []
    for (language, natural), group in groups.items():
        tally = counts(group)
        scores.append(
            Score(
                language=language,
                natural_language=natural,
                problems=len({verdict.id for verdict in group}),
                samples=sum(samples for samples, _ in tally.values()),
                weak=sum(verdict.weak for verdict in group),
                withheld=sum(verdict.verdict == "withheld" for verdict in group),
                values={k: mean_pass_at_k(tally, k) for k in ks},
            )
        )
    return scores


@dataclass(frozen=True)
class PassDifference:
    """pass@k of one file less that of another, with an interval of the paired bootstrap over problems."""

    value: float
    low: float
    high: float
    problems: int


def paired_difference(
    verdicts: Sequence[Verdict], baseline: Sequence[Verdict], k: int = 1, resamples: int = 2000, seed: int = 0
) -> PassDifference:
    """Percentile interval (95 %) of the difference over problems that both files hold.

    Raises UserError where they hold different problems: a difference of means over different sets means nothing.
    """
    tally, baseline_tally = counts(verdicts), counts(baseline)
    if set(tally) != set(baseline_tally):
        strange = sorted(set(tally) ^ set(baseline_tally))
        raise UserError(f"the files hold different problems, such as {strange[0]}; execute the same set with both")
    if not tally or min(samples for samples, _ in (*tally.values(), *baseline_tally.values())) < k:
        raise UserError(f"a problem has fewer than {k} samples; choose a smaller --k")
    # Paired: of one problem both scores are drawn together, since problems differ far more than models do.
    gains = []
    for name in sorted(tally):
        gain = pass_at_k(*tally[name], k) - pass_at_k(*baseline_tally[name], k)
        gains.append(float(gain))
    draw = random.Random(seed)
    count = len(gains)
    # Problems are drawn, not samples: the question is what other problems of this kind would have given.
    means = sorted(sum(draw.choices(gains, k=count)) / count for _ in range(resamples))
    # 2.5 % of the resamples lie below the interval and as many above it.
    cut = round(0.025 * resamples)
    return PassDifference(sum(gains) / count, means[cut], means[resamples - 1 - cut], count)


def scores_table(scores: Sequence[Score], toolchains: dict[str, str]) -> str:
    """A table for people: percent, `-` for what is withheld, `weak` where some verdicts are."""
    ks = list(scores[0].values) if scores else []
    head = ["language", "natural", "problems", "samples", *(f"pass@{k}" for k in ks), "weak", "withheld", "toolchain"]
    rows = [head]
    for score in scores:
        shown = [_percent(score.values[k]) for k in ks]
        numbers = [str(score.problems), str(score.samples), *shown, str(score.weak), str(score.withheld)]
        rows.append([score.language, score.natural_language or "-", *numbers, toolchains.get(score.language, "-")])
    rows = [[printable(" ".join(cell.split())) for cell in row] for row in rows]  # names come out of files
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _percent(value: Fraction | None) -> str:
    return "-" if value is None else f"{100 * float(value):.2f}"
