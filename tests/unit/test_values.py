"""Plan, status, result and trial as values: a run of the first edition loads and is written again byte for byte.

`golden/run` holds files that version 0.1.0 wrote at commit 68bd3a7, with the machine's name shortened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
from pydantic import ValidationError
from stilts_launcher.supervise import Attempt

from stilts_ds import run_dir
from stilts_ds.errors import UserError
from stilts_ds.evaluate.result import Result
from stilts_ds.phase_status import Best, PhaseStatus, TaskBest
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import PhaseDir, Provenance, read_json, write_json, write_sealed
from stilts_ds.trial_file import RankPeaks, Trial

OLD = ranks.ROOT / "tests" / "golden" / "run"
VALUES: dict[str, type[Plan] | type[Result] | type[Trial]] = {
    "plan.json": Plan, "result-bucc2018.json": Result, "result-xquad.json": Result, "result-udpos.json": Result,
    "trial.json": Trial,
}  # fmt: skip
BEST = Best(step=50, of=60, selection=1.5, tasks={"b": TaskBest(score=1.5, best=2.0, best_step=7)})


@pytest.mark.parametrize("name", VALUES)
def test_an_old_file_is_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    value = VALUES[name].load(OLD / name)
    value.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (OLD / name).read_bytes()
    assert VALUES[name].load(tmp_path / name) == value


@pytest.mark.parametrize("name", VALUES)
def test_a_value_stays_as_it_was_read(name: str) -> None:
    value = VALUES[name].load(OLD / name)
    field = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, getattr(value, field))


def test_an_old_plan_is_what_everybody_uses() -> None:
    plan = Plan.load(OLD / "plan.json")
    assert (plan.name, plan.seeds, plan.targets[0], list(plan.use)) == (
        "quickstart",
        (1,),
        "xnli",
        ["none", "multitask"],
    )
    assert len(plan.phases) == 15 and {kind: sum(phase.kind == kind for phase in plan.phases) for kind in
                                       ("intermediate", "target", "retrieval")} == {
        "intermediate": 1, "target": 12, "retrieval": 2}  # fmt: skip
    several = next(phase for phase in plan.phases if phase.kind == "intermediate")
    assert several.setting("squad_v1").max_seq_length == several.lengths["squad_v1"]["max_seq_length"]
    assert plan.provenance.git_commit.startswith("68bd3a7") and len(plan.provenance.model_hash) == 64


# --- the status of a phase -------------------------------------------------------------------------------------------


def test_old_statuses_load_and_go_on(tmp_path: Path) -> None:
    for name in ("status-trained.json", "status-retrieval.json"):
        shutil.copy(OLD / name, tmp_path / "status.json")
        status = PhaseDir(tmp_path).read_status()
        assert status.state == "done" and status.trained and status.world_size == 2 and status.joules is None
        content = {key: value for key, value in read_json(OLD / name).items() if key != "seal"}
        assert status.to_json(PhaseStatus()) == content
    shutil.copy(OLD / "status-trained.json", tmp_path / "status.json")
    before = PhaseDir(tmp_path).read_status()
    assert before.best is not None and before.best.of == before.best.step == 50
    PhaseDir(tmp_path).set_status("failed", error="the disk is full")
    after = PhaseDir(tmp_path).read_status()
    assert after.trained and (after.seconds, after.best, after.curve) == (before.seconds, before.best, before.curve)


def test_a_status_that_goes_on_from_an_old_one_has_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same end of the phase, noted once more over the old file."""
    shutil.copy(OLD / "status-trained.json", tmp_path / "status.json")
    old = PhaseDir(tmp_path).read_status()
    monkeypatch.setenv("STILTS_RUN_TOKEN", old.token)
    monkeypatch.setattr(run_dir.time, "time", lambda: old.at)
    PhaseDir(tmp_path).set_status("done", seconds=old.seconds, world_size=old.world_size)
    assert (tmp_path / "status.json").read_bytes() == (OLD / "status-trained.json").read_bytes()


COST: dict[str, Any] = {"seconds": 1.0, "world_size": 2}


@pytest.mark.parametrize(("calls", "keys"), [
    ([("running", {**COST, "joules": 5.5})], "state trained token at seconds world_size joules"),
    ([("failed", {"error": "x"})], "state trained token at error"),
    ([("failed", {"error": "x"}), ("done", {})], "state trained token at"),
    ([("running", COST), ("trained", {**COST, "joules": 5.5, "best": BEST, "curve": "c0ffee"})],
     "seconds world_size state trained token at joules best curve"),
    ([("trained", {**COST, "best": BEST, "curve": "c0ffee"}), ("failed", {**COST, "error": "x"})],
     "seconds world_size best curve state trained token at error"),
])  # fmt: skip
def test_keys_of_a_status_stand_where_they_always_stood(
    calls: list[tuple[str, dict[str, Any]]], keys: str, tmp_path: Path
) -> None:
    folder = PhaseDir(tmp_path)
    for state, details in calls:
        folder.set_status(state, **details)
    assert list(read_json(folder.status_json)) == [*keys.split(), "seal"]


