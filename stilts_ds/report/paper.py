"""A study of all nine single tasks beside Phang et al. 2020: the signs of the gains by target, the order of the
targets, and what the paper says of each kind of intermediate training.

The paper's model, data and number of steps are others, so magnitudes do not compare; signs and order do. Every verdict
is made of tested gains (corrected within the table `matrix`): what is not told from 0 agrees with nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from scipy.stats import kendalltau

from stilts_ds.config import Recipe
from stilts_ds.display import signed
from stilts_ds.errors import counted
from stilts_ds.report.published import PHANG_2020, UNCHECKED, XLMR_LARGE
from stilts_ds.report.table import Sheet

# ANLI+ first, as in the paper's table.
NINE = ("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa")
BEST_SINGLE = ("mnli", "squad_v1", "hellaswag")  # the abstract's, without an order among them
AGREES, DISAGREES, NOT_TOLD = "agrees", "disagrees", "not told"
AVERAGE = "average"
Gains = Mapping[str, Mapping[str, Any]]  # condition -> target or `average` -> cell of results.json


def paper_sheets(results: Mapping[str, Any], recipe: Recipe) -> list[Sheet]:
    """Three sheets, or none where the recipe has not each of the nine tasks alone."""
    singles = {task: name for name, tasks in recipe.intermediate.items() for task in NINE if tasks == [task]}
    if len(singles) < len(NINE):
        return []
    # Without the row of the best of each target: its average is over those targets alone that it could choose for.
    matrix = results["statistics"]["tables"]["matrix"]
    gains = {name: row for name, row in matrix.items() if name in recipe.intermediate and _gain(row, AVERAGE)}
    targets = [task for task in results["targets"] if task in PHANG_2020]
    conditions = [name for name in singles.values() if name in gains]
    together = _named(recipe, gains, lambda tasks: set(tasks) == set(NINE))
    text_alone = _named(recipe, gains, lambda tasks: tasks == ["mlm"])
    translated = _named(recipe, gains, _translated)
    claims = (
        _best_three(gains, conditions),
        _little_more(gains, conditions, together),
        *_inconsistent(gains, [*text_alone, *translated], targets),
    )
    by_claim = Sheet("What the paper says of kinds of training", ("the paper", "here", "verdict"), claims)
    return [_by_target(gains, [*conditions, *together], targets), _by_condition(gains), by_claim]


def _named(recipe: Recipe, gains: Gains, wanted: Callable[[Sequence[str]], bool]) -> list[str]:
    """The conditions with a gain whose tasks are those wanted, in the recipe's order."""
    return [name for name, tasks in recipe.intermediate.items() if name in gains and tasks and wanted(tasks)]


def _translated(tasks: Sequence[str]) -> bool:
    return all("." in task for task in tasks)


def _gain(row: Mapping[str, Any], column: str) -> Mapping[str, Any] | None:
    """A tested cell; None for the baseline's and for what was not run."""
    cell = row.get(column)
    return cell if cell and cell.get("p_adjusted") is not None else None


def _sign(cell: Mapping[str, Any]) -> int:
    """1 or -1 where a gain is told from 0, else 0."""
    if not cell["significant"]:
        return 0
    return 1 if cell["mean_gain"] > 0 else -1


# --- Targets ---------------------------------------------------------------------------------------------------------


def _by_target(gains: Gains, conditions: Sequence[str], targets: Sequence[str]) -> Sheet:
    """The paper's gain of each target beside the mean and the best here, and how many conditions gain and lose."""
    rows, here, published = [], [], []
    for target in targets:
        tested = {name: cell for name in conditions if (cell := _gain(gains[name], target))}
        if not tested:
            continue
        cells = list(tested.values())
        best = max(tested, key=lambda name: tested[name]["mean_gain"])
        gain = PHANG_2020[target] - XLMR_LARGE[target]
        mean = sum(cell["mean_gain"] for cell in cells) / len(cells)
        signs = [_sign(cell) for cell in cells]
        above, below = signs.count(1), signs.count(-1)
        published.append(gain)
        here.append(mean)
        told = f"{above} above, {below} below, {len(cells) - above - below} not told"
        highest = f"{signed(tested[best]['mean_gain'])} ({best})"
        rows.append((target, signed(gain), signed(mean), highest, told, _agreement(gain, above, below)))
    unchecked = " and ".join(task for task in UNCHECKED if task in targets)
    notes = [
        "The paper's gain is that of XLM-R Large after the best intermediate task of each target (leaderboard, hidden "
        "labels). Here stand the mean gain of the nine single tasks and of all together, the best of them, and how "
        "many are told from 0. The best is chosen on the scores that it is judged by and gains by chance: it bounds "
        "from above what a choice could gain here, and decides nothing. `agrees` is a target where one gain has the "
        "paper's sign and none the other, `disagrees` the reverse, `mixed` where both signs are told."
    ]
    if unchecked:
        notes.append(f"The paper's scores of {unchecked} were not checked against it.")
    if len(rows) > 2:
        order = kendalltau(published, here)
        notes.append(
            f"Order of the targets by gain, Kendall's tau between paper and run: {order.statistic:+.2f} "
            f"(p {order.pvalue:.2f}, {counted(len(rows), 'target')}; 1 is the same order, -1 the reverse)."
        )
    columns = ("target", "paper, best", "here, mean", "here, best", "told from 0", "sign")
    return Sheet("Targets beside the paper", columns, tuple(rows), tuple(notes))


