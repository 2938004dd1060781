"""A phase whose steps have fewer examples than there are ranks is trained by fewer ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from stilts_launcher import supervise
from stilts_launcher.backends.base import Job
from stilts_launcher.backends.slurm import fewer_tasks, sbatch_command, srun_command
from stilts_launcher.cluster import Profile
from stilts_launcher.start import fed_ranks
from stilts_launcher.worlds import fed_worlds

from stilts_ds.config import Recipe, parse_recipe
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.model_files import ModelLimits
from stilts_ds.phase_setup import check_settings
from stilts_ds.plan_file import Plan
from stilts_ds.planner import make_plan, most_ranks
from stilts_ds.run_dir import RunDir


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
    assert fed_ranks(16, plan.phases, "evaluate") == 16 and fed_ranks(16, plan.phases, "train") == 6
    assert fed_worlds(16, plan.phases) == 2 and fed_worlds(16, plan.phases, "evaluate") == 1


def test_a_job_starts_them_on_as_few_of_its_nodes_as_can_be() -> None:
    allocation = {"SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "4"}
    assert fewer_tasks(allocation, 6) == ["--ntasks=6", "--nodes=2"]
    assert fewer_tasks(allocation, 16) == fewer_tasks(allocation, None) == fewer_tasks({}, 1) == []
    assert srun_command(["p"], None, ["--ntasks=6"]) == ["srun", "--kill-on-bad-exit=1", "--ntasks=6", "p"]


def test_each_world_of_a_job_has_its_share_of_tasks_nodes_and_gpus() -> None:
    allocation = {"SLURM_NTASKS": "16", "SLURM_JOB_NUM_NODES": "4", "SLURM_GPUS_PER_NODE": "a100:4"}
    beside = ["--exclusive", "--mem=0"]
    assert fewer_tasks(allocation, None, 8) == ["--ntasks=2", "--nodes=1", *beside, "--gpus-per-node=2"]
    assert fewer_tasks(allocation, None, 2) == ["--ntasks=8", "--nodes=2", *beside, "--gpus-per-node=4"]
    # A step of three examples: three ranks of a world of eight.
    assert fewer_tasks(allocation, 3, 2) == ["--ntasks=3", "--nodes=1", *beside, "--gpus-per-node=3"]
    assert fewer_tasks({"SLURM_NTASKS": "4"}, None, 4) == ["--ntasks=1", "--nodes=1", *beside]
    with pytest.raises(UserError, match="worlds: 17 are more than the job's 16 tasks"):
        fewer_tasks(allocation, None, 17)


def test_a_job_of_worlds_is_no_array_and_is_warned_before_its_time_limit() -> None:
    profile = Profile(nodes=2, gpus_per_node=4, worlds=4, time="12:00:00")
    command = sbatch_command(Job("phases", "x-phases", Path("runs/x"), after=("7",)), profile, Path("phases.sbatch"))
    assert not any(word.startswith("--array") for word in command)
    assert {"--signal=USR1@300", "--dependency=afterok:7", "--nodes=2", "--gpus-per-node=4"} <= set(command)
    assert profile.prepares and not Profile(nodes=2, worlds=2).prepares
    assert Profile(nodes=2, worlds=2, jobs={"phases": {"gpus_per_node": 1}}).prepares
    with pytest.raises(ValueError, match="worlds: 9 are more than the 8 ranks of a job"):
        Profile(nodes=2, gpus_per_node=4, worlds=9)


@pytest.mark.parametrize(
    "worlds, batch, tasks, expected", [("auto", 6, 16, 2), ("auto", 32, 16, 1), ("auto", 2, 12, 6), (4, 6, 16, 4)]
)
def test_a_profile_s_auto_makes_the_worlds_that_leave_no_rank_without_an_example(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, worlds: Any, batch: int, tasks: int, expected: int
) -> None:
    """Of 16 ranks and steps of 6, not three worlds, which do not divide them."""
    _, plan = planned(intermediate_training={"train_batch_size": batch}, targets=["xnli"])
    plan.save(RunDir(tmp_path).plan)
    profile = Profile(nodes=2, ntasks_per_node=tasks // 2, worlds=worlds)
    monkeypatch.setattr(supervise, "profile_of", lambda run: profile)
    job = SimpleNamespace(id="7")
    monkeypatch.setattr(supervise, "launcher_of", lambda profile: SimpleNamespace(current_job=lambda environment: job))
    assert supervise.JobInside(RunDir(tmp_path), {}).worlds == expected


def test_ranks_that_somebody_else_started_are_too_many() -> None:
    """By torchrun or mpirun: a rank that leaves would end the others."""
    recipe, plan = planned(engine={"dtype": "fp32"})
    world = World(0, 0, 8, torch.device("cpu"), None, None)
    limits = ModelLimits(512, 12)
    with pytest.raises(UserError, match=r"train_batch_size=6 is less than the 8 ranks; start 6"):
        check_settings(recipe, list(plan.phases), limits, world)
    # Evaluation deals rows, not steps: any number of ranks predicts.
    check_settings(recipe, list(plan.phases), limits, world, only="evaluate")
    with pytest.raises(UserError, match=r"train_batch_size=6 is less than the 8 ranks"):
        check_settings(recipe, list(plan.phases), limits, world, only="train")
