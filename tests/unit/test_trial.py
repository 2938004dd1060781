"""`stilts plan --trial`: a few steps that train, and how many ranks a step keeps busy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import stilts
from stilts_launcher.show.plan import _knee_lines

from stilts_ds.plan_file import Plan
from stilts_ds.trial_file import RankPeaks, RankRate, Trial

STUDY = [
    "intermediate={none: [], nli: [mnli]}",
    "targets=[xnli, udpos]",
    "intermediate_training.max_steps=4",
    "target_training.max_steps=-1",
    "evaluation.max_examples=5",
    "launch.nproc=1",
    "engine.zero_stage=1",
]


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
    assert trial.knee.ranks == knee
    by_rank, advised = _knee_lines(trial)
    assert advised.startswith(told) and ": 1: 800" in by_rank


@pytest.mark.slow
def test_a_trial_trains_and_leaves_the_run_alone(tmp_path: Path) -> None:
    shown = stilts("plan", "quickstart", *STUDY, "--trial", "--json", cwd=tmp_path)
    plan = json.loads(shown[shown.index("\n{\n") if not shown.startswith("{") else 0 :])
    trial = plan["trial"]
    assert (trial["device"], trial["stage"], len(trial["ranks"])) == ("CPU", 1, 1)
    assert len(trial["seconds"]) == len(trial["tokens"]) == 3 and min(trial["seconds"]) > 0 < min(trial["tokens"])
    [tried] = [one for one in plan["phases"] if one["id"] == trial["phase"]]
    assert tried["parameters"] == trial["parameters"] and tried["vocabulary_rows"] < 900
    for one in plan["phases"]:
        if one["train"]:
            rate = sum(trial["tokens"]) / sum(trial["seconds"])
            assert one["hours"] == pytest.approx(one["size"]["tokens"] / rate / 3600)
            assert one["size"]["exact"] and one["state"] == "will run"
    # Each number of ranks that divides a step's examples.
    planned = Plan.load(tmp_path / "runs" / "quickstart" / "plan.json").phases
    [setting] = [phase.setting() for phase in planned if phase.id == trial["phase"]]
    shared = [(rate["ranks"], rate["examples"]) for rate in trial["rates"]]
    batch = setting.train_batch_size
    assert shared == [(count, batch // count) for count in range(1, batch + 1) if batch % count == 0]
    run = tmp_path / "runs" / "quickstart"
    assert {path.name for path in run.iterdir()} == {"cache", "data", "plan.json", "recipe.yaml"}
