"""What noise costs, and whether a condition bears it better than the baseline does.

A condition is more robust where it loses fewer points than the baseline: a difference of differences, resampled with an
example's clean prediction and all its noisy ones together. A condition that is merely better on clean text has a
difference of 0 there.

Legend: R resamples, L languages; *replicates* as in stats.py, [2 + R] or [2 + R, L].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stilts_ds.evaluate.touched import Touched
from stilts_ds.families.metrics import Metric, Units
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.noise.kinds import KINDS
from stilts_ds.noise.spec import NoiseSpec
from stilts_ds.report.cells import judged_cell
from stilts_ds.report.compare import Scores, gain, read_counts
from stilts_ds.report.holm import holm_corrected
from stilts_ds.report.load import RunData
from stilts_ds.report.stats import ComparisonSettings, Floats
from stilts_ds.report.table import Cell, Row, Table
from stilts_ds.tasks.registry import get_task

GAINS_OF = "noise-gains-"  # and the task: the name of a table of gains under noise
COSTS_OF = "noise-costs-"

ABOUT_COSTS = (
    "Points that noise costs; the signed figure says how many fewer than it costs the baseline (a difference of "
    "differences: above 0 the condition bears noise better). Means over the languages that the noise applies to, the "
    "same for all conditions, and over its draws. Holm's correction over all kinds, rates and conditions here."
)

ABOUT_GAINS = (
    "Scores under noise, and by how much they exceed the baseline's under the same noise: what is left of a gain. "
    "Whether noise takes a part of it is the difference of differences among the costs. Languages and draws are those "
    "of the costs. Holm's correction over all kinds, rates and conditions here."
)

ABOUT_TOUCHED = (
    "Errors that were made in 100 letters, percent of the words with one, and percent of the clean texts' pieces (of "
    "the model's tokenizer) that the noisy texts lack; of whole test sets, the mean over draws. Where fewer pieces "
    "change, less is lost: compare costs within a language."
)


# --- numbers ----------------------------------------------------------------------------------------------------------


def area(rates: Sequence[float], scores: Sequence[float]) -> float:
    """The mean score over the range of rates, by the trapezoid rule: 100 99 98 95 90 at 0 1 2 5 10 has 95."""
    pairs = sorted(zip(rates, scores))
    steps = [(b - a) * (y + z) / 2 for (a, y), (b, z) in zip(pairs, pairs[1:])]
    return sum(steps) / (pairs[-1][0] - pairs[0][0])


def relative_drop(clean: float, noisy: float, chance: float = 0.0) -> float | None:
    """The share of the clean score above `chance` that noise takes, in percent; None where there is none to take."""
    above = clean - chance
    return 100 * (clean - noisy) / above if above > 0 else None


def worst_of(draws: Sequence[Units], metric: Metric) -> float:
    """The score under the worst of several draws, in percent; of one draw its own score.

    Where every item counts for one, whatever is predicted (accuracy, exact match), each item has its worst draw: it
    is right if it is right in all. Where what is predicted counts below the line (F1), the draw with the lowest score.
    """
    ratios = [metric.ratio(units) for units in draws]
    below = ratios[0][1]
    alike = all(units.names == draws[0].names for units in draws)
    if alike and all(np.array_equal(below, denominators) for _, denominators in ratios):
        return 100 * float(np.min([above for above, _ in ratios], axis=0).sum()) / float(below.sum())
    return min(metric.score(units) for units in draws)


# --- one noisy test set after one condition ---------------------------------------------------------------------------


@dataclass(frozen=True)
class NoiseCost:
    """Scores of one task after one condition on clean and on noisy text, [2 + R, L]; several draws are averaged."""

    languages: tuple[str, ...]
    clean: Floats
    noisy: Floats

    @property
    def drop(self) -> Floats:
        return self.clean - self.noisy

    @property
    def mean_drop(self) -> Floats:
        return self.drop.mean(axis=1)

    @property
    def mean_noisy(self) -> Floats:
        return self.noisy.mean(axis=1)


# A condition's cost and the baseline's, both of one noise, to what the table says of them.
NoiseCell = Callable[[NoiseCost | None, NoiseCost | None, ComparisonSettings], Cell]
NoiseCosts = dict[str, dict[NoiseSpec, NoiseCost]]  # condition -> noise, its first draw
Judged = tuple[str, str, Cell, NoiseCost, NoiseCost]  # condition, noise, tested cell, its cost and the baseline's


def costs_of(task: str, noisy: Mapping[NoiseSpec, Sequence[str]], scores: Scores) -> NoiseCosts:
    """What each noise costs after each condition, over the languages that all of them are scored in."""
    needed = {task, *(name for draws in noisy.values() for name in draws)}
    scored = {condition: tasks for condition, tasks in scores.items() if needed <= tasks.keys()}
    costs: NoiseCosts = {}
    for condition, tasks in scored.items():
        costs[condition] = {}
        for spec, draws in noisy.items():
            shared = [code for code in tasks[task].languages if all(code in tasks[name].languages for name in draws)]
            if shared:
                clean = _columns(tasks[task].languages, tasks[task].replicates, shared)
                by_draw = [_columns(tasks[name].languages, tasks[name].replicates, shared) for name in draws]
                # A draw without predictions has no resamples: the pairing ends where the shortest does.
                rows = min(len(replicates) for replicates in (clean, *by_draw))
                costs[condition][spec] = NoiseCost(
                    tuple(shared), clean[:rows], np.mean([e[:rows] for e in by_draw], axis=0)
                )
    return costs


def _columns(languages: Sequence[str], replicates: Floats, wanted: Sequence[str]) -> Floats:
    return replicates[:, [list(languages).index(code) for code in wanted]]


def noisy_versions(data: RunData, task: str) -> dict[NoiseSpec, list[str]]:
    """The noisy targets of one task: noise -> the names of its draws."""
    versions: dict[NoiseSpec, list[str]] = {}
    for name in data.noisy_targets:
        noisy = get_task(name)
        if noisy.plain_name == task and noisy.noise is not None:
            versions.setdefault(replace(noisy.noise, draw=1), []).append(name)
    return dict(sorted(versions.items(), key=lambda item: (item[0].kind, item[0].context, item[0].rate)))


# --- tables -----------------------------------------------------------------------------------------------------------


def robustness_tables(data: RunData, scores: Scores, settings: ComparisonSettings) -> list[Table]:
    """For each task with noisy versions: curves, gains under noise, costs and costs by language, tested; each corrected
    by itself."""
    tables: list[Table] = []
    for name in data.targets:
        noisy = noisy_versions(data, name)
        costs = costs_of(name, noisy, scores) if noisy else {}
        if not costs or data.baseline not in costs:
            continue
        tables += _curve_tables(data, name, noisy, costs)
        if len(costs) > 1:
            tables.append(holm_corrected(noisy_gain_table(data, name, costs, settings), settings))
        judged = holm_corrected(cost_table(data, name, costs, settings), settings)
        said = (verdict(_judged(judged, costs, data.baseline), data.baseline),) if len(costs) > 1 else ()
        tables.append(replace(judged, notes=(*judged.notes, *said)))
        tables.append(_relative_table(data, name, costs))
        tables += _touched_tables(data, name, noisy)
        tables += [holm_corrected(table, settings) for table in _language_tables(data, name, costs, settings)]
    return tables


def _curve_tables(
    data: RunData, name: str, noisy: Mapping[NoiseSpec, Sequence[str]], costs: NoiseCosts
) -> Iterator[Table]:
    """A kind's scores over its rates, the area under them, and the worst of several draws."""
    for kind, context in dict.fromkeys((spec.kind, spec.context) for spec in noisy):
        specs = [spec for spec in noisy if (spec.kind, spec.context) == (kind, context)]
        drawn = [spec for spec in specs if len(noisy[spec]) > 1]
        rows = []
        for condition, by_noise in costs.items():
            if not all(spec in by_noise for spec in specs):
                continue
            values = [
                float(by_noise[specs[0]].clean[0].mean()),
                *(float(by_noise[spec].noisy[0].mean()) for spec in specs),
            ]
            cells = [*values, area([0, *(spec.rate for spec in specs)], values)]
            cells += [worst_score(data, name, noisy[spec], condition, by_noise[spec].languages) for spec in drawn]
            rows.append(Row(condition, tuple(Cell(value) for value in cells)))
        columns = ("0", *(str(spec.rate) for spec in specs), "area")
        columns += tuple(f"{spec.rate}, worst of {len(noisy[spec])}" for spec in drawn)
        label = f"{kind} in passages, too" if context else kind
        unit = "words" if KINDS[kind].unit == "word" else "letters"
        # Clean scores differ from table to table, because kinds apply to different languages.
        over = " ".join(costs[data.baseline][specs[0]].languages)
        notes = (f"Scores over errors in 100 {unit}; area: their mean over the rates. Means over {over}.",)
        yield Table(f"noise-{name}-{kind}{'-context' * context}", f"{name} under {label}", "condition", columns,
                    tuple(rows), notes)  # fmt: skip


