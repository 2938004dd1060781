"""A run in Python, and runs side by side: the report's numbers, paired over runs, refused where nothing pairs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest
import ranks
import report_runs
from report_runs import QUICK, build_run, name_files
from stilts_launcher.cli import main

import stilts_ds
from stilts_ds.errors import UserError
from stilts_ds.evaluate.result import Result
from stilts_ds.plan_file import Plan
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json

CONDITIONS = {"none": [], "mnli": ["mnli"]}


def made(folder: Path, seeds: tuple[int, ...] = (1,), **more: object) -> RunDir:
    """A finished run whose results say which files were scored, as those of a real run do."""
    run = build_run(folder, seeds=seeds, intermediate=CONDITIONS, **more)  # type: ignore[arg-type]
    name_files(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made(tmp_path_factory.mktemp("study") / "a", (1, 2))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run of another model on the same files."""
    return made(tmp_path_factory.mktemp("study") / "b", model="facebook/other")


def test_scores_are_every_score_of_the_results(run: RunDir) -> None:
    scores = stilts_ds.load(run.root).scores()
    asked = scores[(scores.condition == "mnli") & (scores.task == "xquad") & (scores.language == "zh")]
    assert sorted(asked[asked.main].seed) == [1, 2]
    for row in asked.itertuples():
        kept = read_json(run.phase(row.phase_id).result("xquad"))
        assert row.score == (kept["main"]["zh"] if row.main else kept["languages"]["zh"][row.metric])
        assert (row.language_name, row.examples, row.split, row.model) == ("Chinese", 200, "test", "facebook/tiny")
    # Names that people read, with the folders' behind them.
    assert set(asked.phase) == {"mnli/seed1/xquad", "mnli/seed2/xquad"}
    # Retrieval of the baseline trains nothing, so it has one phase for all seeds.
    assert set(scores[(scores.task == "tatoeba") & (scores.condition == "none")].seed) == {0}


def test_gains_are_those_of_the_report(run: RunDir) -> None:
    write_report(run, QUICK)
    tables = read_json(run.results)["statistics"]["tables"]
    gains = stilts_ds.load(run.root).gains(resamples=QUICK.resamples)
    after = gains[gains.condition == "mnli"].set_index(["task", "language"])
    for task in (*report_runs.TARGETS, "average"):
        cell, row = tables["matrix"]["mnli"][task], after.loc[task, "all"]
        assert (row.score, row.gain, row.p_adjusted) == (cell["score"], cell["mean_gain"], cell["p_adjusted"])
        assert row.significant == cell["significant"] and row.baseline == "none"
    cell, row = tables["languages-xnli"]["en*"]["mnli"], after.loc["xnli", "en"]
    assert (row.score, row.low, row.high) == (cell["score"], cell["low"], cell["high"])
    assert set(gains.language) == {"all", *(code for codes in report_runs.LANGUAGES.values() for code in codes)}
    assert gains[gains.condition == "none"].gain.isna().all()


def test_curves_hold_each_step_of_each_phase(run: RunDir) -> None:
    curves = stilts_ds.load(run.root).curves()
    assert (
        curves[curves.curve == "loss"]
        .groupby("phase")
        .step.apply(list)
        .map(lambda steps: steps == [*range(1, 31)])
        .all()
    )
    first = curves[(curves.seed == 2) & (curves.curve == "loss") & (curves.step == 4)]
    assert first.value.tolist() == [pytest.approx(2.0 / 4 + 0.2)] * len(first)
    assert set(curves[curves.kind == "intermediate"].conditions) == {"mnli"}


@pytest.mark.parametrize(
    "task, code", [("xnli", "de"), ("udpos", "yo"), ("xquad", "el"), ("bucc2018", "zh"), ("tatoeba", "jv")]
)
def test_predictions_bring_what_the_score_is_made_of(run: RunDir, task: str, code: str) -> None:
    study = stilts_ds.load(run.root)
    answers = study.predictions(task, code).groupby(["condition", "seed"])
    scores = study.scores()
    of_file = scores[(scores.task == task) & (scores.language == code) & scores.main].set_index(["condition", "seed"])
    for key, units in answers:
        assert 100 * units.credit.sum() / units.out_of.sum() == pytest.approx(of_file.loc[key].score, abs=1e-9)
    assert set(answers.groups) == set(of_file.index)


def test_answers_stand_beside_what_is_right(run: RunDir) -> None:
    study = stilts_ds.load(run.root)
    questions = study.predictions("xquad", "el")
    right = [predicted in gold for gold, predicted in zip(questions.gold, questions.predicted)]
    assert right == (questions.credit == questions.out_of).tolist() and any(right) and not all(right)
    pairs = study.predictions("xnli", "de")
    assert ((pairs.gold == pairs.predicted) == (pairs.credit == 1)).all()
    assert "gold" not in study.predictions("bucc2018", "de").columns  # mined pairs are no answers to questions


