"""Benchmarks as values: XTREME-R's tasks and languages, an average that is withheld until all of it is there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import ranks
from scoring_cases import MOCK
from stilts_launcher import cli

from stilts_ds.config import load_recipe, parse_recipe
from stilts_ds.data.data import fitted_task
from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_folder
from stilts_ds.evaluate.submission import validate_submission, write_submission
from stilts_ds.families.ranking.record import Wanted
from stilts_ds.families.ranking.score import Ranking
from stilts_ds.families.registry import family_of
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.planner import make_plan
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.benchmarks import XTREME, XTREME_R, get_benchmark
from stilts_ds.tasks.languages import XTREME_R as FIFTY
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.spec import Task
from stilts_ds.toy import LANGUAGES as TOY_LANGUAGES
from stilts_ds.toy.sources import Source
from stilts_ds.toy.targets import write_lareqa

MEWSLIX = ranks.SHARED / "data/xtreme_r/mewslix_mock"
TEN = {name: XTREME_R.fitted(TASKS[name]) for name in XTREME_R.tasks}


def test_xtreme_r_has_ten_tasks_in_fifty_languages() -> None:
    sizes = {name: len(task.languages) for name, task in TEN.items()}
    assert sizes == {
        "xnli": 15, "xcopa": 11, "udpos": 38, "panx": 48, "xquad": 12, "mlqa": 7, "tydiqa": 9, "tatoeba": 41,
        "mewslix": 11, "lareqa": 11,
    }  # fmt: skip
    assert all(len(set(task.languages)) == len(task.languages) for task in TEN.values())
    assert {code for task in TEN.values() for code in task.languages} == set(FIFTY) and len(FIFTY) == 50
    assert "wo" in TEN["udpos"].languages and "ro" in TEN["xquad"].languages


def test_xtreme_keeps_its_tasks_and_languages() -> None:
    assert len(XTREME.tasks) == 9
    assert {name: len(XTREME.fitted(TASKS[name]).languages) for name in ("udpos", "panx", "xquad", "tatoeba")} == {
        "udpos": 33, "panx": 40, "xquad": 11, "tatoeba": 36,
    }  # fmt: skip


def test_a_recipe_names_its_benchmark() -> None:
    values = {"name": "x", "targets": ["udpos"], "data": {"source": "local"}}
    assert len(fitted_task("udpos", parse_recipe(values, "here")).languages) == 33
    assert len(fitted_task("udpos", parse_recipe({**values, "benchmark": "xtreme-r"}, "here")).languages) == 38
    with pytest.raises(UserError, match="benchmark"):
        parse_recipe({**values, "benchmark": "xtreme-q"}, "here")
    with pytest.raises(UserError, match="unknown benchmark 'xtreme_r'; did you mean xtreme-r"):
        get_benchmark("xtreme_r")


# --- the mock submission ---------------------------------------------------------------------------------------------


@pytest.mark.data("xtreme_mock", "xtreme_r/mewslix_mock")
def test_the_mock_submissions_numbers_are_the_reference_scorers(tmp_path: Path) -> None:
    for side in ("predictions", "labels"):
        shutil.copytree(MOCK / side, tmp_path / side)
        shutil.copytree(MEWSLIX / side / "mewslix", tmp_path / side / "mewslix", dirs_exist_ok=True)
    scores = score_folder(tmp_path / "predictions", tmp_path / "labels", "test", TEN, benchmark=XTREME_R)
    assert scores["mewslix"]["avg_metric"] == pytest.approx(14.39025156130419, abs=1e-13)
    assert scores["xnli"]["avg_metric"] == 30.666666666666668
    assert (scores["mlqa"]["avg_exact_match"], scores["mlqa"]["avg_f1"]) == (57.142857142857146, 81.76870748299321)
    assert (scores["tydiqa"]["avg_exact_match"], scores["tydiqa"]["avg_f1"]) == (88.88888888888889, 97.22222222222223)
    # The mock set has no LAReQA, no XCOPA and none of the languages that XTREME-R adds.
    assert scores["all_task"] is None and scores["retrieval"] is None
    assert list(scores["missing"]["udpos"]) == ["lt", "pl", "ro", "uk", "wo"] and list(scores["missing"]["xquad"]) == [
        "ro"
    ]
    assert len(scores["missing"]["lareqa"]) == 11 and not scores["complete"]


# --- a whole submission ----------------------------------------------------------------------------------------------


def values_of(task: Task) -> tuple[Any, Any]:
    """Two gold values of a task, and predictions of which the second is wrong."""
    if task.family == "ranking":
        gold = [Wanted("a", ("x",)), Wanted("b", ("y",))]
        return gold, {"a": Ranking(("x", "y")), "b": Ranking(("x", "y"))}
    if task.family == "span":
        spans = [Span(id, "?", "one two", (Answer("one two", 0),)) for id in "ab"]
        return spans, {"a": "one two", "b": "one"}
    if task.family == "tag":
        return [[task.labels[0]], [task.labels[0]]], [[task.labels[0]], [task.labels[-1]]]
    if task.labels:
        return [task.labels[0]] * 2, list(task.labels[:2])
    return [0, 0], [0, 1]


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    for name, task in TEN.items():
        files = family_of(task).files(task)
        gold, predicted = values_of(task)
        for language in task.languages:
            files.write_labels(tmp_path / "labels" / name / files.name("test", language), gold)
            files.write(tmp_path / "predictions" / name / files.name("test", language), predicted)
    return tmp_path


def score_whole(folder: Path, **options: Any) -> dict[str, Any]:
    return score_folder(folder / "predictions", folder / "labels", "test", TEN, benchmark=XTREME_R, **options)


def test_the_average_is_the_mean_of_the_ten_tasks(whole: Path) -> None:
    scores = score_whole(whole, qa_by_f1=True)
    averages = {name: scores[name]["avg_metric"] for name in TEN}
    # One of two right; by rank 1 and 2; half exact, and two thirds of the words of the other.
    assert averages["xcopa"] == averages["xnli"] == averages["tatoeba"] == 50
    assert averages["mewslix"] == averages["lareqa"] == 75
    assert averages["xquad"] == pytest.approx((50 + 500 / 6) / 2)
    assert scores["all_task"] == pytest.approx(sum(averages.values()) / 10)
    assert scores["retrieval"] == pytest.approx((50 + 75 + 75) / 3) and scores["classification"] == 50
    by_f1 = {**averages, **dict.fromkeys(("xquad", "mlqa", "tydiqa"), 500 / 6)}
    assert scores["all_task_qa_f1"] == pytest.approx(sum(by_f1.values()) / 10)
    assert "all_task_qa_f1" not in score_whole(whole)


def test_one_missing_language_is_named_and_withholds_the_average(whole: Path) -> None:
    (whole / "predictions/udpos/test-wo.tsv").unlink()
    scores = score_whole(whole, qa_by_f1=True)
    assert (scores["all_task"], scores["all_task_qa_f1"], scores["tagging"]) == (None, None, None)
    assert list(scores["missing"]) == ["udpos"] and list(scores["missing"]["udpos"]) == ["wo"]
    assert scores["qa"] is not None


def test_the_command_scores_the_benchmark_it_is_asked_for(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = ["--predictions", str(whole / "predictions"), "--labels", str(whole / "labels")]
    shutil.rmtree(whole / "labels/lareqa")
    assert cli.main(["score", *folders, "--benchmark", "xtreme-r", "--qa-f1", "--output", str(whole / "out")]) == 0
    shown = capsys.readouterr().out
    assert "all_task_qa_f1" in shown and "It is not XTREME-R's score, which is the mean of its 10 tasks." in shown
    scores = json.loads((whole / "out/scores.json").read_text())
    assert list(scores["missing"]) == ["lareqa"] and scores["benchmark"] == "xtreme-r"


def test_a_submission_holds_the_ten_tasks_in_their_own_layouts(whole: Path) -> None:
    """Of sizes that nobody checks here: the files of this test hold two examples each."""
    tasks = {name: dataclasses.replace(task, test_sizes={}) for name, task in TEN.items()}
    folders = {name: whole / "predictions" / name for name in tasks}
    written = write_submission(folders, whole / "out", tasks, {}, XTREME_R)
    assert len(written) == sum(len(task.languages) for task in tasks.values())
    assert {path.name for path in (whole / "out").iterdir()} == set(XTREME_R.tasks)
    assert (whole / "out/xcopa/test-it.jsonl").read_text().splitlines() == ['{"label": 0}', '{"label": 1}']
    assert len(list((whole / "out/mewslix").iterdir())) == len(TEN["mewslix"].languages) == 11
    assert validate_submission(whole / "out", tasks, {}, XTREME_R) == []
    (whole / "out/lareqa/test-th.json").unlink()
    [problem] = validate_submission(whole / "out", tasks, {}, XTREME_R)
    assert problem.startswith("lareqa: no prediction for th")
    [first, *_] = validate_submission(whole / "predictions", TEN, {}, XTREME_R)  # and where the sizes are known
    assert "other numbers of examples than in the benchmark's test set" in first


# --- the recipe ------------------------------------------------------------------------------------------------------


def test_the_plan_is_shown_where_no_data_are_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mewsli-X is not on the hub: the plan says so, and shows every phase all the same."""
    assert cli.main(["plan", "xtreme_r", "data.source=hub", f"output_dir={tmp_path}", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len({phase["id"] for phase in shown["phases"]}) == len(shown["phases"]) == 145
    assert shown["lacking"]["wikipedia_links"].startswith("wikipedia_links: data.xtreme is not set")


def test_the_recipe_plans_each_training_once() -> None:
    """Ten targets; SQuAD is trained once a condition and seed for XQuAD and MLQA, and the ones that settings tell apart
    (its sentences for LAReQA) stand by themselves."""
    recipe = load_recipe("xtreme_r")
    plan = make_plan(recipe, "model", lambda task: "data")
    assert recipe.benchmark == "xtreme-r" and set(recipe.targets) == set(XTREME_R.tasks)
    runs = len(recipe.intermediate) * len(recipe.seeds)
    assert len({phase.id for phase in plan.phases}) == len(plan.phases) == 145
    assert Counter(phase.kind for phase in plan.phases) == {"intermediate": 12, "target": 120, "retrieval": 13}
    trainings = Counter(phase.train for phase in plan.phases if phase.kind == "target")
    assert len(trainings) == 8 and set(trainings.values()) == {runs}
    squad = [phase for phase in plan.phases if phase.kind == "target" and phase.train == ("squad_v1",)]
    assert len(squad) == runs and {phase.evaluate for phase in squad} == {("xquad", "mlqa")}
    ranked = [phase for phase in plan.phases if phase.kind == "target" and phase.evaluate == ("lareqa",)]
    assert len(ranked) == runs and {phase.training["pool_size"] for phase in ranked} == {4}
    assert {phase.training.get("keep_head") for phase in plan.phases if phase.evaluate == ("xcopa",)} == {True}


def test_multichecklist_is_scored_by_the_run_on_squad() -> None:
    recipe = load_recipe("xtreme_r", ["targets=[xquad, mlqa, multichecklist]", "seeds=[1]"])
    plan = make_plan(recipe, "model", lambda task: "data")
    targets = [phase for phase in plan.phases if phase.kind == "target"]
    assert {phase.evaluate for phase in targets} == {("xquad", "mlqa", "multichecklist")} and len(targets) == 5


def test_the_quickstarts_world_has_a_small_lareqa(tmp_path: Path) -> None:
    """A question searches the sentences of all four languages, and is answered once in each."""
    recipe = load_recipe("quickstart")
    write_lareqa(Source(recipe.data.seed), tmp_path)
    task = fitted_task("lareqa", recipe)
    assert "lareqa" in recipe.targets and task.languages == TOY_LANGUAGES
    asked = {code: list(read_examples(task, "test", code, DataSource(xtreme=tmp_path))) for code in task.languages}
    assert {len(queries) for queries in asked.values()} == {60}
    pool = [candidate.id for candidate in asked["qac"][0].pool]
    assert len(pool) == len(set(pool)) and pool == [one.id for one in asked["qad"][0].pool]
    for query in asked["qab"]:
        assert [id.partition("_")[0] for id in query.right] == list(TOY_LANGUAGES)
        assert set(query.right) < set(pool)
