"""What every start looks at before it trains: each finding names the rank, its node and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import EnginePart, parse_recipe
from stilts_ds.disk import disk_use
from stilts_ds.engine import ranks as ranks_of_engine
from stilts_ds.engine.preflight import _on_nodes, _problem
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir, write_atomically

FOLDER = Path("/data/runs/study")


def facts(**second: Any) -> list[dict[str, Any]]:
    """Two good ranks on two nodes; `second` changes the second one."""
    good = {
        "device": "CPU",
        "gpu": "",
        "versions": {"torch": "2.13.0", "commit": "abc"},
        "sees": True,
        "free": 10**9,
        "sum": 3.0,
    }
    return [{**good, "node": "n0"}, {**good, "node": "n1", **second}]


def test_good_ranks_have_no_problem() -> None:
    assert _problem(facts(), FOLDER, 10**9) is None
    assert _on_nodes(facts()) == ["n0: 1 x CPU", "n1: 1 x CPU"]


@pytest.mark.parametrize(
    "second, needed, told",
    [
        ({"sees": False}, 0, ["rank 1 on n1 does not see /data/runs/study", "file system that all nodes share"]),
        ({"versions": {"torch": "2.12.0", "commit": "abc"}}, 0, ["rank 1 on n1 has torch 2.12.0", "n0 2.13.0"]),
        ({"versions": {"torch": "2.13.0", "commit": "abd"}}, 0, ["has commit abd", "one environment"]),
        ({"sum": 2.0}, 0, ["rank 1 on n1: an all-reduce gave 2.0 in place of 3.0"]),
        ({}, 2 * 10**9, ["1.0 GB free", "may write 2.0 GB", "save_total_limit"]),
    ],
)
def test_a_finding_names_the_node_and_the_remedy(second: dict[str, Any], needed: int, told: list[str]) -> None:
    problem = _problem(facts(**second), FOLDER, needed)
    assert problem is not None
    for part in told:
        assert part in problem


@pytest.mark.parametrize("held, needed", [(0, 12 * 4 + 4 * 5), (30, 12 * 4 + 4 * 5 - 30), (1000, 0)])
def test_a_phase_needs_room_for_checkpoints_and_best_models_less_what_it_has_there(
    held: int, needed: int, tmp_path: Path
) -> None:
    """With `save_total_limit: 3` and a model of one parameter: four checkpoints of 12 bytes, five models of 4."""
    given = {"name": "study", "targets": ["xnli"], "target_training": {"save_total_limit": 3}}
    plan, run = make_plan(parse_recipe(given, "test"), "model", lambda task: "data"), RunDir(tmp_path)
    (phase,) = [phase for phase in plan.phases if phase.train]
    torn = run.phase(phase.id).checkpoints / "step-000003" / "shard-00000.safetensors"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(bytes(held))
    assert disk_use(run, plan, "encoders", 1).more == needed


def test_torchrun_waits_as_long_as_the_recipe_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our launchers hand it over; `torchrun -m stilts_ds.phases` knows no recipe but the run's."""
    monkeypatch.delenv("STILTS_COLLECTIVE_TIMEOUT", raising=False)
    assert ranks_of_engine._patience(RunDir(tmp_path)) == EnginePart().collective_timeout
    write_atomically(tmp_path / "recipe.yaml", "name: x\ntargets: [xnli]\nengine: {collective_timeout: 17}\n")
    assert ranks_of_engine._patience(RunDir(tmp_path)) == 17
    monkeypatch.setenv("STILTS_COLLECTIVE_TIMEOUT", "23")
    assert ranks_of_engine._patience(RunDir(tmp_path)) == 23
