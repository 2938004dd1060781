"""Tables of code: every score of a target by language, and programming languages against natural ones.

The tables of languages show the main score with its gains; what stands here is what is read beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from stilts_ds.evaluate.result import Result
from stilts_ds.report.load import RunData
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.tasks.programming import HUMANEVAL_XL, HUMANEVAL_XL_OTHERS
from stilts_ds.tasks.registry import get_task

METRICS_OF = "scores-"  # and the task: the name of a table of its scores
FLOORS = {
    "solution_first": "1 of 10 is first by chance: 10",
    "solution_mrr": "29.3 by chance, the mean of 1/1 to 1/10",
    "auc": "50 by chance",
    "accuracy": "its floor is `majority`, the commoner answer alone",
    "map_at_20": "4.5 by chance, among 80 programs",
    "picked": "its floor is `random_pick`",
    "pass@1": "its floors are what programs reach that cost nothing (docs/execute.md)",
}
# Scores of no model, which stand below those of all conditions.
WITHOUT_MODEL = {
    "floor_constant": "floor: the best constant program",
    "floor_empty": "floor: an empty program",
    "floor_shuffled": "floor: another problem's solution",
}


def code_tables(data: RunData) -> tuple[Table, ...]:
    """A table for each target of code that has several scores, then one of HumanEval-XL's two kinds of language."""
    tables = [_scores_table(data, task) for task in data.targets if get_task(task).folder == "code"]
    by_kind = _programming_table(data)
    return tuple(table for table in (*tables, by_kind) if table is not None)


def _scores_table(data: RunData, task: str) -> Table | None:
    metrics = get_task(task).metrics
    runs = [run for tasks in data.results.values() for run in tasks.get(task, [])]
    languages = list(dict.fromkeys(code for run in runs for code in run.languages))
    measured = [metric for metric in metrics if any(metric in of for run in runs for of in run.languages.values())]
    if len(measured) < 2:  # its table of languages says it all
        return None
    rows = []
    for condition in data.conditions:
        of_condition = data.results.get(condition, {}).get(task, [])
        for metric in measured:
            if metric not in WITHOUT_MODEL:
                rows.append(_row(f"{condition}, {metric}", of_condition, metric, languages))
    rows += [_row(label, runs, metric, languages) for metric, label in WITHOUT_MODEL.items() if metric in measured]
    notes = [f"`{metric}`: {floor}." for metric, floor in FLOORS.items() if metric in measured]
    title = f"{task}: all scores by language"
    return Table(f"{METRICS_OF}{task}", title, "condition, score", (*languages, "mean"), tuple(rows), tuple(notes))


def _row(label: str, runs: Sequence[Result], metric: str, languages: Sequence[str]) -> Row:
    """A score by language, and its mean over all of them or none: one over others would be compared with it."""
    values = [_median(runs, code, metric) for code in languages]
    known = [value for value in values if value is not None]
    mean = fmean(known) if known and len(known) == len(languages) else None
    return Row(label, tuple(Cell(value) for value in (*values, mean)))


def _median(runs: Sequence[Result], language: str, metric: str) -> float | None:
    """The median over seeds; None where a seed lacks it."""
    values = [run.languages.get(language, {}).get(metric) for run in runs]
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def _programming_table(data: RunData) -> Table | None:
    """HumanEval-XL's main score: a row a condition and programming language, a column a natural one."""
    named = [HUMANEVAL_XL.name, *(task.name for task in HUMANEVAL_XL_OTHERS)]
    tasks = [name for name in named if name in data.targets]
    if len(tasks) < 2:
        return None
    runs = [run for of_tasks in data.results.values() for name in tasks for run in of_tasks.get(name, [])]
    languages = list(dict.fromkeys(code for run in runs for code in run.languages))
    if not languages:
        return None
    rows = []
    for condition in data.conditions:
        for name in tasks:
            programming = name.removeprefix(HUMANEVAL_XL.name).lstrip("_") or "python"
            of_task = data.results.get(condition, {}).get(name, [])
            values = [_median(of_task, code, HUMANEVAL_XL.main_score) for code in languages]
            rows.append(Row(f"{condition}, {programming}", tuple(Cell(value) for value in values)))
    title = "HumanEval-XL: programming languages against natural languages, pass@1"
    return Table("programming", title, "condition, programming language", tuple(languages), tuple(rows))
