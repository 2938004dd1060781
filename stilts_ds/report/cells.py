"""What the tables of a report share: a judged cell, and what is scored at all."""

from __future__ import annotations

from stilts_ds.report.compare import Scores, gain
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import NOT_EXECUTED, Cell


def judged_cell(
    ours: Floats | None, base: Floats | None, compare: bool, settings: ComparisonSettings, mark: str = ""
) -> Cell:
    if ours is None:
        # The other marks are about a score.
        return Cell(mark=NOT_EXECUTED if NOT_EXECUTED in mark else "")
    tested = gain(ours, base, settings) if compare else None
    # Rows 0 and 1 of replicates: the median over seeds, which is printed, and the mean, which is tested.
    return Cell(float(ours[0]), tested, mark, mean=float(ours[1]))


def any_scores(scores: Scores, task: str) -> bool:
    return any(task in tasks for tasks in scores.values())


def pivot_of(data: RunData, task: str) -> str:
    return next(run.pivot for tasks in data.results.values() for run in tasks.get(task, []))