def test_what_is_not_there_is_named(run: RunDir, tmp_path: Path) -> None:
    study = stilts_ds.load(run.root)
    with pytest.raises(UserError, match=r"no target 'xnil'.*xnli"):
        study.predictions("xnil", "de")
    with pytest.raises(UserError, match="xnli is not scored in 'fr' after none, but in en, de, sw, zh"):
        study.predictions("xnli", "fr")
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        stilts_ds.load(tmp_path)
    with pytest.raises(AttributeError, match="no 'laod'; it has load"):
        stilts_ds.laod  # noqa: B018


def test_two_conditions_of_a_run_differ_as_in_its_report(other: RunDir) -> None:
    run = other  # of one seed: how far seeds may lie apart is drawn by the name of the column
    write_report(run, QUICK)
    matrix = read_json(run.results)["statistics"]["tables"]["matrix"]["mnli"]
    found = stilts_ds.compare(f"{run.root}:none", f"{run.root}:mnli", resamples=QUICK.resamples).set_index("task")
    for task in (*report_runs.TARGETS, "average"):
        row, cell = found.loc[task], matrix[task]
        assert (row.gain, row.low, row.high, row.p) == (cell["mean_gain"], cell["low"], cell["high"], cell["p"]), task


def test_runs_of_two_models_are_compared_condition_by_condition(run: RunDir, other: RunDir) -> None:
    found = stilts_ds.compare(str(run.root), str(other.root), resamples=500)
    assert set(found.condition) == {f"{other.root}:none", f"{other.root}:mnli"}
    row = found[(found.condition == f"{other.root}:mnli") & (found.task == "xnli")].iloc[0]
    assert row.baseline == f"{run.root}:mnli"

    def means(study: RunDir) -> list[float]:
        scores = stilts_ds.load(study.root).scores()
        own = scores[(scores.condition == "mnli") & (scores.task == "xnli") & scores.main]
        return [fmean(seed.score) for _, seed in own.groupby("seed")]

    assert row.gain == pytest.approx(fmean(means(other)) - fmean(means(run)))
    assert (row.baseline_score, row.score) == (pytest.approx(median(means(run))), pytest.approx(median(means(other))))


def test_only_like_is_compared_with_like(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = made(tmp_path / "other", seeds=(1,))
    for phase in Plan.load(other.plan).phases:
        for path in map(other.phase(phase.id).result, phase.evaluate):
            kept = Result.load(path)
            changed = {
                "xnli": {"split": "dev"},
                "udpos": {"data": dict.fromkeys(kept.main, "other files")},
                "xquad": {"data": {}},
                "tatoeba": {"settings": {**kept.settings, "retrieval_layer": 3}},
            }
            kept.model_copy(update=changed.get(kept.task, {})).save(path)
    # Results that are not as the recipe says stand in no table, so the other split's are not there at all.
    assert main(["compare", str(run.root), str(other.root), "--resamples", "200"]) == 0
    out = capsys.readouterr().out
    assert "xnli is not compared" in out and "| xnli" not in out
    assert "udpos is not compared: its test files in en are not the same everywhere." in out
    assert "xquad is not compared: an earlier version scored it in en without keeping what its files were" in out
    assert "| bucc2018" in out and "average" not in out.split("bucc2018")[0]


@pytest.mark.parametrize(
    "names, message",
    [
        (["{a}"], "two runs or more"),
        (["{a}", "{a}"], "named twice"),
        (["{a}:none", "{b}:mnil"], "there is no condition 'mnil'.*mnli"),
        (["{a}:none", "{b}"], "has several conditions"),
        (["{a}", "{a}-gone"], "gone"),
    ],
)
def test_a_comparison_that_makes_no_sense_is_refused(
    run: RunDir, other: RunDir, names: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        stilts_ds.compare(*(name.format(a=run.root, b=other.root) for name in names))
    with pytest.raises(UserError, match="has no target 'xnil'"):
        stilts_ds.compare(str(run.root), str(other.root), targets=["xnil"])


def test_the_comparison_as_json_is_that_of_python(
    run: RunDir, other: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{run.root}:mnli", f"{other.root}:mnli"]
    assert main(["compare", *names, "--targets", "xnli", "udpos", "--resamples", "300", "--json"]) == 0
    [table] = json.loads(capsys.readouterr().out).values()
    found = stilts_ds.compare(*names, targets=["xnli", "udpos"], resamples=300).set_index("task")
    assert {task: cells[names[1]]["p"] for task, cells in table.items() if task != "notes"} == found.p.to_dict()


def test_predictions_of_no_run_are_scored_as_by_the_command(run: RunDir, tmp_path: Path) -> None:
    phase = next(p for p in Plan.load(run.plan).phases if "xnli" in p.evaluate)
    folder = run.phase(phase.id).predictions
    scores = stilts_ds.score(folder, run.labels)
    command = ["score", "--predictions", str(folder), "--labels", str(run.labels), "--output", str(tmp_path)]
    assert main(command) == 0
    assert read_json(tmp_path / "scores.json") == json.loads(json.dumps(scores))


def test_the_page_says_what_works(run: RunDir) -> None:
    page = (ranks.ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("runs/quickstart", str(run.root)), names)
    assert len(blocks) == 2 and isinstance(names["run"], stilts_ds.study.Run)
    for name in stilts_ds.__all__[:-1]:
        assert f"`{name}(" in page, name