def rate_curves(table: Table) -> dict[str, tuple[tuple[int, float], ...]]:
    """condition -> (rate, score) of a table of `_curve_tables` with two rates or more; nothing of another table."""
    rates = {column: int(column) for column in table.columns if column.isdigit()}
    if not table.name.startswith("noise-") or len(rates) < 3:  # a rate and the clean score are no curve
        return {}
    return {
        row.label: tuple(
            (rates[column], cell.score)
            for column, cell in zip(table.columns, row.cells)
            if column in rates and cell.score is not None
        )
        for row in table.rows
    }


def worst_score(data: RunData, name: str, draws: Sequence[str], condition: str, languages: Sequence[str]) -> float:
    """The mean over languages and seeds of the score under the worst of the draws. Raises no error where files are
    missing: costs are of those that are there."""
    tasks = [get_task(draw) for draw in draws]
    counts = [read_counts(data, task, languages) for task in tasks]
    metric = main_metric(tasks[0])
    scores = []
    for code in languages:
        by_draw = [count.units[code][condition] for count in counts if count is not None]
        scores += [worst_of(units, metric) for units in zip(*by_draw)]
    return float(np.mean(scores)) if scores else float("nan")


def noise_rows(
    columns: Sequence[Mapping[str, NoiseCost]],
    conditions: Iterable[str],
    baseline: str,
    cell: NoiseCell,
    settings: ComparisonSettings,
) -> tuple[Row, ...]:
    """A row for each condition, with a cell for each column, which holds costs by condition."""
    rows = []
    for condition in conditions:
        # The baseline stands beside itself without a gain.
        tested = condition != baseline
        cells = []
        for by_condition in columns:
            base = by_condition.get(baseline) if tested else None
            cells.append(cell(by_condition.get(condition), base, settings))
        rows.append(Row(condition, tuple(cells)))
    return tuple(rows)


