"""Every score of a target of code by language, and programming languages against natural ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from stilts_ds.report.code_tables import code_tables


def result(**languages: dict[str, float]) -> Any:
    return SimpleNamespace(languages=languages)


def data(results: dict[str, dict[str, list[Any]]], *targets: str) -> Any:
    return SimpleNamespace(targets=targets, conditions=tuple(results), results=results)


def scores(table: Any) -> dict[str, list[float | None]]:
    return {row.label: [cell.score for cell in row.cells] for row in table.rows}


def test_every_score_stands_by_language_as_the_median_over_seeds() -> None:
    seeds = [
        result(de={"pass@1": 1.0, "parses": 50.0, "solution_mrr": 30.0}, fr={"pass@1": 2.0, "parses": 60.0}),
        result(de={"pass@1": 3.0, "parses": 70.0, "solution_mrr": 40.0}, fr={"pass@1": 4.0, "parses": 60.0}),
        result(de={"pass@1": 9.0, "parses": 90.0, "solution_mrr": 50.0}, fr={"pass@1": 9.0, "parses": 60.0}),
    ]
    [table] = code_tables(data({"none": {"humaneval_xl": seeds}, "mnli": {}}, "humaneval_xl", "xnli"))
    assert table.name == "scores-humaneval_xl" and table.columns == ("de", "fr", "mean")
    assert scores(table) == {
        "none, pass@1": [3, 4, 3.5],
        "none, parses": [70, 60, 65],
        # Not measured in French, so that there is no mean.
        "none, solution_mrr": [40, None, None],
        "mnli, pass@1": [None, None, None],
        "mnli, parses": [None, None, None],
        "mnli, solution_mrr": [None, None, None],
    }
    assert "`solution_mrr`: 29.3 by chance, the mean of 1/1 to 1/10." in table.notes


def test_floors_stand_once_below_the_scores_of_all_conditions() -> None:
    of_language = {"pass@1": 40.0, "floor_constant": 12.5, "floor_empty": 0.0}
    results = {name: {"humaneval": [result(en=of_language)]} for name in ("none", "mnli")}
    [table] = code_tables(data(results, "humaneval"))
    assert list(scores(table).items()) == [
        ("none, pass@1", [40, 40]),
        ("mnli, pass@1", [40, 40]),
        ("floor: the best constant program", [12.5, 12.5]),
        ("floor: an empty program", [0, 0]),
    ]
    assert "`pass@1`: its floors are what programs reach that cost nothing (docs/execute.md)." in table.notes


def test_a_seed_without_a_score_leaves_the_cell_empty() -> None:
    seeds = [result(de={"pass@1": 1.0, "pass@10": 5.0, "parses": 9.0}), result(de={"pass@1": 1.0, "parses": 9.0})]
    [table] = code_tables(data({"none": {"humaneval": seeds}}, "humaneval"))
    assert scores(table)["none, pass@10"] == [None, None]


def test_programming_languages_stand_against_natural_ones() -> None:
    results = {
        "none": {
            "humaneval_xl": [result(de={"pass@1": 1.0}, fr={"pass@1": 2.0})],
            "humaneval_xl_java": [result(de={"pass@1": 3.0})],
        }
    }
    [table] = code_tables(data(results, "humaneval_xl", "humaneval_xl_java"))
    assert table.name == "programming" and table.columns == ("de", "fr")
    assert scores(table) == {"none, python": [1, 2], "none, java": [3, None]}
    assert code_tables(data(results, "humaneval_xl")) == ()
