"""`stilts submission` of a whole run: which condition and seed are sent, and what the manifest says of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import Recipe, parse_recipe, recipe_yaml
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.evaluate.run_submission import write_run_submission as submit
from stilts_ds.families.registry import family_of
from stilts_ds.phase_status import Best, TaskBest
from stilts_ds.plan_file import Plan
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir, hash_file, read_json, write_atomically
from stilts_ds.tasks.benchmarks import XTREME as BENCHMARK
from stilts_ds.toy.world import ensure_toy_world

CONDITIONS = {"none": [], "mnli": ["mnli"], "qqp": ["qqp"]}
# English dev scores of (condition, training task, seed); the pretrained encoder is best for tags, `qqp` overall.
DEV: Mapping[str, Mapping[str, float]] = {
    "none": {"udpos": 90.0, "panx": 50.0, "mnli": 50.0, "pawsx": 50.0, "squad_v1": 50.0, "tydiqa": 50.0},
    "mnli": {"udpos": 50.0, "panx": 70.0, "mnli": 80.0, "pawsx": 60.0, "squad_v1": 50.0, "tydiqa": 50.0},
    "qqp": {"udpos": 80.0, "panx": 70.0, "mnli": 70.0, "pawsx": 70.0, "squad_v1": 60.0, "tydiqa": 50.0},
}


def recipe_of(folder: Path, seeds: list[int], **more: Any) -> Recipe:
    values = {
        "name": "study", "output_dir": str(folder), "seeds": seeds, "model": {"name_or_path": "toy"},
        "data": {"source": "toy"}, "intermediate": CONDITIONS, "targets": list(BENCHMARK.tasks), **more,
    }  # fmt: skip
    return parse_recipe(values, "test")


def build(folder: Path) -> tuple[RunDir, Recipe]:
    """A finished run in the toy world whose phases all predict the gold values."""
    recipe, run = recipe_of(folder, [1, 2]), RunDir(folder / "study")
    ensure_toy_world(run.root / "data", recipe.data.seed)
    plan = make_plan(recipe, "0123456789abcdef", lambda task: task)
    write_atomically(run.recipe, recipe_yaml(recipe))
    plan.save(run.plan)
    gold = folder / "gold"
    write_gold(gold, recipe, run)
    for phase in plan.phases:
        if phase.kind == "intermediate":
            continue
        for name in phase.evaluate:
            shutil.copytree(gold / name, run.phase(phase.id).predictions / name)
        best = None
        if phase.train:
            score = DEV[phase.condition][phase.train[0]] + phase.seed / 10
            best = Best(step=1, of=1, selection=score, tasks={phase.train[0]: TaskBest(
                score=score, best=score, best_step=1)})  # fmt: skip
        run.phase(phase.id).set_status("done", best=best)
    return run, recipe


def write_gold(folder: Path, recipe: Recipe, run: RunDir) -> None:
    """What a perfect model predicts, in prediction files."""
    data = Data(recipe, run.root)
    for task in map(data.task, BENCHMARK.tasks):
        family, files = family_of(task), family_of(task).files(task)
        for code in task.languages:
            gold = family.label_values(family, task, data.evaluation(task, "test", code).records())
            values = {q.id: q.answers[0].text for q in gold} if task.family == "span" else gold
            files.write(folder / task.name / files.name("test", code), values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Recipe]:
    return build(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def copy(finished: tuple[RunDir, Recipe], tmp_path: Path) -> tuple[RunDir, Recipe]:
    shutil.copytree(finished[0].root, tmp_path / "copy")
    return RunDir(tmp_path / "copy"), finished[1]


def manifest(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(output.with_name(output.name + ".json"))
    return found


def test_several_seeds_and_none_named_is_refused(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the run has the seeds 1, 2; name the one to submit with --seed"):
        submit(*finished, tmp_path / "out")
    with pytest.raises(UserError, match="the run has no seed 3; it has 1, 2"):
        submit(*finished, tmp_path / "out", seed=3)
    with pytest.raises(UserError, match="the run has no condition 'mnly'; did you mean mnli"):
        submit(*finished, tmp_path / "out", "mnly", seed=1)


def test_one_conditions_submission_names_condition_and_seed(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    said = submit(*finished, tmp_path / "out", "mnli", seed=2)
    assert "xnli: condition mnli, seed 2, English dev 80.2 (named)" in said
    assert "tatoeba: condition mnli, seed 2 (named)" in said
    told = manifest(tmp_path / "out")
    assert (told["run"], told["seed"]) == ("study", 2) and list(told["tasks"]) == list(BENCHMARK.tasks)
    plan = Plan.load(finished[0].plan)
    phases = {phase.id: phase for phase in plan.phases}
    for name, task in told["tasks"].items():
        phase = phases[task["phase"]]
        assert (phase.condition, phase.seed) == ("mnli", 2) and name in phase.evaluate
    assert told["tasks"]["udpos"]["english_dev"] == 50.2


def test_the_pretrained_encoders_retrieval_has_no_seed(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    said = submit(*finished, tmp_path / "out", "none", seed=2)
    assert "tatoeba: condition none, any seed (named)" in said
    assert manifest(tmp_path / "out")["tasks"]["tatoeba"]["seed"] is None


def test_the_best_set_is_chosen_on_english_dev(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    said = submit(*finished, tmp_path / "out", best=True, seed=1)
    told = manifest(tmp_path / "out")["tasks"]
    assert {name: task["condition"] for name, task in told.items()} == {
        "xnli": "mnli", "udpos": "none", "pawsx": "qqp", "xquad": "qqp", "mlqa": "qqp",
        "panx": "mnli",  # as good as qqp, and before it in the recipe
        "tydiqa": "none",  # all are alike
        "bucc2018": "qqp", "tatoeba": "qqp",  # no dev score of their own: the best mean of the others
    }  # fmt: skip
    assert told["xnli"]["english_dev"] == 80.1 and told["tatoeba"]["english_dev"] is None
    assert told["udpos"]["chosen_by"].startswith("best English dev score")
    assert told["tatoeba"]["chosen_by"].startswith("best mean of the other targets' English dev scores")
    assert "udpos: condition none, seed 1, English dev 90.1 (best English dev score of its training task)" in said


def test_no_test_score_takes_part(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    """The run has no results at all, only statuses."""
    assert not list(finished[0].root.glob("phases/*/results"))
    submit(*finished, tmp_path / "out", best=True, seed=1)


def test_a_missing_dev_score_is_named(copy: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    run, recipe = copy
    phase = next(p for p in Plan.load(run.plan).phases if (p.train, p.condition, p.seed) == (("udpos",), "qqp", 1))
    run.phase(phase.id).status_json.unlink()
    with pytest.raises(UserError, match=r"`target udpos \(after qqp, seed 1\)`, which is pending, has no English dev"):
        submit(run, recipe, tmp_path / "out", best=True, seed=1)
    assert "udpos: condition qqp, seed 1 (named)" in submit(run, recipe, tmp_path / "out", "qqp", seed=1)


def test_the_manifest_tells_files_sizes_and_hashes(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    said = submit(*finished, tmp_path / "out", "none", seed=1)
    task = manifest(tmp_path / "out")["tasks"]["pawsx"]
    code, described = next(iter(task["languages"].items()))
    path = tmp_path / "out" / "pawsx" / f"test-{code}.tsv"
    assert described == {"examples": len(path.read_text().split()), "benchmark": None, "sha256": hash_file(path)}
    assert task["data_files"][f"pawsx/test-{code}.tsv"]["published"] is None
    assert "size unknown: pawsx in" in said  # the toy world is nobody's benchmark
    assert manifest(tmp_path / "out")["size_unknown"]["pawsx"] == list(task["languages"])


def test_a_refused_submission_leaves_no_manifest(copy: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    submit(*copy, tmp_path / "out", seed=1)
    assert manifest(tmp_path / "out")["seed"] == 1
    for path in copy[0].root.glob("phases/*/predictions/xnli/test-*.tsv"):
        path.unlink()
    with pytest.raises(UserError, match="xnli: no prediction for"):
        submit(*copy, tmp_path / "out", seed=1)
    assert not (tmp_path / "out.json").exists()


def test_pos_from_the_hub_is_refused(finished: tuple[RunDir, Recipe], tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, [1], data={"source": "hub"})
    with pytest.raises(UserError, match="udpos from the hub has other words than XTREME's files"):
        submit(finished[0], recipe, tmp_path / "out")
