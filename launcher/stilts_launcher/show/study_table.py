"""A study as a table: conditions down, targets across, what the phases of all seeds do in each cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from stilts_ds.plan_file import Phase, Plan

INTERMEDIATE = "intermediate"
NOTHING = "-"  # a condition that trains nothing before its targets


def study_table(
    plan: Plan, cell: Callable[[Sequence[Phase]], str], totals: Mapping[str, Callable[[Sequence[Phase]], str]]
) -> list[str]:
    """Lines of a table. `cell` says what the phases of one condition and target do, `totals` are columns behind them,
    by their heads, of all phases of a condition. The last row is of all phases of the plan, each once."""
    by_id = {phase.id: phase for phase in plan.phases}
    rows = []
    for condition, ids in plan.use.items():
        evaluated = [by_id[phase_id] for phase_id in ids]
        # What a condition uses is what is scored; the phases that those start from belong to it as well.
        starts = [by_id[start] for start in dict.fromkeys(phase.init for phase in evaluated) if start]
        used = [*starts, *evaluated]
        cells = [_cell(cell, [phase for phase in used if phase.kind == INTERMEDIATE])]
        cells += [_cell(cell, [phase for phase in used if target in phase.evaluate]) for target in plan.targets]
        rows.append([condition, *cells, *(total(used) for total in totals.values())])
    # Conditions share phases (one SQuAD phase serves XQuAD and MLQA), so the sums of the columns would be too large.
    rows.append(["all phases", *[""] * (1 + len(plan.targets)), *(total(plan.phases) for total in totals.values())])
    return aligned([["condition", INTERMEDIATE, *plan.targets, *totals], *rows])


def _cell(cell: Callable[[Sequence[Phase]], str], phases: Sequence[Phase]) -> str:
    return cell(phases) if phases else NOTHING


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of one length as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return lines


def share(phases: Sequence[Phase], done: Callable[[Phase], bool]) -> str:
    """`2/3`: how many of some phases are done."""
    return f"{sum(map(done, phases))}/{len(phases)}"