def _agreement(gain: float, above: int, below: int) -> str:
    if above and below:
        return "mixed"
    if not above and not below:
        return NOT_TOLD
    return AGREES if (gain > 0) == bool(above) else DISAGREES


# --- Conditions ------------------------------------------------------------------------------------------------------


def _by_condition(gains: Gains) -> Sheet:
    """All conditions by their average gain, the highest first."""
    ordered = sorted(gains, key=lambda name: -gains[name][AVERAGE]["mean_gain"])
    rows = []
    for name in ordered:
        cell = gains[name][AVERAGE]
        interval = f"{signed(cell['low'])} to {signed(cell['high'])}"
        rows.append((name, signed(cell["mean_gain"]), interval, "yes" if cell["significant"] else "no"))
    columns = ("condition", "average gain", "95 % interval", "told from 0")
    note = "The average is over the targets and languages of this run."
    return Sheet("Conditions in order", columns, tuple(rows), (note,))


def _best_three(gains: Gains, conditions: Sequence[str]) -> tuple[str, str, str]:
    """Whether the paper's three best single tasks lead here by more than their intervals, or are passed by three."""
    claim = f"{', '.join(BEST_SINGLE)} are the best single tasks"
    ordered = sorted(conditions, key=lambda name: -gains[name][AVERAGE]["mean_gain"])
    if missing := [task for task in BEST_SINGLE if task not in ordered]:
        return claim, f"{', '.join(missing)} not run", NOT_TOLD
    places = ", ".join(f"{task} {ordered.index(task) + 1}" for task in BEST_SINGLE)
    here = f"places among {len(ordered)}: {places}"
    # Intervals of gains that share a baseline: apart means different, overlapping means nothing.
    above = {
        task: {name for name in ordered if gains[name][AVERAGE]["low"] > gains[task][AVERAGE]["high"]}
        for task in ordered
    }
    if any(len(above[task]) >= len(BEST_SINGLE) for task in BEST_SINGLE):
        return claim, here, DISAGREES  # three tasks are told to be better, so this one is none of the three
    lead = all(set(BEST_SINGLE) <= above[name] for name in ordered if name not in BEST_SINGLE)
    return claim, here, AGREES if lead else NOT_TOLD


def _little_more(gains: Gains, conditions: Sequence[str], together: Sequence[str]) -> tuple[str, str, str]:
    """All tasks together beside the best single task, by intervals that do or do not overlap."""
    claim = "all tasks together add a little to the best single task"
    if not together or not conditions:
        return claim, "not run", NOT_TOLD
    best = max(conditions, key=lambda name: gains[name][AVERAGE]["mean_gain"])
    single, multi = gains[best][AVERAGE], gains[together[0]][AVERAGE]
    here = f"{together[0]} {signed(multi['mean_gain'])}, {best} {signed(single['mean_gain'])}"
    if multi["low"] <= single["high"] and single["low"] <= multi["high"]:
        return claim, here, NOT_TOLD
    return claim, here, AGREES if multi["mean_gain"] > single["mean_gain"] else DISAGREES


def _inconsistent(gains: Gains, names: Sequence[str], targets: Sequence[str]) -> list[tuple[str, str, str]]:
    """What the paper finds of no consistent help: it disagrees where targets gain and none loses."""
    rows = []
    for name in names:
        cells = {task: cell for task in targets if (cell := _gain(gains[name], task))}
        told = {task: cell for task, cell in cells.items() if cell["significant"]}
        listed = ", ".join(f"{task} {signed(cell['mean_gain'])}" for task, cell in told.items())
        verdict = NOT_TOLD
        if told:
            verdict = DISAGREES if all(_sign(cell) > 0 for cell in told.values()) else AGREES
        rows.append((f"{name} does not help consistently", f"told from 0: {listed or 'no target'}", verdict))
    return rows
