"""Means over groups of languages, and how many languages of a target a group has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from stilts_ds.report.cells import any_scores, judged_cell, pivot_of
from stilts_ds.report.compare import Scored, Scores
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats, group_mean
from stilts_ds.report.table import Row, Sheet, Table
from stilts_ds.tasks.languages import LANGUAGES
from stilts_ds.tasks.resources import (
    CC100,
    JOSHI,
    PRETRAINING,
    RESOURCES,
    cc100_group,
    is_unseen,
    joshi_group,
    pretraining_of,
)


@dataclass(frozen=True)
class Grouping:
    """`group_of` says which of `groups`, in their order, a language is in."""

    name: str
    title: str
    groups: Sequence[str]
    group_of: Callable[[str], str]
    known: frozenset[str]


def groupings(model: str) -> list[Grouping]:
    """The groupings of a report; whether a language was in the pretraining is told of models that are known by name."""
    # XTREME-R's fifty languages have figures of resources; family, script and Wikipedia are known of all.
    everything, fifty = frozenset(LANGUAGES), frozenset(RESOURCES)
    families = sorted({language.family for language in LANGUAGES.values()})
    scripts = sorted({language.script for language in LANGUAGES.values()})
    sizes = ("large", "medium", "small")
    scales = [
        Grouping("family", "language family", families, lambda code: LANGUAGES[code].family, everything),
        Grouping("script", "script", scripts, lambda code: LANGUAGES[code].script, everything),
        Grouping("wikipedia", "size of the language's Wikipedia", sizes, lambda code: LANGUAGES[code].wikipedia,
                 everything),
        Grouping("joshi", "resource class (Joshi et al. 2020)", JOSHI, joshi_group, fifty),
        Grouping("cc100", "size of the language's part of CC-100", CC100, cc100_group, fifty),
    ]  # fmt: skip
    pretraining = pretraining_of(model)
    if pretraining:

        def seen(code: str) -> str:
            return PRETRAINING[is_unseen(code, pretraining)]

        scales.append(Grouping("pretraining", f"{pretraining}'s pretraining", PRETRAINING, seen, fifty))
    return scales


def group_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """Means by group over the languages that nothing was trained in."""
    pivots = {pivot_of(data, t) for t in data.targets if any_scores(scores, t)}
    # The training language would lift its group's mean without any transfer.
    codes = {code for tasks in scores.values() for s in tasks.values() for code in s.languages} - pivots
    if not codes & set(LANGUAGES):
        return []
    tables = []
    for grouping in groupings(data.plan.model):
        members = _members(grouping, codes)
        rows = tuple(
            _group_row(data, scores, settings, group, members[group]) for group in grouping.groups if group in members
        )
        notes = [
            "Mean over targets of the mean over the group's languages, without the training language; targets "
            "that have none of them are left out."
        ]
        if partial := [c for c in data.conditions if set(scores[c]) != set(scores[data.baseline])]:
            notes.append(f"{', '.join(partial)}: lacks targets; its gains are over those that the baseline has too.")
        if strangers := sorted(codes - grouping.known):
            notes.append(f"Not in the table of languages, so in no group: {' '.join(strangers)}.")
        title = grouping.title
        tables.append(Table(grouping.name, f"By {title}", title, tuple(data.conditions), rows, tuple(notes), "row"))
    return tables


def _members(grouping: Grouping, codes: Iterable[str]) -> dict[str, set[str]]:
    members: dict[str, set[str]] = {}
    for code in codes:
        if code in grouping.known:
            members.setdefault(grouping.group_of(code), set()).add(code)
    return members


RESOURCE_SCALES = ("wikipedia", "joshi", "cc100", "pretraining")


def count_sheet(data: RunData, scores: Scores) -> Sheet:
    """How many languages of each target a group of the resource scales has, and which where they are few."""
    scored = _scored_languages(data, scores)
    rows = []
    for grouping in groupings(data.plan.model) if scored else []:
        if grouping.name not in RESOURCE_SCALES:
            continue
        members = {task: _members(grouping, codes) for task, codes in scored.items()}
        for group in grouping.groups:
            cells = [_counted(members[task].get(group, set())) for task in scored]
            if any(cell != "0" for cell in cells):
                rows.append((f"{grouping.title}: {group}", *cells))
    note = "Languages of each target in each group, without the training language. A mean over one language is that "
    return Sheet(
        "Languages of each target by resources", ("group", *scored), tuple(rows), (note + "language's score.",)
    )


def _counted(codes: set[str]) -> str:
    """`13`, or with the names of up to three: `2 (sw te)`."""
    return f"{len(codes)} ({' '.join(sorted(codes))})" if 0 < len(codes) <= 3 else str(len(codes))


def _scored_languages(data: RunData, scores: Scores) -> dict[str, list[str]]:
    """The languages of each target that the tables are over, without the one that trains."""
    languages: dict[str, list[str]] = {}
    for task in data.targets:
        scored = [tasks[task] for tasks in scores.values() if task in tasks]
        if scored:
            languages[task] = [code for code in scored[0].languages if code != pivot_of(data, task)]
    return languages


def _group_row(data: RunData, scores: Scores, settings: ComparisonSettings, group: str, members: set[str]) -> Row:
    """Conditions that lack a target are compared on the targets that they share with the baseline."""
    # A gain over other targets than the baseline's would be no gain.
    base = scores[data.baseline]
    cells = []
    for condition in data.conditions:
        scored = scores[condition]
        shared = scored.keys() & base.keys()
        ours = _group_mean({task: of_task for task, of_task in scored.items() if task in shared}, members)
        base_mean = _group_mean({task: of_task for task, of_task in base.items() if task in shared}, members)
        cells.append(judged_cell(ours, base_mean, condition != data.baseline, settings))
    return Row(group, tuple(cells), " ".join(sorted(members)))


def _group_mean(tasks: dict[str, Scored], members: set[str]) -> Floats | None:
    # A target without predictions has no resamples: then only the printed and the tested value are left, untested.
    rows = min((len(s.replicates) for s in tasks.values()), default=0)
    return group_mean({t: (s.languages, s.replicates[:rows]) for t, s in tasks.items()}, members)
