"""A phase whose steps have fewer examples than there are ranks is trained by fewer ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stilts_launcher.backends.slurm import fewer_tasks, srun_command
from stilts_launcher.start import fed_ranks

from stilts_ds.config import Recipe, parse_recipe
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.model_files import ModelLimits
from stilts_ds.phase_setup import check_settings
from stilts_ds.plan_file import Plan
from stilts_ds.planner import make_plan, most_ranks


def planned(**more: Any) -> tuple[Recipe, Plan]:
    values = {
        "name": "x", "targets": ["xnli", "lareqa"], "intermediate": {"none": [], "mnli": ["mnli"]},
        "model": {"name_or_path": "toy"}, "data": {"intermediate": "i", "xtreme": "x"},
        "intermediate_training": {"train_batch_size": 6},
        "target_training": {"train_batch_size": 32, "pool_size": 4}, **more,
    }  # fmt: skip
    recipe = parse_recipe(values, "test")
    return recipe, make_plan(recipe, "model", lambda task: task)


def test_each_rank_has_an_example_of_each_step_or_a_pool_of_them() -> None:
    _, plan = planned()
    shares = {phase.label: most_ranks([phase]) for phase in plan.phases}
    assert shares["mnli/seed1/intermediate"] == 6
    assert shares["none/seed1/xnli"] == 32 and shares["none/seed1/lareqa"] == 32 // 4
    assert most_ranks(plan.phases) == 6 and most_ranks([]) is None


def test_a_run_starts_no_more_ranks_than_its_wanted_phases_feed(caplog: pytest.LogCaptureFixture) -> None:
    _, plan = planned()
    assert fed_ranks(16, plan.phases) == 6
    assert "6 ranks are started and not 16: train_batch_size gives no more of them work" in caplog.text
    assert fed_ranks(16, plan.named(["none/seed1/lareqa"], Path("plan.json"))) == 8
    assert fed_ranks(16, plan.named(["none/seed1/xnli"], Path("plan.json"))) == 16
    assert fed_ranks(4, plan.phases) == 4


def test_a_job_starts_them_on_as_few_of_its_nodes_as_can_be() -> None:
    allocation = {"SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "4"}
    assert fewer_tasks(allocation, 6) == ["--ntasks=6", "--nodes=2"]
    assert fewer_tasks(allocation, 16) == fewer_tasks(allocation, None) == fewer_tasks({}, 1) == []
    assert srun_command(["p"], None, ["--ntasks=6"]) == ["srun", "--kill-on-bad-exit=1", "--ntasks=6", "p"]


def test_ranks_that_somebody_else_started_are_too_many() -> None:
    """By torchrun or mpirun: a rank that leaves would end the others."""
    recipe, plan = planned(engine={"dtype": "fp32"})
    world = World(0, 0, 8, torch.device("cpu"), None, None)
    limits = ModelLimits(512, 12)
    with pytest.raises(UserError, match=r"train_batch_size=6 is less than the 8 ranks; start 6"):
        check_settings(recipe, list(plan.phases), limits, world)