def test_a_score_that_is_no_number_does_not_spoil_a_status(tmp_path: Path) -> None:
    folder = PhaseDir(tmp_path)
    folder.set_status("trained", best=Best(step=1, of=1, selection=float("-inf"), tasks={}))
    best = folder.read_status().best
    assert best is not None and best.selection == float("-inf")


def test_a_status_of_the_wrong_shape_is_named(tmp_path: Path) -> None:
    folder = PhaseDir(tmp_path)
    write_sealed(folder.status_json, {"state": "done", "best": {"step": "5"}})
    with pytest.raises(UserError, match=r"status\.json: best\.step: Input should be a valid integer; delete it"):
        folder.read_status()


# --- what is broken --------------------------------------------------------------------------------------------------


def without(*path: str) -> Callable[[Any], None]:
    def remove(content: Any) -> None:
        for key in path[:-1]:
            content = content[key]
        del content[path[-1]]

    return remove


@pytest.mark.parametrize(("name", "damage", "told"), [
    ("plan.json", without("use"), r"plan\.json lacks 'use'; run the same `stilts run` again, it plans anew"),
    ("plan.json", lambda plan: plan.update(seeds=[]), r"plan\.json: seeds: .*at least 1 item.*; run the same"),
    ("plan.json", lambda plan: plan["phases"][0].update(id="../up"), r"plan\.json: phases\.0\.id: .*match pattern"),
    ("plan.json", lambda plan: plan["phases"][1].update(seed="1"), r"plan\.json: phases\.1\.seed: .*valid integer"),
    ("plan.json", lambda plan: plan["phases"][1].update(more=1), r"plan\.json: phases\.1\.more: Extra inputs"),
    ("plan.json", lambda plan: plan["phases"][1].update(train=[]), r"phases\.1: phase .* is called target and trains"),
    ("plan.json", lambda plan: plan["phases"].pop(), r"plan\.json: condition .* which is not in the plan"),
    ("plan.json", lambda plan: plan["targets"].append("xnly"), r"plan\.json: .*xnly.*did you mean"),
    ("plan.json", without("provenance", "git_commit"), r"plan\.json: provenance\.git_commit: Field required"),
    ("result-xquad.json", without("missing"), r"result-xquad\.json lacks 'missing'; delete it and run `stilts score`"),
    ("result-xquad.json", lambda result: result.update(split="all"), r"split: Input should be 'train', 'dev' or"),
    ("result-xquad.json", lambda result: result.update(mean=float("nan")), r"mean: Input should be a finite number"),
    ("result-xquad.json", lambda result: result["main"].update(qaa=100.1), r"main: must hold a score from 0 to 100"),
    ("result-xquad.json", lambda result: result["main"].update(qaa=True), r"main: must hold a score from 0 to 100"),
    ("trial.json", without("ranks"), r"trial\.json lacks 'ranks'; start the trial again"),
    ("trial.json", lambda trial: trial.update(seconds=[]), r"trial\.json: seconds: .*at least 1 item"),
])  # fmt: skip
def test_a_broken_file_is_named(name: str, damage: Callable[[Any], None], told: str, tmp_path: Path) -> None:
    content = json.loads((OLD / name).read_bytes())
    damage(content)
    write_json(tmp_path / name, content)
    with pytest.raises(UserError, match=told):
        VALUES[name].load(tmp_path / name)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("content", ["[]", "1", "null", '"plan"', "{}"])
def test_a_file_without_keys_lacks_the_first(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"{name} lacks '{next(iter(VALUES[name].model_fields))}'"):
        VALUES[name].load(tmp_path / name)


# --- the smaller ones ------------------------------------------------------------------------------------------------


def test_a_trial_on_gpus_counts_the_device_and_one_on_cpus_the_host() -> None:
    trial = Trial.load(OLD / "trial.json")
    assert trial.on_cpu and trial.peak == max(rank.host for rank in trial.ranks)
    assert trial.tokens_per_second == sum(trial.tokens) / sum(trial.seconds)
    on_gpu = RankPeaks(host=9, device=5, device_reserved=6, started_with=1)
    assert trial.model_copy(update={"ranks": (on_gpu,)}).peak == 5
    assert list(on_gpu.model_dump(exclude_none=True)) == ["host", "device", "device_reserved", "started_with"]


def test_provenance_leaves_out_what_is_not_known() -> None:
    assert Provenance(git_commit="c0ffee", versions={}).to_json() == {"git_commit": "c0ffee", "versions": {}}


def test_an_attempt_reads_the_list_that_json_made_of_its_place() -> None:
    attempt = Attempt(job="17", restart=1, at=(False, "step-000005", 0))
    assert Attempt.model_validate(json.loads(json.dumps(attempt.model_dump()))) == attempt
