"""Conditions of several runs side by side, each tested against the first one on the targets that all of them have.

The runs may be of different recipes and models. Examples are drawn as in a run's own report: one draw serves all
columns, so a test is paired, and it needs the same test files everywhere.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stilts_ds.data.data import fitted_task
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.evaluate.result import Result
from stilts_ds.families.metrics import Metric
from stilts_ds.noise.spec import MARK, NoiseSpec
from stilts_ds.report.centred import ABOUT as ABOUT_CENTRED
from stilts_ds.report.centred import COLUMN, centred_data
from stilts_ds.report.code_gains import ABOUT as ABOUT_CODE
from stilts_ds.report.code_gains import tested_metrics
from stilts_ds.report.compare import (
    Counts,
    Draws,
    Scored,
    gain,
    mean_of,
    read_counts,
    resampled,
    shared_languages,
    with_main_score,
)
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData, load_run
from stilts_ds.report.robustness import ABOUT_COSTS, cost_cell, costs_of, noisy_versions, verdict
from stilts_ds.report.stats import ComparisonSettings, Floats, enough_resamples
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.run_dir import RunDir
from stilts_ds.tasks.registry import get_task

AVERAGE = "average"
# Names of the tables.
SCORES, CENTRED, COSTS = "side_by_side", "side_by_side-centred", "side_by_side-costs"
CODE = "side_by_side-code"
# What a model brings along: a run of another model, or one whose data came another way, is what people compare.
NOT_COMPARED = ("model", "data")

Versions = Mapping[NoiseSpec, Sequence[str]]  # noise, its first draw -> the targets that are its draws


@dataclass(frozen=True)
class ComparedRun:
    """One condition of one run. `label` is what the table calls it."""

    label: str
    data: RunData
    condition: str

    def results(self, task: str) -> list[Result]:
        """The condition's results of a target, one a seed."""
        return self.data.results.get(self.condition, {}).get(task, [])


def tables_side_by_side(names: Sequence[str], targets: Sequence[str], settings: ComparisonSettings) -> list[Table]:
    """The comparisons of `RUN` or `RUN:CONDITION`, corrected by Holm's method within each table.

    Where no condition is named, each condition that all runs have gets a table. Empty `targets` are all that the first
    run has. Raises UserError for a run or condition that is not there, fewer than two columns, and targets of which
    none can be compared.
    """
    return [table for columns in _groups(names) for table in _tables(columns, targets, settings)]


# --- which conditions ------------------------------------------------------------------------------------------------


def _groups(names: Sequence[str]) -> list[list[ComparedRun]]:
    if len(names) < 2:
        raise UserError("comparing takes two runs or more, such as runs/a runs/b, or runs/a:none runs/a:mnli")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice; a comparison with itself says nothing")
    loaded: dict[Path, RunData] = {}
    asked = []
    for name in names:
        folder, condition = _split_name(name)
        # Two conditions of one run share its files, which may be large.
        if folder not in loaded:
            loaded[folder] = load_run(RunDir(folder))
        asked.append((name, loaded[folder], condition))
    if any(condition for _, _, condition in asked):
        return [[ComparedRun(name, data, _only_condition(name, data, condition)) for name, data, condition in asked]]
    conditions = [c for c in asked[0][1].conditions if all(c in data.conditions for _, data, _ in asked)]
    if not conditions:
        conditions_by_run = "; ".join(f"{name} has {', '.join(data.conditions)}" for name, data, _ in asked)
        raise UserError(
            f"no condition is in all runs ({conditions_by_run}); name one of each, such as {names[0]}:CONDITION"
        )
    return [[ComparedRun(f"{name}:{c}", data, c) for name, data, _ in asked] for c in conditions]


def _split_name(name: str) -> tuple[Path, str]:
    """Folder and condition of `RUN` or `RUN:CONDITION`; a folder's own name may hold a colon."""
    folder, colon, condition = name.rpartition(":")
    # A folder that is there wins: a colon may stand in its name.
    if os.path.isdir(name) or not colon:
        return Path(name), ""
    return Path(folder), condition


def _only_condition(name: str, data: RunData, condition: str) -> str:
    if condition in data.conditions:
        return condition
    known = ", ".join(data.conditions)
    if condition:
        raise UserError(
            f"{name}: there is no condition {condition!r}{did_you_mean(condition, data.conditions)}: {known}"
        )
    if len(data.conditions) > 1:
        raise UserError(f"{name} has several conditions ({known}); name one, as in {name}:{data.conditions[0]}")
    return data.conditions[0]


# --- what can be compared --------------------------------------------------------------------------------------------


