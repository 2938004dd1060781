"""What the tables of a report share: a judged cell, and what is scored at all."""

from __future__ import annotations

from collections.abc import Mapping

from stilts_ds.report.compare import Scores, gain
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import NOT_EXECUTED, Cell, Row


def judged_cell(
    ours: Floats | None, base: Floats | None, compare: bool, settings: ComparisonSettings, mark: str = ""
) -> Cell:
    if ours is None:
        # The other marks are about a score.
        return Cell(mark=NOT_EXECUTED if NOT_EXECUTED in mark else "")
    tested = gain(ours, base, settings) if compare else None
    # Rows 0 and 1 of replicates: the median over seeds, which is printed, and the mean, which is tested.
    return Cell(float(ours[0]), tested, mark, mean=float(ours[1]))


def condition_rows(
    columns: Mapping[str, Mapping[str, Floats]], data: RunData, settings: ComparisonSettings
) -> tuple[Row, ...]:
    """A row a condition, judged against the baseline; columns: name -> condition -> replicates [2 + R]."""
    rows = []
    for condition in data.conditions:
        compares = condition != data.baseline
        cells = [
            judged_cell(column.get(condition), column.get(data.baseline), compares, settings)
            for column in columns.values()
        ]
        rows.append(Row(condition, tuple(cells)))
    return tuple(rows)


def any_scores(scores: Scores, task: str) -> bool:
    return any(task in tasks for tasks in scores.values())


def pivot_of(data: RunData, task: str) -> str:
    return next(run.pivot for tasks in data.results.values() for run in tasks.get(task, []))
