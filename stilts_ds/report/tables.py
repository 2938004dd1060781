"""The tables of a report: conditions against targets, transfer gaps, groups of languages, each target's languages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from stilts_ds.errors import counted
from stilts_ds.report.cells import any_scores, judged_cell, pivot_of
from stilts_ds.report.compare import Scored, Scores, mean_of
from stilts_ds.report.groups import group_tables
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.inputs import fitted_on_scored, selected_on_scored
from stilts_ds.report.load import RunData
from stilts_ds.report.published import published_table
from stilts_ds.report.sources import variant_tables
from stilts_ds.report.stats import (
    ComparisonSettings,
    Floats,
    benjamini_hochberg,
    enough_resamples,
    generator,
    transfer_gap,
)
from stilts_ds.report.table import CHOSEN, FITTED, NOT_EXECUTED, PARTIAL, SELECTED, Cell, Row, Table, correct
from stilts_ds.tasks.languages import LANGUAGES, name_of
from stilts_ds.tasks.registry import get_task

BEST = "best per target"
ZERO_SHOT = "zero-shot mean"
LANGUAGES_OF = "languages-"  # and the task: the name of a table of its languages
CHOICES = 10_000  # resamples of the seeds that choose anew
MEDIAN_AND_MEAN = (
    "Scores are medians over seeds, as in the paper. Tests, intervals and p-values are of the mean over "
    "seeds. Where the two gains differ in print both stand, the tested one after `mean` and with the "
    "mark."
)


@dataclass(frozen=True)
class Tables:
    """All tables of a report, corrected and judged."""

    matrix: Table
    gap: Table
    groups: tuple[Table, ...]
    variants: tuple[Table, ...]
    languages: tuple[Table, ...]
    published: Table | None
    why_not_published: str

    def all(self) -> list[Table]:
        return [
            self.matrix,
            self.gap,
            *self.groups,
            *self.variants,
            *self.languages,
            *([self.published] if self.published else []),
        ]


def with_resamples(data: RunData, settings: ComparisonSettings) -> ComparisonSettings:
    """Settings with a number of resamples: the one given, or enough for the comparisons of the matrix."""
    if settings.resamples:
        return settings
    others = len(data.conditions) - 1
    matrix = others * (len(data.targets) + 1) + (1 if others else 0)  # every cell, and the best per target
    # Each table is corrected by itself, so the largest one decides.
    comparisons = max(matrix, others * len(data.noisy_targets))
    return replace(settings, resamples=enough_resamples(comparisons, settings.level))


def build_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> Tables:
    """Every summary table is corrected by itself (Holm), the languages of all targets together (Benjamini-Hochberg)."""
    # Noisy, crossed and checked targets have tables of their own.
    scores_of_targets = {c: {t: s for t, s in tasks.items() if t in data.targets} for c, tasks in scores.items()}
    uncorrected = (
        matrix_table(data, scores, settings),
        gap_table(data, scores, settings),
        *group_tables(data, scores_of_targets, settings),
    )
    matrix, gap, *groups = (holm_corrected(table, settings) for table in uncorrected)
    languages = [language_table(data, scores, task, settings) for task in data.targets if any_scores(scores, task)]
    # After correction: these cells repeat comparisons, which must not be corrected for twice.
    whole = with_chosen_cells(data, matrix)
    published, why_not = published_table(data, whole)
    variants = variant_tables(data, scores, settings)
    return Tables(
        whole,
        gap,
        tuple(groups),
        variants,
        tuple(correct(languages, benjamini_hochberg, settings.level)),
        published,
        why_not,
    )


# --- the matrix ------------------------------------------------------------------------------------------------------


def matrix_table(data: RunData, scores: Scores, settings: ComparisonSettings) -> Table:
    """Mean over languages of the median over seeds; last column: mean over targets, where none is missing.

    The last row is the best condition of each target, chosen on English dev; its own cells are filled in by
    `with_chosen_cells` after correction, because they repeat comparisons that are already made.
    """
    means = {c: {t: s.replicates.mean(axis=1) for t, s in tasks.items()} for c, tasks in scores.items()}
    base = means[data.baseline]
    rows = []
    for condition in data.conditions:
        by_target = means[condition]
        compares = condition != data.baseline
        cells = [
            judged_cell(by_target.get(t), base.get(t), compares, settings, marks_of(data, t)) for t in data.targets
        ]
        # An average over other targets than the baseline's would be compared with another number.
        average = mean_of([by_target[t] for t in data.targets]) if _has_all(data, by_target) else None
        average_base = mean_of([base[t] for t in data.targets]) if _has_all(data, base) else None
        mark = "" if all(is_whole(data, t) for t in data.targets) else PARTIAL
        cells.append(judged_cell(average, average_base, compares, settings, mark))
        rows.append(Row(condition, tuple(cells), _seeds(data, scores[condition])))
    if len(data.conditions) > 1:
        rows.append(_chosen_row(data, means, settings))
    notes = [f"A gain is the difference to {data.baseline}."] if len(data.conditions) > 1 else []
    notes.extend(_notes_on_tests(data, scores))
    columns = (*data.targets, "average")
    return Table("matrix", "Conditions and targets", "condition", columns, tuple(rows), tuple(notes), "column")


def _has_all(data: RunData, means: dict[str, Floats]) -> bool:
    return bool(data.targets) and all(task in means for task in data.targets)


def _notes_on_tests(data: RunData, scores: Scores) -> list[str]:
    """What a reader of intervals must know: what they are of, and where they are too narrow."""
    notes = []
    # The median of one or two seeds is their mean.
    if len(data.plan.seeds) > 2 and len(data.conditions) > 1:
        notes.append(MEDIAN_AND_MEAN)
    unknown = [t for t in data.targets if _clusters_unknown(scores, t)]
    if unknown:
        notes.append(
            f"{', '.join(unknown)}: examples share texts, but this run's labels do not say which (an earlier "
            "version wrote them). They are drawn one by one, so these intervals are too narrow."
        )
    return notes


def _clusters_unknown(scores: Scores, task: str) -> bool:
    return any(task in by_target and by_target[task].clusters_unknown for by_target in scores.values())


def is_whole(data: RunData, task: str) -> bool:
    """Whether each language is scored in every condition and seed, on no other number of examples than the benchmark
    has: means are over the languages that all of them have."""
    runs = [run for tasks in data.results.values() for run in tasks.get(task, [])]
    return bool(runs) and all(run.whole for run in runs)


def marks_of(data: RunData, task: str) -> str:
    """What a reader of a target's cells must know."""
    marks = "" if is_whole(data, task) else PARTIAL
    marks += NOT_EXECUTED if _is_unexecuted(data, task) else ""
    marks += SELECTED if selected_on_scored(data, task) else ""
    return marks + (FITTED if fitted_on_scored(data, task) else "")