def _rows_of(data: RunData, costs: NoiseCosts, cell: NoiseCell, settings: ComparisonSettings) -> tuple[Row, ...]:
    """`noise_rows` with a column for each noise of the baseline."""
    columns = []
    for spec in costs[data.baseline]:
        columns.append({condition: by_noise[spec] for condition, by_noise in costs.items() if spec in by_noise})
    return noise_rows(columns, costs, data.baseline, cell, settings)


def noisy_gain_table(data: RunData, name: str, costs: NoiseCosts, settings: ComparisonSettings) -> Table:
    """Mean scores under each noise, beside the baseline's under the same noise."""
    rows, specs = _rows_of(data, costs, noisy_cell, settings), tuple(map(str, costs[data.baseline]))
    return Table(f"{GAINS_OF}{name}", f"{name}: gains under noise", "condition", specs, rows, (ABOUT_GAINS,))


def noisy_cell(cost: NoiseCost | None, base: NoiseCost | None, settings: ComparisonSettings) -> Cell:
    """The mean score under noise and, beside a baseline's, the gain."""
    ours = None if cost is None else cost.mean_noisy
    theirs = None if base is None else base.mean_noisy
    return judged_cell(ours, theirs, theirs is not None, settings)


def cost_table(data: RunData, name: str, costs: NoiseCosts, settings: ComparisonSettings) -> Table:
    """Mean drops, and how many points fewer than the baseline a condition loses."""
    rows, specs = _rows_of(data, costs, cost_cell, settings), tuple(map(str, costs[data.baseline]))
    return Table(f"{COSTS_OF}{name}", f"{name}: what noise costs", "condition", specs, rows, (ABOUT_COSTS,))


def cost_cell(cost: NoiseCost | None, base: NoiseCost | None, settings: ComparisonSettings) -> Cell:
    """The mean drop and, beside a baseline's, how many points fewer it is; empty where there is no cost."""
    if cost is None:
        return Cell()
    value = float(cost.mean_drop[0])
    return Cell(value) if base is None else Cell(value, gain(base.mean_drop, cost.mean_drop, settings))


def _judged(table: Table, costs: NoiseCosts, baseline: str) -> Iterator[Judged]:
    """The tested cells of a table of costs."""
    for row in table.rows:
        for column, cell, spec in zip(table.columns, row.cells, costs[baseline]):
            if spec in costs[row.label]:
                yield row.label, column, cell, costs[row.label][spec], costs[baseline][spec]


def verdict(judged: Iterable[Judged], baseline: str) -> str:
    """Which conditions bear which noise better than the baseline, after correction."""
    better = [
        f"{condition} ({noise})" for condition, noise, cell, cost, base in judged if more_robust(cell, cost, base)
    ]
    if not better:
        return f"No condition is shown to bear noise better than {baseline}."
    return f"More robust than {baseline}: {', '.join(better)}."


