"""How many ranks a step keeps busy, as `stilts plan --trial` says it of what was measured."""

from __future__ import annotations

from typing import Any

import pytest
from stilts_launcher.show.plan import _knee_lines

from stilts_ds.trial_file import RankPeaks, RankRate, Trial


def trial_of(*rates: float) -> Trial:
    by_ranks = tuple(RankRate(ranks=1 << n, examples=8 >> n, tokens_per_second=rate) for n, rate in enumerate(rates))
    peaks = (RankPeaks(host=1, started_with=1),)
    times: dict[str, Any] = {"steps": (0,), "seconds": (1.0,), "tokens": (1,), "warm_up_seconds": 1.0}
    about: dict[str, Any] = {"phase": "target-x", "stage": 1, "dtype": "fp32", "device": "CPU", "parameters": 1}
    return Trial(**times, **about, ranks=peaks, rates=by_ranks)


@pytest.mark.parametrize(
    "rates, knee, told",
    [
        ((800, 790, 400, 399), 4, "the knee is at 4 ranks with 2 examples of a step each"),
        ((800, 300, 500, 500), 1, "the knee is at 1 rank with 8 examples of a step each"),
        ((800, 790, 700, 400), 8, "each of 8 ranks, the most that a step feeds"),
        ((800,), 1, "each of 1 rank, the most"),
    ],
)
def test_the_knee_is_where_a_rank_falls_below_half_of_one_alone(rates: Any, knee: int, told: str) -> None:
    trial = trial_of(*rates)
    assert trial.knee is not None and trial.knee.ranks == knee
    by_rank, advised = _knee_lines(trial)
    assert advised.startswith(told) and ": 1: 800" in by_rank


def test_a_trial_of_an_earlier_version_has_no_knee() -> None:
    assert trial_of().knee is None and _knee_lines(trial_of()) == []
