"""Every score of a run in long form, one a row: `report-scores.csv`, and `scores()` of a run in Python."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from stilts_ds.data.data import fitted_task
from stilts_ds.escape import csv_text
from stilts_ds.evaluate.result import Result
from stilts_ds.families.registry import main_metric
from stilts_ds.report.load import RunData
from stilts_ds.tasks.languages import LANGUAGES, name_of

SCORE_COLUMNS = (
    "condition", "seed", "task", "split", "language", "language_name", "metric", "main", "score", "examples", "model",
    "phase", "phase_id",
)  # fmt: skip


def scores_csv(data: RunData) -> str:
    """Each row of `score_rows`, at full precision. Text that a spreadsheet would run is quoted."""
    text = io.StringIO()
    # csv would end lines as on Windows, and a report must not depend on the machine.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SCORE_COLUMNS)
    for row in score_rows(data):
        writer.writerow([csv_text(value) if isinstance(value, str) else value for value in row])
    return text.getvalue()


def score_rows(data: RunData) -> Iterator[tuple[Any, ...]]:
    """A row of SCORE_COLUMNS for each condition, seed, target, language and metric."""
    for condition in data.conditions:
        for task, results in data.results.get(condition, {}).items():
            for result in results:
                yield from _rows_of(data, condition, task, result)


def _rows_of(data: RunData, condition: str, task: str, result: Result) -> Iterator[tuple[Any, ...]]:
    main = main_metric(fitted_task(task, data.recipe)).name
    for language, value in result.main.items():
        # A file by hand may lack them; the main score alone is a row, too.
        metrics = {metric: (False, score) for metric, score in result.languages.get(language, {}).items()}
        metrics[main] = (True, value)
        for metric, (is_main, score) in metrics.items():
            yield (
                condition, result.seed, task, result.split, language, language_name(language), metric, is_main, score,
                result.examples.get(language, 0), data.plan.model, data.phases[result.phase].label,
                result.phase,
            )  # fmt: skip


def language_name(code: str) -> str:
    return name_of(code) if code in LANGUAGES else code
