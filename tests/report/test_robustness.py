"""What noise costs: areas and drops by hand, a planted interaction, a pure shift, false positives, the worst draw."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_recipe
from report_runs import QUICK, build_run, name_files, table

import stilts_ds
from stilts_ds.config import load_recipe
from stilts_ds.errors import UserError
from stilts_ds.evaluate.touched import touched_file
from stilts_ds.families.metrics import ACCURACY, Units
from stilts_ds.families.registry import main_metric
from stilts_ds.named_tasks import check_tasks
from stilts_ds.report.robustness import area, relative_drop, worst_of
from stilts_ds.report.side_by_side import tables_side_by_side
from stilts_ds.report.stats import difference, generator, ratio_replicates
from stilts_ds.report.study_page import study_page
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json, write_json
from stilts_ds.tasks.registry import get_task

TARGETS = ("xnli", "xnli@typo-2", "xnli@typo-10", "xnli@typo-10-s2", "xnli@case-10")
LANGUAGES = {name: ["en", "de", "sw", "hi"] for name in TARGETS} | {"xnli@case-10": ["en", "de", "sw"]}


def planted(condition: str, task: str, language: str) -> float:
    """`mnli` bears typos better by five points; `qqp` is five points better with and without noise."""
    clean = 0.8 + 0.05 * (condition == "qqp")
    cost = {"typo-2": 0.05, "typo-10": 0.15}.get(task.partition("@")[2].removesuffix("-s2"), 0.0)
    return clean - cost + 0.05 * (condition == "mnli" and "typo-10" in task)


def planted_in_place_of_none(name: str, condition: str, task: str, language: str) -> float:
    return planted(name, task, language)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    conditions = {"none": [], "mnli": ["mnli"], "qqp": ["qqp"]}
    made = build_run(
        tmp_path_factory.mktemp("noise"), planted, conditions, TARGETS, LANGUAGES, examples=1500
    )  # fmt: skip
    for draw, errors, words in (("xnli@typo-10", 9.0, 40.0), ("xnli@typo-10-s2", 11.0, None)):
        touched = {"errors": errors, "words": words, "pieces": 30.0}
        write_json(touched_file(made.labels / draw / "test-de.tsv"), touched)
    write_report(made, QUICK)
    return made


def test_the_area_under_a_curve_is_its_mean_over_the_rates() -> None:
    assert area((0, 1, 2, 5, 10), (100, 99, 98, 95, 90)) == 95.0
    assert area((10, 0), (50, 100)) == 75.0


def test_drops_are_shares_of_what_there_is_to_lose() -> None:
    assert relative_drop(80.0, 60.0) == 25.0
    assert relative_drop(80.0, 60.0, chance=40.0) == 50.0
    assert relative_drop(30.0, 20.0, chance=100 / 3) is None
    assert get_task("xnli").chance == pytest.approx(33.333333333) and get_task("xcopa").chance == 50


def test_a_planted_interaction_is_found_and_a_pure_shift_is_not(run: RunDir) -> None:
    costs = table(run, "noise-costs-xnli")
    mnli, qqp = costs["mnli"], costs["qqp"]
    assert mnli["typo-10"]["significant"] and mnli["typo-10"]["mean_gain"] == pytest.approx(5, abs=2.5)
    assert not mnli["typo-2"]["significant"] and not mnli["case-10"]["significant"]
    assert not any(qqp[noise]["significant"] for noise in ("typo-2", "typo-10", "case-10"))
    text = run.report.read_text(encoding="utf-8")
    page = run.report.with_suffix(".html").read_text(encoding="utf-8")
    assert '<section id="variants">' in page and "More robust than none: mnli (typo-10)." in page
    assert "More robust than none: mnli (typo-10)." in text and "qqp (typo" not in text


def test_costs_are_differences_of_the_printed_scores_over_the_same_languages(run: RunDir) -> None:
    curve, costs = table(run, "noise-xnli-typo"), table(run, "noise-costs-xnli")
    for condition, row in curve.items():
        assert row["0"]["score"] - row["10"]["score"] == pytest.approx(costs[condition]["typo-10"]["score"], abs=1e-9)
        by_hand = area((0, 2, 10), [row[rate]["score"] for rate in ("0", "2", "10")])
        assert row["area"]["score"] == pytest.approx(by_hand)
        assert row["10, worst of 2"]["score"] < row["10"]["score"]
    relative = table(run, "noise-relative-xnli")["none"]
    share = 100 * costs["none"]["typo-10"]["score"] / curve["none"]["0"]["score"]
    assert relative["typo-10"]["score"] == pytest.approx(share)
    assert relative["typo-10, above chance"]["score"] > share


def test_a_gain_under_noise_is_the_clean_gain_and_the_points_that_noise_costs_less(run: RunDir) -> None:
    gains, costs, curve = table(run, "noise-gains-xnli"), table(run, "noise-costs-xnli"), table(run, "noise-xnli-typo")
    matrix = table(run, "matrix")
    for condition in ("mnli", "qqp"):
        for rate in ("2", "10"):  # typos apply to every language, so the matrix is over the same
            cell = gains[condition][f"typo-{rate}"]
            assert cell["score"] == pytest.approx(curve[condition][rate]["score"])
            kept = matrix[condition]["xnli"]["mean_gain"] + costs[condition][f"typo-{rate}"]["mean_gain"]
            assert cell["mean_gain"] == pytest.approx(kept, abs=1e-9)
            assert cell["low"] < cell["mean_gain"] < cell["high"] and cell["mean"] > 50
    # Better by five points with and without noise: a gain that noise leaves alone, and no robustness.
    assert gains["qqp"]["typo-10"]["significant"] and not costs["qqp"]["typo-10"]["significant"]
    assert "p" not in gains["none"]["typo-10"]
    assert "xnli: gains under noise" in run.report.read_text(encoding="utf-8")


def test_a_page_has_the_gains_under_noise_before_what_noise_costs(run: RunDir) -> None:
    page = study_page(read_json(run.results), load_recipe(str(run.recipe)))
    section = page.split("## Gains over none under noise: xnli")[1].split("\n## ")[0]
    assert "| mnli, typo-10 |" in section and "| qqp, case-10 |" in section and "| none, typo-10 |" not in section
    assert "| typo-10 takes, % |" in page and "| typo-10 takes above chance, % |" in page
    assert page.index("## Gains over none under noise: xnli") < page.index("## Points that noise costs less")


def test_what_noise_costs_is_compared_between_runs(run: RunDir, tmp_path: Path) -> None:
    """A run that trains robustly differs from one that does not by its training alone: no report holds both."""
    robust = partial(planted_in_place_of_none, "mnli")
    other = build_run(tmp_path / "other", robust, {"none": []}, TARGETS, LANGUAGES, examples=1500)
    name_files(run)
    name_files(other)
    names = [f"{run.root}:none", f"{other.root}:none", f"{run.root}:qqp"]
    found = stilts_ds.compare(*names, resamples=QUICK.resamples).set_index(["measure", "condition", "task"])
    costs = table(run, "noise-costs-xnli")
    rows = found.loc["cost"]
    assert list(rows.loc[names[1]].index) == ["xnli@case-10", "xnli@typo-2", "xnli@typo-10"]
    assert rows.loc[(names[1], "xnli@typo-10")].significant
    assert rows.loc[(names[1], "xnli@typo-10")].gain == pytest.approx(5, abs=2.5)
    assert not rows.loc[names[1]].significant.drop("xnli@typo-10").any() and not rows.loc[names[2]].significant.any()
    # The two columns of one run have the numbers of its report.
    for noise in ("xnli@typo-2", "xnli@typo-10", "xnli@case-10"):
        assert rows.loc[(names[2], noise)].score == costs["qqp"][noise.partition("@")[2]]["score"]
        assert rows.loc[(names[2], noise)].gain == costs["qqp"][noise.partition("@")[2]]["mean_gain"]
    [_, told] = tables_side_by_side(names, [], QUICK)
    assert told.notes[-1] == f"More robust than {names[0]}: {names[1]} (xnli@typo-10)."
    [_, fewer] = tables_side_by_side(names, ["xnli", "xnli@typo-2"], QUICK)
    assert [row.label for row in fewer.rows] == ["xnli@typo-2"]


def test_a_language_that_noise_does_not_apply_to_has_no_cell(run: RunDir) -> None:
    by_language = table(run, "noise-languages-xnli-mnli")
    assert by_language["hi"]["case-10"] is None and by_language["hi"]["typo-10"]["p"] <= 1
    assert by_language["de"]["case-10"]["score"] is not None
    baseline = table(run, "noise-languages-xnli-none")["de"]["typo-10"]
    assert baseline["score"] > 5 and "p" not in baseline
    text = run.report.read_text(encoding="utf-8")
    assert "xnli@case-10: without hi, which xnli is scored in" in text and "xnli@typo-2: " not in text
    assert "Means over en de sw." in text and "Means over en de sw hi." in text


def test_what_noise_did_to_the_texts_stands_beside_what_it_costs(run: RunDir) -> None:
    touched = table(run, "noise-touched-xnli")
    assert list(touched) == ["de"], "languages of which nothing is known have no row"
    row = touched["de"]
    assert row["typo-10, errors"]["score"] == 10 and row["typo-10, pieces"]["score"] == 30
    assert row["typo-10, words"]["score"] == 40 and row["typo-2, errors"] is None


def test_scores_over_rates_are_drawn_where_there_are_two_rates(run: RunDir) -> None:
    typos, case = "xnli under typo: score by errors in 100", "xnli under case: score"
    html = (run.root / "report.html").read_text(encoding="utf-8")
    assert html.count(typos) == 1 and case not in html
    drawn = html.partition(typos)[2].partition("</svg>")[0]
    lines = re.findall(r'<polyline points="([^"]*)"[^>]*><title>(\w+)</title>', drawn)
    assert [name for _, name in lines] == ["none", "mnli", "qqp"]
    for points, _ in lines:
        heights = [float(point.partition(",")[2]) for point in points.split()]
        assert len(heights) == 3 and heights == sorted(heights), "scores fall along the rates 0, 2 and 10"


def test_noisy_targets_stand_in_no_average(run: RunDir) -> None:
    matrix = table(run, "matrix")["none"]
    assert list(matrix) == ["xnli", "average"] and matrix["xnli"]["score"] == matrix["average"]["score"]


@pytest.mark.processes  # a report asks the system which processor it is
def test_equal_predictions_cost_nothing_with_p_1(tmp_path: Path) -> None:
    run = build_run(
        tmp_path, lambda *_: 1.0, {"none": [], "mnli": ["mnli"]}, TARGETS[:2], LANGUAGES, examples=60
    )  # fmt: skip
    write_report(run, QUICK)
    cell = table(run, "noise-costs-xnli")["mnli"]["typo-2"]
    assert (cell["score"], cell["mean_gain"], cell["p"]) == (0, 0, 1)


def test_false_positives_come_at_the_level() -> None:
    """600 null studies in which noise costs both conditions 10 points: the two-sided test at 5 % rejects 5 %."""
    found = 0
    for study in range(600):
        dice = np.random.default_rng([7, study])
        hard = dice.random(200)  # of an example, for every model: clean and noisy predictions go together
        shares = (0.8, 0.7, 0.85, 0.75)  # clean and noisy of the baseline, then of a condition that is better
        right = np.stack([hard * 0.5 + dice.random(200) * 0.5 < share for share in shares], axis=1).astype(float)
        scores = ratio_replicates(right, np.ones_like(right), 400, generator("null", study))
        costs = scores[:, [0, 2]] - scores[:, [1, 3]]
        expected = np.mean([_cost(share) for share in ((0.8, 0.7), (0.85, 0.75))], axis=0)
        null = costs[:, 0] - costs[:, 1] - (_cost((0.8, 0.7)) - _cost((0.85, 0.75)))
        found += (difference(null, 0.05).p or 1) < 0.05
        assert expected > 0
    assert 0.03 < found / 600 < 0.075


def _cost(shares: tuple[float, float]) -> float:
    """The true cost, in points, of the simulated models: the sum of two uniform halves is below a share."""

    def below(x: float) -> float:  # distribution of (u + v) / 2
        return 2 * x * x if x < 0.5 else 1 - 2 * (1 - x) ** 2

    return 100 * (below(shares[0]) - below(shares[1]))


def test_the_worst_of_one_draw_is_the_plain_score_and_of_two_what_both_have_right() -> None:
    gold = ["a", "b", "c", "d"]
    first = ACCURACY.count(gold, ["a", "b", "c", "x"], "en")
    second = ACCURACY.count(gold, ["a", "x", "c", "d"], "en")
    assert worst_of([first], ACCURACY) == ACCURACY.score(first) == 75
    assert worst_of([first, second], ACCURACY) == 50
    f1 = main_metric(get_task("panx"))
    draws = [f1.count([["B-LOC", "O"]], [tags], "en") for tags in (["B-LOC", "O"], ["B-LOC", "B-PER"])]
    assert worst_of(draws, f1) == min(map(f1.score, draws)) < 100
    assert worst_of(draws[:1], f1) == 100
    assert isinstance(first, Units)


def test_noise_without_its_clean_task_is_refused() -> None:
    with pytest.raises(UserError, match="targets: xnli@typo-5 shows what noise costs xnli; score that, too"):
        check_tasks(small_recipe.recipe(targets=["xnli@typo-5"]))