def _is_unexecuted(data: RunData, task: str) -> bool:
    """Whether programs of some condition and seed wait to be executed."""
    return any(run.unexecuted for tasks in data.results.values() for run in tasks.get(task, []))


def _seeds(data: RunData, tasks: dict[str, Scored]) -> str:
    """`3 seeds`, or how many of them are there yet."""
    wanted = len(data.plan.seeds)
    # Retrieval from the pretrained encoder has one phase for all seeds, and would look as if seeds were missing.
    trained = [s.seeds for t, s in tasks.items() if get_task(t).trains]
    fewest = min(trained, default=0)
    return f"{fewest} of {wanted} seeds" if trained and fewest < wanted else counted(wanted, "seed")


def choose_best(data: RunData) -> dict[str, str]:
    """target -> the condition with the best English dev score; targets without such scores are left out.

    The baseline is one of them: it answers which model one would ship. Test scores take no part. Of equals the first
    in the recipe's order wins.
    """
    best = {}
    for task in data.targets:
        scores = {c: median(seeds) for c, seeds in data.dev_scores(task).items()}
        if scores:
            best[task] = max(scores, key=lambda c: scores[c])
    return best


def chosen_otherwise(data: RunData) -> dict[str, float]:
    """target -> share of resamples of the seeds that choose another condition, for targets with two seeds or more.

    Each condition draws its seeds' dev scores with replacement. Dev examples cannot be drawn: a run keeps dev scores
    but no dev predictions.
    """
    shares = {}
    for task, chosen in choose_best(data).items():
        by_condition = data.dev_scores(task)
        if min(map(len, by_condition.values())) < 2:
            continue
        drawn = []
        for condition, scores in by_condition.items():
            picks = generator("choice", task, condition).integers(0, len(scores), (CHOICES, len(scores)))
            drawn.append(np.median(np.array(scores)[picks], axis=1))
        winners = np.argmax(drawn, axis=0)  # of equals the first, as above
        shares[task] = float(np.mean(winners != list(by_condition).index(chosen)))
    return shares


