"""Scores beside pass@1: where no program passes they tell conditions apart, and their gains are tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import QUICK, build_run, name_files, table

from stilts_ds.config import load_recipe
from stilts_ds.report.side_by_side import tables_side_by_side
from stilts_ds.report.study_page import study_page
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json


def skill(condition: str, task: str, language: str) -> float:
    return 0.9 if condition == "mnli" else 0.3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = build_run(
        tmp_path_factory.mktemp("study"), skill, {"none": [], "mnli": ["mnli"]}, ("humaneval", "mbxp"),
        {"humaneval": ["en"], "mbxp": ["python", "php"]}, examples=60,
    )  # fmt: skip
    write_report(run, QUICK)
    return run


def test_what_needs_no_right_program_is_tested_where_pass_at_1_is_0(run: RunDir) -> None:
    assert table(run, "matrix")["mnli"]["humaneval"]["gain"] == 0
    gains = table(run, "code-gains")
    assert list(gains["mnli"]) == [
        f"{task} {score}" for task in ("humaneval", "mbxp") for score in ("parses", "solution_tokens", "solution_mrr")
    ]
    for column, cell in gains["mnli"].items():
        base = gains["none"][column]["score"]
        assert cell["gain"] == pytest.approx(cell["score"] - base)
        assert 0 < cell["low"] < cell["gain"] < cell["high"] and cell["significant"], column


def test_gains_are_of_the_scores_that_the_results_have(run: RunDir) -> None:
    table_of_scores = table(run, "scores-mbxp")
    for condition, cells in table(run, "code-gains").items():
        for score in ("parses", "solution_tokens", "solution_mrr"):
            assert cells[f"mbxp {score}"]["score"] == pytest.approx(
                table_of_scores[f"{condition}, {score}"]["mean"]["score"]
            )


def test_a_page_has_the_gains_and_all_scores_with_their_floors(run: RunDir) -> None:
    page = study_page(read_json(run.results), load_recipe(str(run.recipe)))
    section = page.split("## Gains beside pass@1")[1].split("\n## ")[0]
    assert section.count("| yes |") == 6 and "| mnli, humaneval solution_mrr |" in section
    scores = page.split("## All scores by language: mbxp")[1].split("\n## ")[0]
    assert "| none, pass@1 | 0.0 | 0.0 | 0.0 |" in scores and "29.3 by chance" in scores


def test_runs_are_compared_in_what_stands_beside_pass_at_1(run: RunDir) -> None:
    """A control of another length is a run of its own: that pass@1 is 0 in both says nothing."""
    names = [f"{run.root}:none", f"{run.root}:mnli"]
    name_files(run)
    main, beside = tables_side_by_side(names, [], QUICK)
    gains = table(run, "code-gains")["mnli"]
    assert [row.label for row in beside.rows] == list(gains)  # a row for each score of each target
    for row in beside.rows:
        tested = row.cells[1].gain
        assert tested is not None and tested.significant
        assert tested.value == pytest.approx(gains[row.label]["gain"])
        assert tested.low == pytest.approx(gains[row.label]["low"], abs=1)
    assert all(row.cells[1].gain is not None and row.cells[1].gain.value == 0 for row in main.rows)  # pass@1


def under_noise(condition: str, task: str, language: str) -> float:
    """`mnli` is better by 30 points, and loses none of them to typos, which cost the baseline ten."""
    return 0.8 if condition == "mnli" else 0.5 - 0.1 * ("@" in task)


def test_under_noise_gains_and_costs_are_tested_where_pass_at_1_is_0(tmp_path: Path) -> None:
    targets = ("humaneval_xl", "humaneval_xl@typo-5", "humaneval_xl@typo-5-s2")
    languages = {name: ["de", "ar"] for name in targets}
    run = build_run(tmp_path, under_noise, {"none": [], "mnli": ["mnli"]}, targets, languages, examples=80)
    write_report(run, QUICK)
    clean, noisy = table(run, "code-gains"), table(run, "noise-gains-scores beside pass@1")
    costs = table(run, "noise-costs-scores beside pass@1")
    scores = ("parses", "solution_tokens", "solution_mrr")
    assert list(clean["mnli"]) == [f"humaneval_xl {score}" for score in scores]  # clean descriptions alone
    assert list(noisy["mnli"]) == list(costs["mnli"]) == [f"humaneval_xl@typo-5 {score}" for score in scores]
    for score in scores:
        column = f"humaneval_xl@typo-5 {score}"
        lost = costs["mnli"][column]["mean_gain"]
        assert noisy["mnli"][column]["mean_gain"] == pytest.approx(
            clean["mnli"][f"humaneval_xl {score}"]["gain"] + lost
        )
        assert noisy["mnli"][column]["significant"] and "p" not in noisy["none"][column]
    page = study_page(read_json(run.results), load_recipe(str(run.recipe)))
    title = "Points that noise costs less than after none: scores beside pass@1"
    assert "| none | 0.0 | 0.0 | 0.0 |" in page  # pass@1: no share of 0 can be taken
    assert f"## {title}" in page and "## Gains over none under noise: scores beside pass@1" in page


def test_a_target_without_such_scores_has_no_column(tmp_path: Path) -> None:
    run = build_run(tmp_path, skill, {"none": [], "mnli": ["mnli"]}, ("tatoeba",))
    write_report(run, QUICK)
    assert "code-gains" not in read_json(run.results)["statistics"]["tables"]