def _relative_table(data: RunData, name: str, costs: NoiseCosts) -> Table:
    """Drops in percent of the clean score and, where guessing has one, of the score above chance."""
    chance = get_task(name).chance
    specs = list(costs[data.baseline])
    columns = [str(spec) for spec in specs] + [f"{spec}, above chance" for spec in specs if chance]
    rows = []
    for condition, by_noise in costs.items():
        cells = [_relative(by_noise.get(spec), 0.0) for spec in specs]
        cells += [_relative(by_noise.get(spec), chance) for spec in specs if chance]
        rows.append(Row(condition, tuple(map(Cell, cells))))
    notes = ("The drop in percent of the clean score. A condition that only rises on clean text loses as many points "
             "as before, and a smaller share.",)  # fmt: skip
    return Table(f"noise-relative-{name}", f"{name}: what noise costs, in percent", "condition", tuple(columns),
                 tuple(rows), notes)  # fmt: skip


def _touched_tables(data: RunData, name: str, noisy: Mapping[NoiseSpec, Sequence[str]]) -> Iterator[Table]:
    """What noise did to the texts by language, the mean over its draws; none where an older run did not write it."""
    by_noise = {spec: _touched(data, draws) for spec, draws in noisy.items()}
    languages = dict.fromkeys(code for by_language in by_noise.values() for code in by_language)
    rows = []
    for code in languages:
        cells = [cell for by_language in by_noise.values() for cell in _touched_cells(by_language.get(code, []))]
        rows.append(Row(code, tuple(cells)))
    columns = tuple(f"{spec}, {figure}" for spec in noisy for figure in ("errors", "words", "pieces"))
    if rows:
        yield Table(f"noise-touched-{name}", f"{name}: what noise did to the texts", "language", columns, tuple(rows),
                    (ABOUT_TOUCHED,))  # fmt: skip


def _touched(data: RunData, draws: Sequence[str]) -> dict[str, list[Touched]]:
    """By language, what each draw did, as it stands beside the labels."""
    by_language: dict[str, list[Touched]] = {}
    for draw in draws:
        task = get_task(draw)
        results = [result for by_task in data.results.values() for result in by_task.get(draw, [])]
        for code in results[0].main if results else ():
            labels = data.run.labels / draw / family_of(task).files(task).name(results[0].split, code)
            touched = Touched.load(labels)
            if touched is not None:
                by_language.setdefault(code, []).append(touched)
    return by_language


def _touched_cells(draws: Sequence[Touched]) -> list[Cell]:
    """Errors in 100 letters, percent of the words and percent of the pieces."""
    if not draws:
        return [Cell(note="does not apply")] * 3
    words = [touched.words for touched in draws if touched.words is not None]
    return [
        Cell(float(np.mean([touched.errors for touched in draws]))),
        Cell(float(np.mean(words))) if words else Cell(note="no spaces"),
        Cell(float(np.mean([touched.pieces for touched in draws]))),
    ]


def _relative(cost: NoiseCost | None, chance: float) -> float | None:
    if cost is None:
        return None
    return relative_drop(float(cost.clean[0].mean()), float(cost.noisy[0].mean()), chance)


def _language_tables(data: RunData, name: str, costs: NoiseCosts, settings: ComparisonSettings) -> Iterator[Table]:
    """A condition's costs by language: absolute drops are compared within a language, never over scripts."""
    base = costs[data.baseline]
    for condition, by_noise in costs.items():
        compared: Mapping[NoiseSpec, NoiseCost] = {} if condition == data.baseline else base
        languages = dict.fromkeys(code for cost in by_noise.values() for code in cost.languages)
        rows = []
        for code in languages:
            cells = [_language_cell(by_noise[spec], compared.get(spec), code, settings) for spec in by_noise]
            rows.append(Row(code, tuple(cells)))
        yield Table(f"noise-languages-{name}-{condition}", f"{name} after {condition}: what noise costs by language",
                    "language", tuple(map(str, by_noise)), tuple(rows), (ABOUT_COSTS,))  # fmt: skip


def _language_cell(cost: NoiseCost, base: NoiseCost | None, code: str, settings: ComparisonSettings) -> Cell:
    if code not in cost.languages:
        return Cell(note="does not apply")
    ours = cost.drop[:, cost.languages.index(code)]
    if base is None:
        return Cell(float(ours[0]))
    # Only languages that every condition has are scored at all, so the baseline has this one.
    return Cell(float(ours[0]), gain(base.drop[:, base.languages.index(code)], ours, settings))


def more_robust(cost: Cell, ours: NoiseCost, base: NoiseCost) -> bool:
    """Whether a tested cell says that a condition bears noise better: it loses significantly fewer points, and a
    smaller share of its own clean score."""
    fewer = cost.gain is not None and bool(cost.gain.significant) and cost.gain.value > 0
    shares = [_relative(ours, 0.0), _relative(base, 0.0)]
    return fewer and shares[0] is not None and shares[1] is not None and shares[0] < shares[1]
