"""Gains in the scores that are read beside pass@1, tested as pass@1 is.

A model that writes no right program has a pass@1 of 0 whatever it was trained on. These scores need no right program,
so they can tell conditions apart, and without intervals their differences would say nothing. Under noise in the
descriptions they say what noise costs, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from stilts_ds.data.data import fitted_task
from stilts_ds.families.metrics import Metric
from stilts_ds.families.registry import metrics_of
from stilts_ds.report.cells import condition_rows
from stilts_ds.report.compare import Draws, Scored, Scores, score_task, with_main_score
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData
from stilts_ds.report.robustness import (
    COSTS_OF,
    GAINS_OF,
    NoiseCost,
    cost_cell,
    costs_of,
    noise_rows,
    noisy_cell,
    noisy_versions,
)
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import Table

NAME = "code-gains"  # of the table
BESIDE = "scores beside pass@1"  # in place of a task, in the names of tables of noise
# Not the place among ten as such: `solution_first` is the same with less in it.
TESTED = ("solution_tokens", "solution_mrr", "parses")
ABOUT = (
    "Scores that need no right program: tokens of the known solution that the model foresees, the mean of 1 / the "
    "place of that solution among ten by its likelihood (29.3 by chance), and programs that parse. Means over the "
    "languages scored."
)
ABOUT_NOISE = " Noise is in the descriptions alone; its draws are averaged. Holm's correction over all columns here."


def code_gain_tables(data: RunData, settings: ComparisonSettings) -> list[Table]:
    """Conditions down, such scores of each target that writes programs across: their gains on clean descriptions, their
    gains on noisy ones, and what noise costs them; each table corrected by itself, and left out where it is empty."""
    columns: dict[str, dict[str, Floats]] = {}
    for task in data.targets:
        for metric in tested_metrics(data, task):
            scored = _scored(data, task, metric, settings, {})
            columns[f"{task} {metric.name}"] = {c: s.replicates.mean(axis=1) for c, s in scored.items()}
    measured = {name: column for name, column in columns.items() if column}
    if not measured:
        return []
    rows = condition_rows(measured, data, settings)
    table = Table(NAME, "Gains beside pass@1", "condition", tuple(measured), rows, (ABOUT,))
    return [holm_corrected(table, settings), *_noise_tables(data, settings)]


def tested_metrics(data: RunData, task: str) -> list[Metric]:
    """The scores of a target that are read beside pass@1; none of one that does not write programs."""
    return [metric for metric in metrics_of(fitted_task(task, data.recipe)) if metric.name in TESTED]


def _scored(data: RunData, name: str, metric: Metric, settings: ComparisonSettings, draws: Draws) -> dict[str, Scored]:
    """One such score by condition; empty where a seed or a language lacks it."""
    named = with_main_score(data, name, metric.name)
    if named is None:
        return {}
    return score_task(named, fitted_task(name, data.recipe), settings, draws, metric=metric)


def _noise_tables(data: RunData, settings: ComparisonSettings) -> Iterator[Table]:
    """The gains on noisy descriptions, and the points that noise costs; none without noisy targets or with one
    condition."""
    columns = dict(_noisy_columns(data, settings))
    if not columns or len(data.conditions) < 2:
        return
    for prefix, title, cell in (
        (GAINS_OF, "Gains beside pass@1, under noise", noisy_cell),
        (COSTS_OF, "Beside pass@1: what noise costs", cost_cell),
    ):
        rows = noise_rows(tuple(columns.values()), data.conditions, data.baseline, cell, settings)
        table = Table(f"{prefix}{BESIDE}", title, "condition", tuple(columns), rows, (ABOUT + ABOUT_NOISE,))
        yield holm_corrected(table, settings)


def _noisy_columns(data: RunData, settings: ComparisonSettings) -> Iterator[tuple[str, dict[str, NoiseCost]]]:
    """Each score of each noisy target: its column, and by condition its values on clean and on noisy descriptions."""
    for task in data.targets:
        noisy = noisy_versions(data, task)
        names = [task, *(name for draws in noisy.values() for name in draws)]
        for metric in tested_metrics(data, task) if noisy else ():
            draws: Draws = {}  # of the clean descriptions and all noisy ones together
            by_name = {name: _scored(data, name, metric, settings, draws) for name in names}
            scores: Scores = {c: {n: of[c] for n, of in by_name.items() if c in of} for c in data.conditions}
            costs = costs_of(task, noisy, scores)
            for spec in noisy:
                by_condition = {c: by_noise[spec] for c, by_noise in costs.items() if spec in by_noise}
                if data.baseline in by_condition:
                    yield f"{task}@{spec} {metric.name}", by_condition
