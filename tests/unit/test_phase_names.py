"""A phase's name: what changes its numbers is in it, what does not is not, and a name of the earlier kind is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_recipe import recipe

from stilts_ds.config import Recipe, TrainingPart, recipe_yaml
from stilts_ds.model_files import TOY, fingerprint
from stilts_ds.phase_names import EarlierPhases, left_alone
from stilts_ds.plan_file import Phase
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir, hash_json, write_atomically, write_json

pytestmark = pytest.mark.processes  # a plan asks git and uname what made it
TRAINED = {"intermediate": {"none": [], "nli": ["mnli", "squad_v1"]}, "targets": ["xnli", "tatoeba"]}


def planned(model: str = "model", earlier: EarlierPhases | None = None, **values: Any) -> dict[str, Phase]:
    """The phases of a recipe, by kind and condition."""
    phases = make_plan(recipe(**{**TRAINED, **values}), model, lambda task: f"data of {task}", earlier).phases
    return {f"{phase.kind} {phase.condition}": phase for phase in phases}


def ids(**values: Any) -> list[str]:
    return [phase.id for phase in planned(**values).values()]


@pytest.mark.parametrize(
    "training",
    [
        {"save_steps": 7},
        {"save_minutes": 3.0},
        {"save_total_limit": 5},
        {"logging_steps": 1},
        {"per_device_train_batch_size": 2},
        {"mlm_probability": 0.3},  # no running text is trained
        {"early_stopping_patience": 3},  # dev is evaluated once
    ],
    ids=str,
)
def test_a_setting_that_changes_no_number_changes_no_name(training: dict[str, Any]) -> None:
    assert ids(intermediate_training=training, target_training=training) == ids()


@pytest.mark.parametrize(
    "training", [{"learning_rate": 3e-6}, {"eval_steps": 10}, {"max_steps": 9}, {"max_seq_length": 64}], ids=str
)
def test_a_setting_that_changes_numbers_changes_the_name(training: dict[str, Any]) -> None:
    now = planned(intermediate_training=training, target_training=training)
    assert {name for name, phase in planned().items() if phase.id == now[name].id} == {"retrieval none"}


def test_patience_counts_where_dev_is_evaluated_more_than_once_and_epochs_where_no_steps_are_given() -> None:
    often = {"eval_steps": 10}
    assert ids(target_training=often) != ids(target_training={**often, "early_stopping_patience": 2})
    steps = {"max_steps": 9}
    assert ids(target_training=steps) == ids(target_training={**steps, "num_train_epochs": 5})
    assert ids() != ids(target_training={"num_train_epochs": 5})


def test_retrieval_with_the_pretrained_model_keeps_its_name_whatever_training_does() -> None:
    more = {"engine": {"dtype": "bf16"}, "data": {"max_train_examples": 10}}
    assert planned()["retrieval none"].id == planned(**more)["retrieval none"].id
    assert planned()["target none"].id != planned(**more)["target none"].id


def test_numbers_of_a_deepspeed_file_are_in_the_name_and_its_buckets_are_not(tmp_path: Path) -> None:
    def with_file(**content: Any) -> list[str]:
        path = tmp_path / "own.json"
        write_json(path, content)
        return ids(engine={"ds_config": str(path), "zero_stage": 1})

    assert with_file(zero_optimization={"reduce_bucket_size": 1000}) == ids()
    assert with_file(communication_data_type="fp32") == ids()  # what sums in fp32 do anyway
    assert with_file(communication_data_type="bf16") != ids()


@pytest.mark.parametrize(
    "name", ["vocab.txt", "sentencepiece.bpe.model", "merges.txt", "added_tokens.json", "spm.model"]
)
def test_every_vocabulary_file_is_part_of_a_models_fingerprint(name: str, tmp_path: Path) -> None:
    shutil.copytree(TOY, tmp_path / "model")
    plain = fingerprint(str(tmp_path / "model"), None)
    (tmp_path / "model" / name).write_text("one")
    first = fingerprint(str(tmp_path / "model"), None)
    (tmp_path / "model" / name).write_text("two")
    assert len({plain, first, fingerprint(str(tmp_path / "model"), None)}) == 3


# --- names of the earlier kind ---------------------------------------------------------------------------------------


def earlier_content(phase: Phase, origin: str, value: Recipe) -> dict[str, Any]:
    """What names were hashed of before, for the phases of the small recipe."""
    train = sorted(phase.train)
    content: dict[str, Any] = {
        "kind": phase.kind,
        "origin": origin,
        "train": train,
        "seed": phase.seed,
        "training": phase.training,
        "lengths": phase.lengths,
        "evaluate": sorted(phase.evaluate) if phase.kind == "retrieval" else [],
        "sampling": value.sampling.model_dump() if len(train) > 1 else {},
        "dtype": "fp32",
        "dropout": None,
        "max_train_examples": None,
        "train_split": {},
        "data": {task: f"data of {task}" for task in train},
    }
    if train:
        by = {"squad_v1": "exact_match_f1", "mnli": "accuracy", "qqp": "accuracy"}
        answers = {"n_best": 20, "max_answer_length": 30, "null_threshold": None} if "squad_v1" in train else {}
        content["selection"] = {"drawn": SELECTED["drawn"], "by": {task: by[task] for task in phase.train}, **answers}
    return content


SELECTED: dict[str, Any] = {}


@pytest.fixture
def earlier_run(tmp_path: Path) -> RunDir:
    """Every phase of the small recipe, done, under its name of the earlier kind; checkpoints were every 9 steps."""
    from stilts_ds.sources.draw import DRAW

    SELECTED["drawn"] = DRAW
    value = recipe(**TRAINED, intermediate_training={"save_steps": 9}, target_training={"save_steps": 9})
    run = RunDir(tmp_path)
    write_atomically(run.recipe, recipe_yaml(value))
    names = {"": EarlierPhases.of(run, value, str(TOY)).model_hash}
    for phase in make_plan(value, "whatever", lambda task: f"data of {task}").phases:
        content = earlier_content(phase, names[phase.init], value)
        names[phase.id] = f"{phase.id.rpartition('-')[0]}-{hash_json(content)[:12]}"
        folder = run.phase(names[phase.id])
        write_json(folder.phase_json, {**phase.to_json(), "id": names[phase.id], "init": names[phase.init]})
        folder.set_status("done")
    return run


def test_phases_with_names_of_the_earlier_kind_keep_them(earlier_run: RunDir) -> None:
    value = recipe(**TRAINED)
    there = {path.name for path in (earlier_run.root / "phases").iterdir()}
    assert len(there) == 5
    model = fingerprint(str(TOY), None)
    earlier = EarlierPhases.of(earlier_run, value, str(TOY))
    kept = planned(model, earlier, target_training={"logging_steps": 3})
    assert {phase.id for phase in kept.values()} == there
    assert {phase.init for phase in kept.values()} <= {"", *there}
    faster = planned(model, earlier, target_training={"learning_rate": 2e-5})
    assert {name for name, phase in faster.items() if phase.id not in there} == {"target none", "target nli"}


def test_they_are_not_kept_where_what_they_left_out_may_have_changed(earlier_run: RunDir, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    write_json(path, {"communication_data_type": "bf16"})
    other_sums = recipe(**TRAINED, engine={"ds_config": str(path), "zero_stage": 1})
    assert not EarlierPhases.of(earlier_run, other_sums, str(TOY)).folders
    model = tmp_path / "model"
    shutil.copytree(TOY, model)
    (model / "tokenizer.json").unlink()
    (model / "vocab.txt").write_text("one word")
    value = recipe(**TRAINED, model={"name_or_path": str(model)})
    assert not EarlierPhases.of(earlier_run, value, str(model)).folders


def first_run(folder: Path, **values: Any) -> RunDir:
    """Phases of the recipe, done, under names of the first naming, which did not say what selects."""
    value, run = recipe(**values), RunDir(folder)
    write_atomically(run.recipe, recipe_yaml(value))
    names = {"": EarlierPhases.of(run, value, str(TOY)).model_hash}
    for phase in make_plan(value, "whatever", lambda task: f"data of {task}").phases:
        content = earlier_content(phase, names[phase.init], value)
        content.pop("selection", None)
        names[phase.id] = f"{phase.id.rpartition('-')[0]}-{hash_json(content)[:12]}"
        folder_of = run.phase(names[phase.id])
        write_json(folder_of.phase_json, {**phase.to_json(), "id": names[phase.id], "init": names[phase.init]})
    return run


@pytest.mark.parametrize(
    "trained, used_whole, kept",
    [
        (["mnli"], True, {"retrieval none", "target none", "intermediate nli", "retrieval nli", "target nli"}),
        (["mnli"], False, {"retrieval none"}),  # selected on the first examples of a file
        (["mnli", "squad_v1"], True, {"retrieval none", "target none"}),  # no name said which answers are looked at
        (["mnli", "qqp"], True, {"retrieval none", "target none"}),  # selected by accuracy alone
    ],
    ids=["whole", "first examples", "answers", "another score"],
)
def test_phases_of_the_first_naming_are_kept_where_there_was_nothing_to_choose(
    trained: list[str], used_whole: bool, kept: set[str], tmp_path: Path
) -> None:
    values = {**TRAINED, "intermediate": {"none": [], "nli": trained}}
    run = first_run(tmp_path, **values)
    there = {path.name for path in (run.root / "phases").iterdir()}
    assert len(there) == 5
    asked = []

    def whole(task: str, setting: TrainingPart) -> bool:
        asked.append((task, setting.eval_examples))
        return used_whole

    earlier = EarlierPhases.of(run, recipe(**values), str(TOY), whole)
    model = fingerprint(str(TOY), None)
    now = planned(model, earlier, **values, target_training={"save_steps": 3})
    assert {name for name, phase in now.items() if phase.id in there} == kept
    assert set(asked) == {("mnli", 500)}
    shortened = planned(model, earlier, **values, data={"max_train_examples": 9})
    assert not there & {phase.id for phase in shortened.values()}


def test_phases_of_the_same_label_that_are_left_alone_are_named_with_the_difference(earlier_run: RunDir) -> None:
    plan = make_plan(recipe(**TRAINED, target_training={"learning_rate": 2e-5}), "model", lambda task: "data")
    told = left_alone(earlier_run, plan, plan.phases)
    target = next(line for line in told if line.startswith("target-mnli-"))
    assert "(done) is left alone: learning_rate is 1e-05 there and 2e-05 now" in target
    assert json.loads(earlier_run.phase(target.split()[0]).phase_json.read_text())["kind"] == "target"
