"""Gains in the scores that are read beside pass@1, tested as pass@1 is.

A model that writes no right program has a pass@1 of 0 whatever it was trained on. These scores need no right program,
so they can tell conditions apart, and without intervals their differences would say nothing.
"""

from __future__ import annotations

from stilts_ds.data.data import fitted_task
from stilts_ds.families.metrics import Metric
from stilts_ds.families.registry import metrics_of
from stilts_ds.report.cells import condition_rows
from stilts_ds.report.compare import Draws, score_task, with_main_score
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import Table

NAME = "code-gains"  # of the table
# Not the place among ten as such: `solution_first` is the same with less in it.
TESTED = ("solution_tokens", "solution_mrr", "parses")
ABOUT = (
    "Scores that need no right program: tokens of the known solution that the model foresees, the mean of 1 / the "
    "place of that solution among ten by its likelihood (29.3 by chance), and programs that parse. Means over the "
    "languages scored."
)


def code_gain_tables(data: RunData, settings: ComparisonSettings) -> list[Table]:
    """One table, or none: conditions down; such scores of each target that writes programs across."""
    columns: dict[str, dict[str, Floats]] = {}
    for task in data.targets:
        for metric in metrics_of(fitted_task(task, data.recipe)):
            if metric.name in TESTED:
                columns[f"{task} {metric.name}"] = _means(data, task, metric, settings)
    measured = {name: column for name, column in columns.items() if column}
    if not measured:
        return []
    rows = condition_rows(measured, data, settings)
    table = Table(NAME, "Gains beside pass@1", "condition", tuple(measured), rows, (ABOUT,))
    return [holm_corrected(table, settings)]


def _means(data: RunData, name: str, metric: Metric, settings: ComparisonSettings) -> dict[str, Floats]:
    """condition -> means over languages [2 + R] of one such score; empty where a seed or a language lacks it."""
    named = with_main_score(data, name, metric.name)
    if named is None:
        return {}
    draws: Draws = {}
    scored = score_task(named, fitted_task(name, data.recipe), settings, draws, metric=metric)
    return {condition: of_condition.replicates.mean(axis=1) for condition, of_condition in scored.items()}
