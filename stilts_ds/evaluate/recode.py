"""Robustness of generated programs as ReCode measures it (Wang et al. 2022, arXiv 2212.10264, section 3.3).

Each problem's prompt is perturbed in S ways, and n programs are sampled for each of these prompts; sample
i of all prompts has the same seed. Verdicts are whether a program passes its tests.

Legend: X problems, n samples, S perturbed prompts of a problem, k samples that one may choose the best of.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from stilts_ds.errors import UserError, counted
from stilts_ds.execute.passk import pass_at_k

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Robustness:
    """Shares of problems, from 0 to 1. `drop` is None where nothing passes without perturbation: there is no share of
    nothing."""

    passed: float  # pass@k of the prompts as they are
    robust: float  # RP@k
    drop: float | None  # RD@k
    relative: float  # RR@k


def robustness(nominal: Bools, perturbed: Bools, k: int) -> Robustness:
    """RP@k, RD@k and RR@k from verdicts [X, n] and [X, S, n].

    A sample is robustly right if it is right on all S prompts of its problem. RD is the share of pass@k that is lost
    so. RR is how much of the verdicts flips: from right to wrong on the worst prompt, or from wrong to right on the
    best. Raises UserError for verdicts that do not belong together, and for k larger than n.
    """
    problems, samples = nominal.shape
    if perturbed.shape[0] != problems or perturbed.shape[2] != samples:
        raise UserError(
            f"verdicts of {counted(problems, 'problem')} x {counted(samples, 'sample')}, but perturbed ones of "
            f"{counted(perturbed.shape[0], 'problem')} x {counted(perturbed.shape[2], 'sample')}; run the same problems"
        )
    if not 1 <= k <= samples:
        raise UserError(f"k={k}: choose the best of 1 to {counted(samples, 'sample')}")
    worst, best = perturbed.all(axis=1), perturbed.any(axis=1)
    passed = at_k(nominal.sum(axis=1), samples, k)
    robust = at_k(worst.sum(axis=1), samples, k)
    lost = at_k((nominal & ~worst).sum(axis=1), samples, k)
    won = at_k((~nominal & best).sum(axis=1), samples, k)
    drop = (passed - robust) / passed if passed else None
    return Robustness(passed, robust, drop, lost + won)


def at_k(counts: Iterable[int], samples: int, k: int) -> float:
    """The mean chance that at least one of k of the samples is among those counted (Chen et al. 2021, pass@k)."""
    chances = [pass_at_k(samples, int(count), k) for count in counts]
    return float(sum(chances, Fraction()) / len(chances))
