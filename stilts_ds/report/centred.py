"""Retrieval as the protocol has it, and beside it among centred vectors, which tells content from a language's offset.

Where the second column is much higher, translations are near each other but for a vector that all sentences of a
language share; where it falls with the first, the content itself is lost.
"""

from __future__ import annotations

from stilts_ds.data.data import fitted_task
from stilts_ds.evaluate.score import CENTRED
from stilts_ds.families.registry import main_metric
from stilts_ds.report.cells import condition_rows
from stilts_ds.report.compare import Draws, Scored, Scores, score_task, with_main_score
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.table import Table

NAME = "centred"  # of the table
COLUMN = "{}, centred"
ABOUT = (
    "Each target twice: as the protocol has it, and with the mean vector of each side taken off its sentences, where "
    "mining has a threshold of its own on dev. The second tells whether translations are near each other but for an "
    "offset that a language's sentences share. It is no protocol's score and in no average."
)
# The same for a terminal.
IN_SHORT = "centred: with the mean vector of each language taken off; no protocol's score, and in no average."


def centred_data(data: RunData, task: str) -> RunData | None:
    """The run with scores among centred vectors as the main ones of a target; None where a result lacks them."""
    name = main_metric(fitted_task(task, data.recipe)).name + CENTRED
    return with_main_score(data, task, name)


def centred_scores(data: RunData, settings: ComparisonSettings) -> dict[str, dict[str, Scored]]:
    """target -> condition -> scores among centred vectors, for the targets that have them everywhere."""
    scores = {}
    for name in data.targets:
        centred = centred_data(data, name)
        if centred is None:
            continue
        draws: Draws = {}
        scores[name] = score_task(centred, fitted_task(name, data.recipe), settings, draws, centred=True)
    return scores


def centred_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """One table, or none: conditions down; each target and the same among centred vectors across."""
    centred = centred_scores(data, settings)
    if not centred:
        return []
    columns = {}
    for task, by_condition in centred.items():
        columns[task] = {condition: scored[task] for condition, scored in scores.items() if task in scored}
        columns[COLUMN.format(task)] = by_condition
    means = {name: {c: s.replicates.mean(axis=1) for c, s in column.items()} for name, column in columns.items()}
    rows = condition_rows(means, data, settings)
    title = "Retrieval among centred vectors"
    return [holm_corrected(Table(NAME, title, "condition", tuple(columns), rows, (ABOUT,)), settings)]