def _tables(columns: Sequence[ComparedRun], targets: Sequence[str], settings: ComparisonSettings) -> list[Table]:
    """The scores of the targets and, where noisy ones are among them, what noise costs."""
    first = columns[0]
    unknown = [task for task in targets if task not in first.data.plan.targets]
    if unknown:
        known = first.data.plan.targets
        raise UserError(
            f"{first.label} has no target {unknown[0]!r}{did_you_mean(unknown[0], known)}: {', '.join(known)}"
        )
    compared, notes = _comparable(columns, targets or first.data.targets)
    if not compared:
        raise UserError("there is nothing to compare: " + " ".join(notes))
    noisy, costs_notes = _comparable(columns, targets or first.data.noisy_targets)
    versions = {task: _versions(first.data, task, noisy) for task in compared}
    versions = {task: of_task for task, of_task in versions.items() if of_task}
    if not settings.resamples:
        rows = max(len(compared) + 1, sum(len(of_task) for of_task in versions.values()))
        settings = replace(settings, resamples=enough_resamples((len(columns) - 1) * rows, settings.level))
    # One draw of the examples serves a clean test set and its noisy ones; the clean one says which languages it is of.
    draws: Draws = {}
    drawn = sorted(dict.fromkeys([*compared, *noisy]), key=lambda task: get_task(task).is_variant)
    scored = {task: _scored(columns, task, settings, draws) for task in drawn}
    scores = _rows(columns, {task: scored[task] for task in compared}, notes, settings)
    tables = [holm_corrected(scores, settings)]
    tables += _other_scores(
        columns, _centred(columns, compared), CENTRED, "among centred vectors", ABOUT_CENTRED, settings
    )
    tables += _other_scores(columns, _beside(columns, compared), CODE, "beside pass@1", ABOUT_CODE, settings)
    if versions:
        tables.append(_costs(columns, versions, scored, costs_notes, settings))
    return tables


def _comparable(columns: Sequence[ComparedRun], targets: Sequence[str]) -> tuple[list[str], list[str]]:
    """The targets that can be compared, and what is to be said of these and of the others."""
    compared, notes = [], []
    for task in targets:
        obstacle = _obstacle(columns, task)
        if obstacle:
            notes.append(f"{task} is not compared: {obstacle}.")
            continue
        compared.append(task)
        notes.extend(_remarks(columns, task))
    return compared, notes


def _versions(data: RunData, task: str, noisy: Collection[str]) -> Versions:
    """The noisy versions of a task, each with its draws, of which every column has results."""
    every = noisy_versions(data, task)
    kept = {spec: [draw for draw in draws if draw in noisy] for spec, draws in every.items()}
    return {spec: draws for spec, draws in kept.items() if draws}


def _obstacle(columns: Sequence[ComparedRun], task: str) -> str:
    """Why a target cannot be compared; empty where it can."""
    # From the plainest obstacle to the subtlest: only the first is told.
    without = [column.label for column in columns if not column.results(task)]
    if without:
        return f"{without[0]} has no results of it"
    for fact, values in _facts(columns, task).items():
        if len(set(values)) > 1:
            return f"{fact} is " + ", ".join(f"{value} in {c.label}" for c, value in zip(columns, values))
    languages = shared_languages(column.results(task) for column in columns)
    if not languages:
        return "no language is scored in all of them"
    return _other_files(columns, task, languages)


def _facts(columns: Sequence[ComparedRun], task: str) -> dict[str, list[str]]:
    """What decides which examples are scored, one value a column."""
    firsts = [column.results(task)[0] for column in columns]
    return {
        "the split": [result.split for result in firsts],
        "max_examples": [str(result.settings.get("max_examples")) for result in firsts],
    }


def _other_files(columns: Sequence[ComparedRun], task: str, languages: Iterable[str]) -> str:
    """The first language whose files differ, or of whose files a run does not say what they were."""
    for code in languages:
        hashes = [result.data.get(code, "") for column in columns for result in column.results(task)]
        if "" in hashes:
            return f"an earlier version scored it in {code} without keeping what its files were; `stilts score` does"
        if len(set(hashes)) > 1:
            return f"its test files in {code} are not the same everywhere"
    return ""


def _remarks(columns: Sequence[ComparedRun], task: str) -> list[str]:
    """Settings of the evaluation that differ: another model may well be read at another layer, but it must be said."""
    first, *others = columns
    wanted = first.results(task)[0].settings
    remarks: list[str] = []
    for column in others:
        settings = column.results(task)[0].settings
        for key, value in wanted.items():
            if key not in NOT_COMPARED and settings.get(key) != value:
                remarks.append(f"{task}: {key} is {value} in {first.label} and {settings.get(key)} in {column.label}.")
    return remarks


# --- scores ----------------------------------------------------------------------------------------------------------


def _scored(
    columns: Sequence[ComparedRun],
    task: str,
    settings: ComparisonSettings,
    draws: Draws,
    centred: bool = False,
    metric: Metric | None = None,
) -> dict[str, Scored]:
    runs = {column.label: column.results(task) for column in columns}
    counts = _counts(columns, task, shared_languages(runs.values()), centred, metric)
    fitted = fitted_task(task, columns[0].data.recipe)
    return resampled(fitted, runs, counts, columns[0].label, settings, draws)


