"""One kind of table for every format: cells with a score and its gain, and the marks that they carry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from stilts_ds.display import number, signed
from stilts_ds.report.stats import Difference

NOT_SIGNIFICANT, NOT_TESTED, PARTIAL, CHOSEN, SELECTED, FITTED = "°", "?", "†", "‡", "§", "¶"
NOT_EXECUTED = "×"
LEGEND = {
    NOT_SIGNIFICANT: "not significantly different from 0 at the {level:.0%} level, corrected for the other comparisons "
    "of its table.",
    NOT_TESTED: "not tested: there are no predictions and labels to resample.",
    PARTIAL: "over the languages and examples scored; some of the benchmark's are missing, so this is not its average.",
    CHOSEN: "over the targets that a condition could be chosen for.",
    SELECTED: "the English examples that select the model and the best condition are the scored English ones.",
    FITTED: "the threshold for mining was chosen on the examples that are scored.",
    NOT_EXECUTED: "its programs have not been executed; the run's log and docs/code.md say how they are.",
}


@dataclass(frozen=True)
class Cell:
    """A score in percent (or a gap in points), its gain over the baseline, and marks or a word about it.

    `score` comes from medians over seeds, `mean` is the same from means over seeds: gains are tested on these.
    """

    score: float | None = None
    gain: Difference | None = None
    mark: str = ""
    note: str = ""
    mean: float | None = None


@dataclass(frozen=True)
class Row:
    """`detail` stands small beside the label where there is room."""

    label: str
    cells: tuple[Cell, ...]
    detail: str = ""


Best = Literal["column", "row", "none"]


@dataclass(frozen=True)
class Table:
    """`name` is its identifier in CSV, JSON and links. Every row has one cell for each column. `best` says along which
    of them conditions compete for the highest score; in a table of gaps or errors they do not."""

    name: str
    title: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    best: Best = "none"

    def __post_init__(self) -> None:
        assert all(len(row.cells) == len(self.columns) for row in self.rows), self.name

    def marks(self) -> set[str]:
        return {mark for row in self.rows for cell in row.cells for mark in gain_mark(cell.gain) + cell.mark}

    def to_json(self) -> dict[str, Any]:
        """row -> column -> score and gain, at full precision."""
        return {
            row.label: {column: cell_json(cell) for column, cell in zip(self.columns, row.cells)} for row in self.rows
        }


@dataclass(frozen=True)
class Sheet:
    """A table of plain text, for what is no score."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def cell_json(cell: Cell) -> dict[str, Any] | None:
    if cell.score is None and cell.gain is None:
        return None
    gain = cell.gain
    tested = (
        {
            "mean_gain": gain.value,
            "low": gain.low,
            "high": gain.high,
            "p": gain.p,
            "p_adjusted": gain.adjusted,
            "significant": gain.significant,
        }
        if gain
        else {}
    )
    value: dict[str, Any] = {"score": cell.score}
    value |= {"mean": cell.mean} if cell.mean is not None else {}
    value |= {"gain": printed_gain(gain), **tested} if gain else {}
    return value | ({"note": cell.note} if cell.note else {})


def correct(tables: Sequence[Table], method: Callable[[Sequence[float]], list[float]], level: float) -> list[Table]:
    """The tables with the p-values of all their gains adjusted together, and judged."""
    # In reading order, in which `judged` takes them again.
    gains = [c.gain for t in tables for row in t.rows for c in row.cells if c.gain and c.gain.p is not None]
    adjusted = iter(method([gain.p for gain in gains if gain.p is not None]) if gains else [])

    def judged(cell: Cell) -> Cell:
        if cell.gain is None or cell.gain.p is None:
            return cell
        p = next(adjusted)
        return replace(cell, gain=replace(cell.gain, adjusted=p, significant=p < level))

    corrected = []
    for table in tables:
        rows = [replace(row, cells=tuple(map(judged, row.cells))) for row in table.rows]
        corrected.append(replace(table, rows=tuple(rows)))
    return corrected


# --- cells as text ---------------------------------------------------------------------------------------------------


def gain_mark(gain: Difference | None) -> str:
    if gain is None:
        return ""
    return {None: NOT_TESTED, False: NOT_SIGNIFICANT, True: ""}[gain.significant]


def printed_gain(gain: Difference) -> float:
    """The difference of the printed scores, which are medians over seeds."""
    return gain.value if gain.of_medians is None else gain.of_medians


def mean_differs(gain: Difference) -> bool:
    """Whether the tested gain, of means over seeds, reads otherwise than the difference of the printed scores."""
    # As printed, not as numbers: a difference that nobody sees needs no second figure.
    return signed(gain.value) != signed(printed_gain(gain))


def gain_text(gain: Difference | None) -> str:
    """`+1.2`, `+0.3°` (not significant), `+0.3?` (not tested) or `-`; `+1.2, mean +0.9°` where the two differ."""
    if gain is None:
        return "-"
    tested = signed(gain.value) + gain_mark(gain)
    return f"{signed(printed_gain(gain))}, mean {tested}" if mean_differs(gain) else tested


def cell_text(cell: Cell) -> str:
    """`71.3†`, or `71.3 (+0.4°)`."""
    after = f" ({gain_text(cell.gain)})" if cell.gain else ""
    return number(cell.score) + cell.mark + after


def legend(tables: Iterable[Table], level: float) -> list[str]:
    """What the marks in these tables mean, one sentence each."""
    used = set().union(*(table.marks() for table in tables))
    return [f"{mark} {text.format(level=level)}" for mark, text in LEGEND.items() if mark in used]