def _chosen_row(data: RunData, means: dict[str, dict[str, Floats]], settings: ComparisonSettings) -> Row:
    # Chosen on dev alone: a condition without test scores yet is left out, not exchanged for the next best.
    chosen = {t: c for t, c in choose_best(data).items() if t in means[c] and t in means[data.baseline]}
    cells = [Cell(note="no English dev score to choose on") for _ in data.targets]
    if not chosen:
        return Row(BEST, (*cells, Cell()), "on English dev")
    ours = mean_of([means[c][t] for t, c in chosen.items()])
    base = mean_of([means[data.baseline][t] for t in chosen])
    mark = PARTIAL * any(not is_whole(data, t) for t in chosen)
    mark += CHOSEN * (len(chosen) < len(data.targets))
    # Where the baseline is chosen everywhere there is nothing to test.
    differs = any(c != data.baseline for c in chosen.values())
    return Row(BEST, (*cells, judged_cell(ours, base, differs, settings, mark)), "on English dev")


def with_chosen_cells(data: RunData, matrix: Table) -> Table:
    """Fill the best-per-target row with the judged cells of the conditions that English dev chose."""
    if matrix.rows[-1].label != BEST:
        return matrix
    by_condition = {row.label: dict(zip(matrix.columns, row.cells)) for row in matrix.rows[:-1]}
    chosen = choose_best(data)
    cells = []
    for target, cell in zip(matrix.columns, matrix.rows[-1].cells):
        if target in chosen and cell.score is None:
            condition = chosen[target]
            cell = replace(by_condition[condition][target], note=condition)
        cells.append(cell)
    last = replace(matrix.rows[-1], cells=tuple(cells))
    return replace(matrix, rows=(*matrix.rows[:-1], last), notes=(*matrix.notes, _note_on_choice(data, chosen)))


def _note_on_choice(data: RunData, chosen: dict[str, str]) -> str:
    note = (
        f"{BEST}: the condition, {data.baseline} included, with the best score on the English dev examples of the "
        "target's training task; test scores take no part in the choice"
    )
    on_scored = [t for t in chosen if selected_on_scored(data, t)]
    note += f", but for {', '.join(on_scored)}, where these are the scored English examples." if on_scored else "."
    unchosen = [t for t in data.targets if t not in chosen]
    if unchosen:
        note += f" {', '.join(unchosen)}: no English dev score to choose on."
    if not chosen:
        return note
    otherwise = chosen_otherwise(data)
    if otherwise:
        shares = ", ".join(f"{t} {share:.0%}" for t, share in otherwise.items())
        note += f" Drawing the seeds anew, another condition would be chosen so often: {shares}."
    if by_one := [t for t in chosen if t not in otherwise]:
        note += f" {', '.join(by_one)}: one seed, so how sure the choice is cannot be told."
    return (
        note + " How much hangs on the dev examples themselves is not shown: a run keeps their scores and not "
        "their predictions."
    )


# --- gaps ------------------------------------------------------------------------------------------------------------


