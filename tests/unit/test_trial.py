"""`stilts plan --trial`: a few steps that train, and leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import stilts
from small_recipe import STUDY

from stilts_ds.plan_file import Plan


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
