"""What was made from weights is made again where they are others now: predictions, and phases that start from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_recipe import recipe

from stilts_ds.errors import UserError
from stilts_ds.evaluate.stamp import Stamp, complete_stamps
from stilts_ds.lineage import is_outdated, model_weights, save_start, start_over_if_outdated, start_weights, unfinished
from stilts_ds.phase_setup import take_up
from stilts_ds.plan_file import Phase
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import PhaseDir, RunDir, write_json, write_sealed

pytestmark = pytest.mark.processes  # a plan asks git and uname what made it
VALUE = recipe(intermediate={"nli": ["mnli"]}, targets=["xnli", "tatoeba"])


def export(folder: PhaseDir, encoder: str, heads: str = "heads") -> None:
    """What a phase leaves when it exports a model, as far as hashes of weights go."""
    folder.encoder.mkdir(parents=True, exist_ok=True)
    files = {"encoder/config.json": "any", "encoder/model.safetensors": encoder, "heads.safetensors": heads}
    write_sealed(folder.heads_json, {"files": files})


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Every phase is done, each with what it started from."""
    made = RunDir(tmp_path)
    for phase in phases():
        folder = made.phase(phase.id)
        if phase.train:
            export(folder, f"weights of {phase.id}")
        folder.set_status("done", started_from=start_weights(made, VALUE, phase))
    return made


def phases() -> tuple[Phase, ...]:
    return make_plan(VALUE, "model", lambda task: "data").phases


def test_phases_behind_a_model_that_was_trained_again_are_run_again(run: RunDir) -> None:
    first, *behind = phases()
    assert first.kind == "intermediate" and len(behind) == 2
    assert unfinished(run, phases()) == []
    export(run.phase(first.id), f"weights of {first.id}", heads="others, which nobody behind it takes over")
    assert unfinished(run, phases()) == []
    export(run.phase(first.id), "other weights")
    assert unfinished(run, phases()) == behind and all(is_outdated(run, phase) for phase in behind)


def test_what_waits_behind_a_phase_that_is_run_is_run_too(run: RunDir) -> None:
    run.phase(phases()[0].id).status_json.unlink()
    assert unfinished(run, phases()) == list(phases())


def test_an_outdated_phase_forgets_its_checkpoints_and_starts_over(run: RunDir) -> None:
    first, *_, target = phases()
    folder = run.phase(target.id)
    folder.set_status("stopped:SIGTERM")
    (folder.checkpoints / "step-000004").mkdir(parents=True)
    start_over_if_outdated(run, target)
    assert folder.status() == "stopped:SIGTERM" and folder.checkpoints.exists()
    export(run.phase(first.id), "other weights")
    with pytest.raises(UserError, match="was trained again, with other weights"):
        take_up(run, target, "evaluate")
    take_up(run, target, None)
    assert folder.status() == "pending" and not folder.checkpoints.exists()


def test_a_status_of_an_earlier_version_learns_what_the_phase_started_from_once(run: RunDir) -> None:
    first, *_, target = phases()
    folder = run.phase(target.id)
    before = folder.read_status()
    folder.status_json.unlink()
    folder.set_status("done", seconds=7.5)
    assert folder.read_status().started_from is None and not is_outdated(run, target)
    save_start(run, VALUE, target)
    status = folder.read_status()
    assert (status.started_from, status.seconds, status.state) == (before.started_from, 7.5, "done")
    export(run.phase(first.id), "other weights")
    save_start(run, VALUE, target)
    assert folder.read_status() == status


def test_a_prediction_is_of_the_weights_that_made_it(run: RunDir) -> None:
    phase = phases()[-1]
    folder = run.phase(phase.id)
    predictions, labels = folder.predictions / "xnli" / "test-de.tsv", run.labels / "xnli" / "test-de.tsv"
    for path in (predictions, labels):
        path.parent.mkdir(parents=True)
        path.write_text("neutral\n")
    stamp = Stamp(phase=phase.id, weights=model_weights(folder), settings={}, split="test", data="data", files={})
    stamp.save(run, predictions, [predictions, labels])
    assert stamp.is_of(run, predictions)
    for encoder, heads in (("other weights", "heads"), (f"weights of {phase.id}", "other heads")):
        export(folder, encoder, heads)
        assert not stamp.model_copy(update={"weights": model_weights(folder)}).is_of(run, predictions)


@pytest.mark.parametrize(("kept", "same"), [(20, True), (3, False)])
def test_a_prediction_of_an_earlier_version_is_known_by_what_counts(run: RunDir, kept: int, same: bool) -> None:
    folder = run.phase(phases()[-1].id)
    predictions = folder.predictions / "xnli" / "test-de.tsv"
    predictions.parent.mkdir(parents=True)
    predictions.write_text("neutral\n")
    stamp = Stamp(phase="p", settings={"max_answer_length": 30}, split="test", data="data", files={})
    stamp.model_copy(update={"settings": {"n_best": kept, **stamp.settings}}).save(run, predictions, [predictions])
    assert stamp.is_of(run, predictions) is same


def test_a_stamp_of_an_earlier_version_gets_the_weights_that_are_there_and_keeps_them(run: RunDir) -> None:
    folder = run.phase(phases()[-1].id)
    path = folder.predictions / "xnli" / ".test-de.tsv.inputs.json"
    before = {"phase": "p", "settings": {}, "split": "test", "data": "data", "files": {}}
    write_json(path, before)
    complete_stamps(folder, "one")
    complete_stamps(folder, "two")
    assert json.loads(path.read_text()) == {**before, "weights": "one"}
