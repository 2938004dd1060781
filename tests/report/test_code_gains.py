"""Scores beside pass@1: where no program passes they tell conditions apart, and their gains are tested."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import QUICK, build_run, table

from stilts_ds.config import load_recipe
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


def test_a_target_without_such_scores_has_no_column(tmp_path: Path) -> None:
    run = build_run(tmp_path, skill, {"none": [], "mnli": ["mnli"]}, ("tatoeba",))
    write_report(run, QUICK)
    assert "code-gains" not in read_json(run.results)["statistics"]["tables"]