def _counts(
    columns: Sequence[ComparedRun],
    task: str,
    languages: Sequence[str],
    centred: bool = False,
    metric: Metric | None = None,
) -> Counts | None:
    """The counts of each column's own run, under the columns' labels; None where one lacks predictions or labels."""
    merged: Counts | None = None
    for column in columns:
        counts = read_counts(column.data, fitted_task(task, column.data.recipe), languages, centred, metric)
        if counts is None:
            return None
        units = {code: {column.label: counts.units[code][column.condition]} for code in languages}
        spreads = {code: {column.label: counts.spreads[code][column.condition]} for code in languages}
        if merged is None:
            merged = Counts(counts.metric, units, counts.texts, spreads)
            continue
        for code in languages:
            merged.units[code].update(units[code])
            merged.spreads[code].update(spreads[code])
    return merged


def _rows(
    columns: Sequence[ComparedRun],
    scored: Mapping[str, Mapping[str, Scored]],
    notes: Sequence[str],
    settings: ComparisonSettings,
) -> Table:
    labels = [column.label for column in columns]
    means = {task: {label: by_label[label].replicates.mean(axis=1) for label in labels}
             for task, by_label in scored.items()}  # fmt: skip
    rows = [Row(task, _cells(labels, means[task], settings)) for task in scored]
    if len(scored) > 1:
        averages = {label: mean_of([means[task][label] for task in scored]) for label in labels}
        rows.append(Row(AVERAGE, _cells(labels, averages, settings)))
    about = f"Means over the languages that all have. A gain is the difference to {labels[0]}."
    title = f"{labels[0]} and {', '.join(labels[1:])}"
    return Table(SCORES, title, "target", tuple(labels), tuple(rows), (about, *notes))


def _cells(labels: Sequence[str], means: Mapping[str, Floats], settings: ComparisonSettings) -> tuple[Cell, ...]:
    base = means[labels[0]]
    cells = [Cell(float(base[0]), mean=float(base[1]))]
    for label in labels[1:]:
        ours = means[label]
        cells.append(Cell(float(ours[0]), gain(ours, base, settings), mean=float(ours[1])))
    return tuple(cells)


@dataclass(frozen=True)
class OtherScore:
    """A score of a target that is not its main one: the row's label, and each column's run with it in that place (None
    where a result lacks it)."""

    label: str
    task: str
    runs: list[RunData | None]
    metric: Metric | None = None  # None: the main one, among centred vectors


def _centred(columns: Sequence[ComparedRun], targets: Sequence[str]) -> list[OtherScore]:
    """Retrieval among centred vectors."""
    return [
        OtherScore(COLUMN.format(task), task, [centred_data(column.data, task) for column in columns])
        for task in targets
    ]


def _beside(columns: Sequence[ComparedRun], targets: Sequence[str]) -> list[OtherScore]:
    """What needs no right program."""
    return [
        OtherScore(f"{task} {metric.name}", task, [with_main_score(c.data, task, metric.name) for c in columns], metric)
        for task in targets
        for metric in tested_metrics(columns[0].data, task)
    ]


def _other_scores(
    columns: Sequence[ComparedRun],
    scores: Sequence[OtherScore],
    name: str,
    what: str,
    about: str,
    settings: ComparisonSettings,
) -> list[Table]:
    """One table of the scores that all columns have, corrected by itself; none where there are none."""
    labels = [column.label for column in columns]
    rows = []
    for score in scores:
        if None in score.runs:
            continue
        of_task = [replace(column, data=data) for column, data in zip(columns, score.runs) if data]
        draws: Draws = {}
        scored = _scored(of_task, score.task, settings, draws, score.metric is None, score.metric)
        means = {label: scored[label].replicates.mean(axis=1) for label in labels}
        rows.append(Row(score.label, _cells(labels, means, settings)))
    if not rows:
        return []
    title = f"{labels[0]} and {', '.join(labels[1:])}: {what}"
    return [holm_corrected(Table(name, title, "target", tuple(labels), tuple(rows), (about,)), settings)]


def _costs(
    columns: Sequence[ComparedRun],
    versions: Mapping[str, Versions],
    scored: Mapping[str, Mapping[str, Scored]],
    notes: Sequence[str],
    settings: ComparisonSettings,
) -> Table:
    """What noise costs in each column, and how many points fewer than in the first."""
    labels = [column.label for column in columns]
    by_label = {label: {task: of_task[label] for task, of_task in scored.items()} for label in labels}
    rows, compared = [], []
    for task, noisy in versions.items():
        costs = costs_of(task, noisy, by_label)
        for spec, base in costs[labels[0]].items():
            by_column = [costs[label][spec] for label in labels]
            # The first column stands beside itself without a gain.
            cells = [cost_cell(by_column[0], None, settings)]
            cells += [cost_cell(cost, base, settings) for cost in by_column[1:]]
            rows.append(Row(f"{task}{MARK}{spec}", tuple(cells)))
            compared.append((by_column, base))
    title = f"{labels[0]} and {', '.join(labels[1:])}: what noise costs"
    table = Table(COSTS, title, "noise", tuple(labels), tuple(rows), (ABOUT_COSTS, *notes))
    table = holm_corrected(table, settings)
    judged = [
        (label, row.label, cell, cost, base)
        for row, (by_column, base) in zip(table.rows, compared)
        for label, cell, cost in zip(labels[1:], row.cells[1:], by_column[1:])
    ]
    return replace(table, notes=(*table.notes, verdict(judged, labels[0])))
