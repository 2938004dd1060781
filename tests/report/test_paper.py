"""A run beside the paper: verdicts come of told gains alone, and every one of them can come out either way."""

from __future__ import annotations

from typing import Any

import pytest

from stilts_ds.config import Recipe
from stilts_ds.report.paper import NINE, paper_sheets

TARGETS = ["xnli", "xquad", "tatoeba"]
INTERMEDIATE = {
    "none": [],
    **{task: [task] for task in NINE},
    "multitask": list(NINE),
    "mlm": ["mlm"],
    "translated": ["mnli.de", "qqp.ru"],
}
RECIPE = Recipe.model_validate({"name": "table", "intermediate": INTERMEDIATE, "targets": TARGETS})


def gain(mean: float, told: bool = True) -> dict[str, Any]:
    """A gain whose interval is two points wide."""
    return {"mean_gain": mean, "low": mean - 1, "high": mean + 1, "p_adjusted": 0.01, "significant": told}


def results(**gains: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """No gain is told from 0 but those named by condition and target."""
    rows: dict[str, Any] = {"none": dict.fromkeys([*TARGETS, "average"], {"score": 50.0, "mean": 50.0})}
    for name in list(INTERMEDIATE)[1:]:
        rows[name] = {column: gain(0.0, told=False) for column in [*TARGETS, "average"]} | gains.get(name, {})
    return {"targets": TARGETS, "statistics": {"baseline": "none", "tables": {"matrix": rows}}}


def rows_of(title: str, of: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    (sheet,) = (sheet for sheet in paper_sheets(of, RECIPE) if sheet.title == title)
    return {row[0]: tuple(row[1:]) for row in sheet.rows}


def test_a_target_agrees_disagrees_or_is_not_told_by_its_told_gains() -> None:
    table = rows_of(
        "Targets beside the paper",
        results(
            mnli={"xnli": gain(5.0), "tatoeba": gain(-20.0)},
            qqp={"tatoeba": gain(-10.0)},
            squad_v1={"xquad": gain(3.0, told=False)},
        ),
    )
    assert table["xnli"] == ("+0.8", "+0.5", "+5.0 (mnli)", "1 above, 0 below, 9 not told", "agrees")
    assert table["xquad"][3:] == ("0 above, 0 below, 10 not told", "not told")
    assert table["tatoeba"][:2] == ("+23.9", "-3.0") and table["tatoeba"][4] == "disagrees"


def test_the_best_of_each_target_stands_with_its_name_and_decides_nothing() -> None:
    losses = {name: {"tatoeba": gain(-9.0)} for name in (*NINE, "multitask")}
    table = rows_of("Targets beside the paper", results(**losses | {"ccg": {"tatoeba": gain(-2.0)}}))
    assert table["tatoeba"] == ("+23.9", "-8.3", "-2.0 (ccg)", "0 above, 10 below, 0 not told", "disagrees")
    untold = rows_of("Targets beside the paper", results(qqp={"xquad": gain(8.0, told=False)}))
    assert untold["xquad"][2:] == ("+8.0 (qqp)", "0 above, 0 below, 10 not told", "not told")


def test_a_target_with_told_gains_of_both_signs_is_mixed() -> None:
    table = rows_of("Targets beside the paper", results(mnli={"xnli": gain(5.0)}, ccg={"xnli": gain(-5.0)}))
    assert table["xnli"][-1] == "mixed"


def test_the_order_of_targets_is_compared() -> None:
    same = results(mnli={"xnli": gain(1.0), "xquad": gain(2.0), "tatoeba": gain(9.0)})
    notes = paper_sheets(same, RECIPE)[0].notes
    assert any("Kendall's tau between paper and run: +1.00" in note for note in notes)
    assert any("scores of tatoeba were not checked" in note for note in notes)


def test_conditions_stand_by_their_average_gain() -> None:
    sheet = paper_sheets(results(ccg={"average": gain(4.0)}, mlm={"average": gain(-4.0)}), RECIPE)[1]
    assert sheet.rows[0] == ("ccg", "+4.0", "+3.0 to +5.0", "yes")
    assert sheet.rows[-1][0] == "mlm"


def test_the_best_of_each_target_stands_in_no_order_of_conditions() -> None:
    chosen = results(ccg={"average": gain(4.0)})
    matrix = chosen["statistics"]["tables"]["matrix"]
    matrix["best per target"] = {"xnli": gain(9.0), "xquad": None, "tatoeba": None, "average": gain(9.0)}
    sheet = paper_sheets(chosen, RECIPE)[1]
    assert sheet.rows[0][0] == "ccg" and len(sheet.rows) == len(INTERMEDIATE) - 1


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({name: {"average": gain(9.0)} for name in ("mnli", "squad_v1", "hellaswag")}, "agrees"),
        ({name: {"average": gain(9.0)} for name in ("ccg", "qqp", "cosmosqa")}, "disagrees"),
        ({name: {"average": gain(9.0)} for name in ("ccg", "squad_v1", "hellaswag")}, "disagrees"),
        ({name: {"average": gain(9.0)} for name in ("ccg", "qqp")}, "not told"),
        ({name: {"average": gain(1.5)} for name in ("mnli", "squad_v1", "hellaswag")}, "not told"),
    ],
)
def test_the_papers_best_three_lead_by_more_than_their_intervals(gains: Any, verdict: str) -> None:
    table = rows_of("What the paper says of kinds of training", results(**gains))
    assert table["mnli, squad_v1, hellaswag are the best single tasks"][1] == verdict


@pytest.mark.parametrize(("average", "verdict"), [(9.0, "agrees"), (-9.0, "disagrees"), (1.0, "not told")])
def test_all_tasks_together_against_the_best_single_one(average: float, verdict: str) -> None:
    table = rows_of("What the paper says of kinds of training", results(multitask={"average": gain(average)}))
    assert table["all tasks together add a little to the best single task"][1] == verdict


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ({"xnli": gain(5.0)}, "disagrees"),
        ({"xnli": gain(5.0), "xquad": gain(-2.0)}, "agrees"),
        ({"xnli": gain(-5.0)}, "agrees"),
        ({}, "not told"),
    ],
)
def test_what_gains_here_and_loses_there_helps_not_consistently(gains: Any, verdict: str) -> None:
    table = rows_of("What the paper says of kinds of training", results(mlm=gains, translated=gains))
    assert table["mlm does not help consistently"][1] == table["translated does not help consistently"][1] == verdict


def test_conditions_that_were_not_run_are_not_judged() -> None:
    partial = results()
    for name in ("multitask", "hellaswag", "translated"):
        partial["statistics"]["tables"]["matrix"][name] = dict.fromkeys([*TARGETS, "average"])
    table = rows_of("What the paper says of kinds of training", partial)
    assert table["mnli, squad_v1, hellaswag are the best single tasks"] == ("hellaswag not run", "not told")
    assert table["all tasks together add a little to the best single task"] == ("not run", "not told")
    assert "translated does not help consistently" not in table


def test_a_study_of_fewer_tasks_has_no_such_sheets() -> None:
    small = Recipe.model_validate({"name": "small", "intermediate": {"none": [], "mnli": ["mnli"]}, "targets": TARGETS})
    assert paper_sheets(results(), small) == []
