"""Targets that no average holds, in tables of their own: MultiCheckList's error rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from stilts_ds.display import number
from stilts_ds.families.metrics import Metric, Units
from stilts_ds.families.registry import metrics_of
from stilts_ds.report.cells import any_scores
from stilts_ds.report.compare import Scores, read_counts
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, benjamini_hochberg
from stilts_ds.report.table import Sheet, Table, correct
from stilts_ds.report.tables import language_table
from stilts_ds.tasks.registry import get_task

ABOUT = (
    "Error rates in percent: the share of cases of which at least one answer is wrong. Lower is better, so a gain "
    "below 0 is an improvement. They are in no average."
)


def checked_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """Each such target's languages against conditions; corrected together, apart from the targets of the matrix."""
    tables = [language_table(data, scores, task, settings) for task in data.checked_targets if any_scores(scores, task)]
    explained = [replace(table, notes=(ABOUT, *table.notes), best="none") for table in tables]
    # As for the languages of other targets: of so many rows a known share may be false.
    return correct(explained, benjamini_hochberg, settings.level)


def checked_sheets(data: RunData) -> list[Sheet]:
    """The same by test, a sheet for each target and condition: medians over seeds, and nothing tested."""
    return [
        sheet
        for task in data.checked_targets
        for condition in data.conditions
        for sheet in _sheets(data, task, condition)
    ]


def _sheets(data: RunData, name: str, condition: str) -> list[Sheet]:
    runs = data.results.get(condition, {}).get(name, [])
    if not runs:
        return []
    task = get_task(name)
    metrics = metrics_of(task)
    # Seeds that were scored in other languages would make a median over different test sets.
    languages = [code for code in runs[0].languages if all(code in run.languages for run in runs)]
    counts = read_counts(data, task, languages)
    rows = []
    for code in languages if counts else []:
        units = counts.units[code][condition] if counts else []
        rows.append((code, *(_median(metric, units) for metric in metrics)))
    title = f"{name} by test, after {condition}"
    return [Sheet(title, ("language", *(metric.name.replace("_", " ") for metric in metrics)), tuple(rows), (ABOUT,))]


def _median(metric: Metric, units: Sequence[Units]) -> str:
    """The median over seeds; a dash where there is nothing to count, as where max_examples leaves a test out."""
    scores = [metric.score(of_seed) for of_seed in units if of_seed.total(metric.below).sum() > 0]
    return number(median(scores) if scores else None)
