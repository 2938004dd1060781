"""Tables of a target's variants. Which language is the best source: one row a source, one column a language scored.

Turc et al. 2021 (arXiv 2106.16171): a source is good at its own language, so a fair mean leaves every source out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stilts_ds.report.compare import Scored, Scores, gain
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData
from stilts_ds.report.robustness import robustness_tables
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.tasks.registry import get_task

ALL, UNSEEN = "all", "no source"
ABOUT = (
    "A row is the language that trains and selects, a column one that is scored; the signed figure is the gain over "
    "the first row. `all` is the mean over the languages scored, `no source` over those that train no row: a source "
    "is good at its own language."
)
OWN = "*"
MIXED = "mixed"


ABOUT_PAIRS = (
    "A row is the language of the first text, a column that of the second (of MLQA: context and question). `mixed` is "
    "the mean over the pairs of different languages."
)


def variant_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> tuple[Table, ...]:
    """The tables of noisy targets, of other source languages and of pairs of languages, each corrected by itself."""
    makers = (robustness_tables, source_tables, pair_tables)
    return tuple(table for make in makers for table in make(data, scores, settings))


def pair_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """For each target with crossed versions and each condition, the scores of every pair of languages."""
    tables = []
    for name in data.targets:
        seconds = {get_task(crossed).second: crossed for crossed in data.crossed_targets}
        # data.crossed_targets are those of all tasks.
        seconds = {code: crossed for code, crossed in seconds.items() if get_task(crossed).base_name == name}
        for condition in data.conditions if seconds else []:
            table = _pair_table(data, name, seconds, scores, condition, settings)
            if table is not None:
                tables.append(holm_corrected(table, settings))
    return tables


def _pair_table(
    data: RunData, name: str, seconds: Mapping[str, str], scores: Scores, condition: str, settings: ComparisonSettings
) -> Table | None:
    scored, base = scores.get(condition, {}), scores.get(data.baseline, {})
    # Only what the baseline has, too: each cell is compared with it.
    columns = [code for code, crossed in seconds.items() if crossed in scored and crossed in base]
    if not columns:
        return None
    every = [scored[seconds[code]].languages for code in columns]
    shared = [code for code in every[0] if all(code in languages for languages in every)]
    # Rows and columns in one order, so that equal languages make a diagonal.
    columns = [code for code in shared if code in columns] + [code for code in columns if code not in shared]
    rows = []
    for first in shared:
        groups = {second: [second] for second in columns} | {MIXED: [second for second in columns if second != first]}
        cells = []
        for second, codes in groups.items():
            ours, baseline = (_pairs_mean(tasks, seconds, first, codes) for tasks in (scored, base))
            tested = gain(ours, baseline, settings) if condition != data.baseline else None
            mark = OWN * (first == second)
            cells.append(Cell() if ours is None else Cell(float(ours[0]), tested, mark, mean=float(ours[1])))
        rows.append(Row(first, tuple(cells)))
    title = f"{name} after {condition}: every pair of languages"
    return Table(f"pairs-{name}-{condition}", title, "first text", (*columns, MIXED), tuple(rows),
                 (ABOUT_PAIRS, f"{OWN} marks equal languages: the ordinary test set."))  # fmt: skip


def _pairs_mean(
    scored: Mapping[str, Scored], seconds: Mapping[str, str], first: str, codes: list[str]
) -> Floats | None:
    """Replicates [2 + R] of the mean over pairs with one first language; None where a pair is not scored."""
    of_pairs = [scored[seconds[code]] for code in codes]
    if not of_pairs or not all(first in of_pair.languages for of_pair in of_pairs):
        return None
    return np.asarray(np.mean([of_pair.replicates[:, of_pair.languages.index(first)] for of_pair in of_pairs], axis=0))


def source_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """For each target with several source languages and each condition, the matrix of source and target."""
    tables = []
    for name in data.targets:
        variants = {get_task(v).source: v for v in data.source_targets if get_task(v).base_name == name}
        for condition in data.conditions if variants else []:
            table = _table(data, name, variants, scores.get(condition, {}), condition, settings)
            if table is not None:
                tables.append(holm_corrected(table, settings))
    return tables


def _table(
    data: RunData, name: str, variants: Mapping[str, str], scored: Mapping[str, Scored], condition: str,
    settings: ComparisonSettings,
) -> Table | None:  # fmt: skip
    pivot = next((run.pivot for tasks in data.results.values() for run in tasks.get(name, [])), "")
    rows = {pivot: name, **variants}
    there = {source: scored[task] for source, task in rows.items() if task in scored}
    # Gains are over the ordinary source, so a table without its row would say nothing.
    if pivot not in there or len(there) < 2:
        return None
    # A mean over other languages than another row's would compare languages, not sources.
    shared = [code for code in there[pivot].languages if all(code in of.languages for of in there.values())]
    # Of all sources that are planned, also of those without scores yet: the column stays the same when they come.
    unseen = [code for code in shared if code not in rows]
    columns = {code: [code] for code in shared} | {ALL: shared} | ({UNSEEN: unseen} if unseen else {})
    base = {column: _mean(there[pivot], codes) for column, codes in columns.items()}
    made = []
    for source, of_source in there.items():
        means = {column: _mean(of_source, codes) for column, codes in columns.items()}
        cells = []
        for column in columns:
            compared = None if source == pivot else base[column]
            cells.append(_cell(means[column], compared, OWN * (column == source), settings))
        made.append(Row(source, tuple(cells)))
    title = f"{name} after {condition}: which language trains"
    return Table(f"sources-{name}-{condition}", title, "trained on", tuple(columns), tuple(made),
                 (ABOUT, f"{OWN} marks the language of training."))  # fmt: skip


def _mean(scored: Scored, codes: list[str]) -> Floats:
    """Replicates [2 + R] of the mean over some languages."""
    return np.asarray(scored.replicates[:, [scored.languages.index(code) for code in codes]].mean(axis=1))


def _cell(means: Floats, english: Floats | None, mark: str, settings: ComparisonSettings) -> Cell:
    return Cell(
        float(means[0]), None if english is None else gain(means, english, settings), mark, mean=float(means[1])
    )
