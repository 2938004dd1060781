"""What `keep` removes and never removes, and how much disk a plan takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from stilts_launcher.clean import clean

from stilts_ds.config import Keep, parse_recipe
from stilts_ds.disk import disk_use, drop_unneeded, leftovers, removals, train_again, unplanned
from stilts_ds.errors import UserError
from stilts_ds.lineage import unfinished
from stilts_ds.locks import phase_lock
from stilts_ds.phase_status import Best
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir

PARAMETERS = 1000


@pytest.fixture
def plan() -> Plan:
    """Two conditions, two seeds, two targets and retrieval: 2 intermediate, 8 target and 3 retrieval phases."""
    given = {"name": "study", "seeds": [1, 2], "intermediate": {"none": [], "mnli": ["mnli"]}}
    given |= {"targets": ["xnli", "xquad", "tatoeba"], "target_training": {"save_total_limit": 1}}
    return make_plan(parse_recipe(given, "test"), "model", lambda task: "data")


def finish(run: RunDir, phase: Phase, selection: float = 50.0, state: str = "done") -> None:
    folder = run.phase(phase.id)
    if phase.train:
        for path in (folder.encoder / "model.safetensors", folder.heads, folder.heads_json, folder.metrics):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(4 * PARAMETERS if path.suffix == ".safetensors" else 1))
        folder.set_status("trained", best=Best(step=1, of=1, selection=selection, tasks={}))
    folder.set_status(state)


def models(run: RunDir, plan: Plan) -> set[str]:
    return {phase.label for phase in plan.phases if run.phase(phase.id).encoder.is_dir()}


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        ("encoders", 10),
        ("heads", 0),
        ("scores", 0),
        ("best", 2),
    ],
)
def test_a_level_keeps_what_it_says_once_all_is_done(keep: Keep, left: int, plan: Plan, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for number, phase in enumerate(plan.phases):
        finish(run, phase, selection=float(number))
        drop_unneeded(run, plan, keep)
    assert len(models(run, plan)) == left
    heads = [phase.id for phase in plan.phases if run.phase(phase.id).heads.exists()]
    assert len(heads) == {"encoders": 10, "heads": 10, "scores": 0, "best": 2}[keep]
    for phase in plan.phases:  # curves, status and hashes stay at every level
        folder = run.phase(phase.id)
        assert folder.status() == "done"
        assert not phase.train or (folder.heads_json.exists() and folder.metrics.exists())
    if keep == "best":  # the highest dev score of each train split was that of the last phase
        assert models(run, plan) == {"mnli/seed2/xnli", "mnli/seed2/xquad"}
    assert removals(run, plan, keep) == []


def test_nothing_goes_that_an_unfinished_phase_starts_from(plan: Plan, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    start = next(phase for phase in plan.phases if phase.kind == "intermediate")
    children = [phase for phase in plan.phases if phase.init == start.id]
    finish(run, start)
    for child in children:
        drop_unneeded(run, plan, "scores")
        assert start.label in models(run, plan)
        # Trained and killed before it is scored: it may have to start over.
        finish(run, child, state="trained")
        drop_unneeded(run, plan, "scores")
        assert start.label in models(run, plan)
        finish(run, child)
    drop_unneeded(run, plan, "scores")
    assert models(run, plan) == set() and run.phase(start.id).model_is_gone()


def test_a_phase_at_work_is_left_alone(plan: Plan, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for phase in plan.phases:
        finish(run, phase)
    first = next(phase for phase in plan.phases if phase.train)
    with phase_lock(run.phase(first.id)):
        drop_unneeded(run, plan, "scores")
    assert models(run, plan) == {first.label}


def test_clean_counts_only_what_it_removed(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path)
    for phase in plan.phases:
        finish(run, phase)
    plan.save(run.plan)
    monkeypatch.setattr("stilts_launcher.recipes.recipe_of_run", lambda run: None)
    given = SimpleNamespace(run_dir=tmp_path, keep="scores", unplanned=False, yes=True)
    busy = next(phase for phase in plan.phases if phase.train)
    trained = sum(bool(phase.train) for phase in plan.phases)
    with phase_lock(run.phase(busy.id)):
        assert clean(given) == 0
    assert f"of {trained - 1} phases" in capsys.readouterr().out.splitlines()[-1]
    assert run.phase(busy.id).encoder.is_dir()


def test_a_model_that_is_needed_again_is_trained_again_with_what_it_starts_from(plan: Plan, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    start = next(phase for phase in plan.phases if phase.kind == "intermediate")
    for phase in plan.phases:
        finish(run, phase)
    drop_unneeded(run, plan, "scores")
    later = next(phase for phase in plan.phases if phase.init == start.id and phase.train)
    run.phase(later.id).status_json.unlink()
    with pytest.raises(UserError, match="starts from .*, whose model was not kept"):
        train_again(run, plan, [later])
    # A cluster's jobs are handed in for both.
    assert {phase.id for phase in unfinished(run, plan.phases)} == {start.id, later.id}
    train_again(run, plan, plan.phases)
    assert run.phase(start.id).status() == "pending"
    untouched = [phase for phase in plan.phases if phase.id not in (start.id, later.id)]
    assert all(run.phase(phase.id).status() == "done" for phase in untouched)


def test_disk_use_is_that_of_the_phases_one_after_the_other(plan: Plan, tmp_path: Path) -> None:
    """By hand, in bytes a parameter: a model 4; while a phase trains with one checkpoint kept, 2 * 12 + 3 * 4."""
    run = RunDir(tmp_path)
    uses = {keep: disk_use(run, plan, keep, PARAMETERS) for keep in ("encoders", "heads", "best", "scores")}
    assert {keep: use.end // PARAMETERS for keep, use in uses.items()} == {
        "encoders": 40, "heads": 0, "best": 8, "scores": 0,
    }  # fmt: skip
    intermediate = 3 * 12 + 4 * 4  # keeps two checkpoints
    assert uses["encoders"].peak // PARAMETERS == 7 * 4 + intermediate  # seven models stand when the last one trains
    assert uses["scores"].peak // PARAMETERS == intermediate
    assert {use.phase // PARAMETERS for use in uses.values()} == {intermediate}
    for phase in plan.phases:
        finish(run, phase)
    done = disk_use(run, plan, "encoders", PARAMETERS)
    assert done.now == done.end == done.peak and done.more == 0


def test_disk_use_of_worlds_is_that_of_the_phases_which_they_train_at_once(plan: Plan, tmp_path: Path) -> None:
    """Two intermediate phases, each with the four targets of its seed, and four without: ten that train."""
    run = RunDir(tmp_path)
    intermediate, target = 3 * 12 + 4 * 4, 2 * 12 + 3 * 4
    trained = [phase for phase in plan.phases if phase.train]
    starts = {phase.init for phase in trained}

    def by_hand(at_once: int) -> int:
        """Each phase that begins stands beside those before it, ended or at work; none beside what it starts from."""
        peak, working, ended = 0, [], 0
        for phase in trained:
            if phase.init in working or len(working) == at_once:
                working.remove(phase.init if phase.init in working else working[0])
                ended += 1
                if len(working) == at_once:
                    working.pop(0)
                    ended += 1
            working.append(phase.id)
            peak = max(peak, 4 * ended + sum(intermediate if name in starts else target for name in working))
        return peak

    for at_once in (1, 2, 3, 10):
        use = disk_use(run, plan, "encoders", PARAMETERS, at_once)
        assert use.peak // PARAMETERS == by_hand(at_once) and use.end // PARAMETERS == 40
    one, four = (disk_use(run, plan, "scores", PARAMETERS, count).peak // PARAMETERS for count in (1, 4))
    assert one == intermediate and four > 3 * target


def test_clean_finds_leftovers_and_phases_of_other_plans(plan: Plan, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    first = next(phase for phase in plan.phases if phase.train)
    finish(run, first)
    torn = run.phase(first.id).checkpoints / "step-1" / "shard"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(bytes(7))
    (run.root / "phases" / "old-phase").mkdir()
    (run.root / "phases" / "old-phase" / "x").write_bytes(bytes(3))
    assert [(found.phase_id, found.bytes) for found in leftovers(run, plan)] == [(first.id, 7)]
    assert [(found.phase_id, found.bytes) for found in unplanned(run, plan)] == [("old-phase", 3)]