def gap_table(data: RunData, scores: Scores, settings: ComparisonSettings) -> Table:
    """Transfer gap of every target that is trained in one language and scored in it and in others."""
    gaps: dict[str, dict[str, Floats]] = {condition: {} for condition in data.conditions}
    for condition, tasks in scores.items():
        for task, scored in tasks.items():
            gap = transfer_gap(scored.replicates, scored.languages, pivot_of(data, task))
            if gap is not None:
                gaps[condition][task] = gap
    columns = tuple(t for t in data.targets if any(t in by_target for by_target in gaps.values()))
    base = gaps[data.baseline]
    rows = []
    for condition in data.conditions:
        compares = condition != data.baseline
        cells = [judged_cell(gaps[condition].get(t), base.get(t), compares, settings) for t in columns]
        rows.append(Row(condition, tuple(cells)))
    note = (
        "Points by which the training language's score exceeds the mean of the other languages. With each "
        f"the change against {data.baseline}: above 0 the gap has grown, below 0 it has closed."
    )
    return Table("gap", "Transfer gap", "condition", columns, tuple(rows), (note,))


# --- languages -------------------------------------------------------------------------------------------------------


def language_table(data: RunData, scores: Scores, task: str, settings: ComparisonSettings) -> Table:
    """One target: languages down, conditions across; last row the mean over the zero-shot languages."""
    present = {c: tasks[task] for c, tasks in scores.items() if task in tasks}
    first, pivot = next(iter(present.values())), pivot_of(data, task)
    columns = tuple(present)
    base = present.get(data.baseline)

    def row(label: str, chosen: list[int], detail: str = "") -> Row:
        means = {c: s.replicates[:, chosen].mean(axis=1) for c, s in present.items()}
        mean_base = base.replicates[:, chosen].mean(axis=1) if base else None
        cells = [judged_cell(means[c], mean_base, c != data.baseline, settings) for c in columns]
        return Row(label, tuple(cells), detail)

    rows = [row(code + "*" * (code == pivot), [i], _about(code)) for i, code in enumerate(first.languages)]
    # A mean over one language would repeat its row.
    others = [i for i, code in enumerate(first.languages) if code != pivot]
    if len(others) > 1:
        rows.append(row(ZERO_SHOT, others))
    run = next(run for tasks in data.results.values() for run in tasks.get(task, []))
    notes = ["* marks the language of training."] if pivot in first.languages else []
    return Table(
        f"{LANGUAGES_OF}{task}",
        f"{task} ({run.split} split)",
        "language",
        columns,
        tuple(rows),
        (*notes, *(note for note in data.missing if note.startswith(f"{task}: "))),
        "row",
    )


def seed_tables(data: RunData, scores: Scores) -> list[Table]:
    """Each seed's scores by itself, languages down and conditions across: the numbers that a median is of."""
    tables = []
    for task in data.targets:
        present = [condition for condition, tasks in scores.items() if task in tasks]
        for seed in data.plan.seeds:
            # A phase that seeds share has one result, of the seed that it was trained with.
            runs = {c: run for c in present for run in data.results[c][task] if run.seed == seed}
            if runs:
                languages = scores[next(iter(runs))][task].languages
                rows = [Row(code, tuple(Cell(run.main[code]) for run in runs.values())) for code in languages]
                name, title = f"seed-{seed}-{task}", f"{task}, seed {seed}"
                tables.append(Table(name, title, "language", tuple(runs), tuple(rows)))
    return tables


def _about(code: str) -> str:
    return f"{name_of(code)}, {LANGUAGES[code].script}" if code in LANGUAGES else ""


def tested(settings: ComparisonSettings) -> str:
    """One paragraph on the tests, for every format."""
    return (
        f"Paired bootstrap against the baseline: {settings.resamples:,} resamples of the test examples (the same for "
        "all conditions, and for all translations of a test set; premises and paragraphs whole, with all their "
        "examples). With several seeds the mean over seeds is tested, and how far the seeds lie apart counts as in a "
        "t-test. Holm's correction within each summary table, Benjamini and Hochberg's over the languages of all "
        f"targets; level {settings.level:.0%}. With one seed the test speaks of these trained models, not of training "
        "again. docs/report.md of the project explains every number."
    )
