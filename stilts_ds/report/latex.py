"""Tables for a paper, as fragments for \\input, in three layouts that stay within the page. They need the packages
booktabs and fontenc with T1; names in other scripts than Latin need LuaLaTeX, and the fragment says so.

    wide     over both columns of a two-column page: scores, and under them their gains
    narrow   in one of its columns: the same, turned where it then fits
    gains    as wide as a page of one column: the baseline's scores, and the gains alone of all others

A table that is too wide or too high for its layout is cut into panels, and what does not fit into one float is
continued in the next: nothing is scaled down, and nothing is left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from stilts_ds.display import number, rounded, signed
from stilts_ds.errors import UserError
from stilts_ds.escape import on_one_line
from stilts_ds.report.latex_text import (
    HEAD_WIDTH,
    all_pieces,
    breakable,
    latex_escape,
    lines_taken,
    needed_for_letters,
    text_width,
)
from stilts_ds.report.table import Best, Cell, Row, Table, gain_mark, printed_gain
from stilts_ds.report.tables import LANGUAGES_OF, MEDIAN_AND_MEAN
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

Layout = Literal["wide", "narrow", "gains"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
# Points of TeX: the text and one column of the ACL's style, and the text of a plain `article`, the narrowest in use.
WIDTHS: dict[Layout, float] = {"wide": 455, "narrow": 219, "gains": 345}
LABEL_WIDTHS: dict[Layout, float] = {"wide": 96, "narrow": 72, "gains": 96}  # longer labels are broken into lines
GAP = 6.0  # between columns: twice \tabcolsep as the fragment sets it
LINES = 48  # of a float: a page and no more
CAPTION = 3  # lines
HELD_FLOATS = 40  # a document's own among them, LaTeX holds 52
LONGEST_TITLE = 40  # letters at the head of a column or row; a longer one gives way to the task's name

BOLD = {"column": "Bold: the highest score of a column.", "row": "Bold: the highest score of a row.", "none": ""}
TESTED_MEANS = (
    "Scores are medians over seeds, and gains their differences. Tests, and so the marks, are of the mean over seeds."
)


def latex_tables(title: str, tables: Iterable[Table], legend: Sequence[str], layout: Layout) -> str:
    """A fragment with a float for each of `tables`, or several where one is continued.

    `legend` are the sentences on marks, each of which begins with its mark.
    """
    filled = [_laid_out(table, layout) for table in tables if table.rows and table.columns]
    floats = [text for table in filled for text in _floats(table, legend, layout)]
    head = [f"% {on_one_line(title)}: {layout}", rf"% {needed_for_letters(''.join(floats))} \usepackage{{booktabs}}"]
    if len(floats) > HELD_FLOATS:
        # LaTeX stops at "Too many unprocessed floats", and TeX where it was asked a hundred times for a page in vain.
        head.append(rf"\extrafloats{{{len(floats)}}}\maxdeadcycles={10 * len(floats)}")
    return "\n\n".join(["\n".join(head), *floats]) + "\n"


def _laid_out(table: Table, layout: Layout) -> Table:
    """The table as it stands, or turned if it then needs fewer panels in one column."""
    if layout != "narrow":
        return table
    turned = _turned(table)
    panels, panels_turned = (len(_panels(form, layout)) for form in (table, turned))
    return turned if panels_turned < panels else table


def _turned(table: Table) -> Table:
    rows = [Row(column, tuple(row.cells[i] for row in table.rows)) for i, column in enumerate(table.columns)]
    best: dict[Best, Best] = {"row": "column", "column": "row", "none": "none"}
    columns = tuple(row.label for row in table.rows)
    return replace(table, corner="", columns=columns, rows=tuple(rows), best=best[table.best])


# --- floats ----------------------------------------------------------------------------------------------------------


def _floats(table: Table, legend: Sequence[str], layout: Layout) -> Iterator[str]:
    notes = _notes(table, legend)
    notes_height = math.ceil(sum(map(text_width, notes)) / WIDTHS[layout])
    panels = [shorter for panel in _panels(table, layout) for shorter in panel.of_height(LINES)]
    pages: list[list[Panel]] = [[]]
    for panel in panels:
        # TeX lets a float that is higher than the page run off its end.
        if pages[-1] and _height(pages[-1]) + panel.height > LINES:
            pages.append([])
        pages[-1].append(panel)
    # Notes that find no room below the last panel stand by themselves.
    if _height(pages[-1]) + notes_height > LINES + CAPTION:
        pages.append([])
    for index, page in enumerate(pages):
        is_last = index == len(pages) - 1
        yield _float(table, page, layout, continued=index > 0, notes=notes if is_last else [])


def _height(panels: Iterable[Panel]) -> int:
    return sum(panel.height for panel in panels)


def _float(table: Table, panels: Sequence[Panel], layout: Layout, continued: bool, notes: Sequence[str]) -> str:
    environment = "table" if layout == "narrow" else "table*"
    title = f"{_title(table)} (continued)." if continued else f"{_title(table)}."
    # A label twice would make \ref mean the last float and not the first.
    label = "" if continued else rf"\label{{tab:{_label_name(table.name, layout)}}}"
    said = " ".join(map(breakable, notes))
    lines = [
        rf"\begin{{{environment}}}[tp]",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{latex_escape(title)}}}{label}",
        "\n\\par\\medskip\n".join(map(_tabular, panels)),
        rf"\par\smallskip\parbox{{0.98\linewidth}}{{\scriptsize\raggedright {said}}}" if said else "",
        rf"\end{{{environment}}}",
    ]
    return "\n".join(line for line in lines if line)


def _title(table: Table) -> str:
    """The table's title, in which a target is called as in the head of the matrix."""
    if not table.name.startswith(LANGUAGES_OF):
        return table.title
    task = table.name.removeprefix(LANGUAGES_OF)
    (shown,) = display_names([task])
    return table.title.replace(task, shown, 1)


def _label_name(table: str, layout: Layout) -> str:
    name = re.sub(r"[^A-Za-z0-9]", "-", table)
    # A paper may take one table from each layout.
    return name if layout == "wide" else f"{name}-{layout}"


def _notes(table: Table, legend: Sequence[str]) -> list[str]:
    used = [sentence for sentence in legend if sentence[0] in table.marks()]
    # The other formats print both gains.
    about = [TESTED_MEANS if note == MEDIAN_AND_MEAN else note for note in table.notes]
    notes = [*about, *used, BOLD[table.best]]
    return [note for note in notes if note]


def _tabular(panel: Panel) -> str:
    body = [_line(line) for row in panel.rows for line in row]
    return "\n".join([
        rf"\begin{{tabular}}{{@{{}}l{'r' * (len(panel.head) - 1)}@{{}}}}",
        r"\toprule", _line(panel.head), r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}",
    ])  # fmt: skip


def _line(line: Line) -> str:
    return " & ".join(entry.latex for entry in line) + r" \\"


# --- panels: what one tabular holds ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What is printed in a cell: as LaTeX, about how wide it is in points, and in how many lines."""

    latex: str
    width: float
    lines: int = 1


Line = tuple[Entry, ...]  # one line of a tabular; its first entry is the label
NOTHING = Entry("", 0.0)


@dataclass(frozen=True)
class Panel:
    """`rows` have one line or two, which stay together."""

    head: Line
    rows: tuple[tuple[Line, ...], ...]

    @property
    def height(self) -> int:
        """In lines. The rules take about one."""
        head = max(entry.lines for entry in self.head)
        # A label is broken in its own line, so what stands below it moves down.
        return 1 + head + sum(len(row) - 1 + row[0][0].lines for row in self.rows)

    @property
    def label_width(self) -> float:
        return max(line[0].width for line in self._lines())

    def width(self, column: int) -> float:
        return max(line[column].width for line in self._lines()) + GAP

    def _lines(self) -> list[Line]:
        return [self.head, *(line for row in self.rows for line in row)]

    def with_columns(self, columns: Sequence[int]) -> Panel:
        """The label and these columns."""
        chosen = [0, *columns]

        def of(line: Line) -> Line:
            return tuple(line[column] for column in chosen)

        return replace(self, head=of(self.head), rows=tuple(tuple(map(of, row)) for row in self.rows))

    def of_height(self, lines: int) -> Iterator[Panel]:
        """The panel cut into some that have no more lines than that, unless one row alone has more."""
        rows: list[tuple[Line, ...]] = []
        for row in self.rows:
            if rows and replace(self, rows=(*rows, row)).height > lines:
                yield replace(self, rows=tuple(rows))
                rows = []
            rows.append(row)
        yield replace(self, rows=tuple(rows))


def _panels(table: Table, layout: Layout) -> list[Panel]:
    """The table cut into panels with as many columns as the layout is wide."""
    whole = _printed(table, layout)
    room = WIDTHS[layout] - whole.label_width
    groups: list[list[int]] = [[]]
    for column in range(1, len(whole.head)):
        if groups[-1] and sum(map(whole.width, [*groups[-1], column])) > room:
            groups.append([])
        groups[-1].append(column)
    return [whole.with_columns(columns) for columns in groups]


def _printed(table: Table, layout: Layout) -> Panel:
    best, room = _best(table), LABEL_WIDTHS[layout]
    head = (_label(table.corner, room), *map(_column_head, display_names(table.columns)))
    labels = [_label(name, room) for name in display_names([row.label for row in table.rows])]
    rows: list[tuple[Line, ...]] = []
    for i, row in enumerate(table.rows):
        scores = [_score(cell, (i, j) in best) for j, cell in enumerate(row.cells)]
        gains = [_gain(cell) for cell in row.cells]
        has_gains = any(cell.gain for cell in row.cells)
        if layout == "gains" and has_gains:
            # Where there is no gain, as at the baseline, its score says what the gains are over.
            shown = [gain if cell.gain else score for cell, gain, score in zip(row.cells, gains, scores)]
            rows.append(((labels[i], *shown),))
        elif has_gains:
            rows.append(((labels[i], *scores), (NOTHING, *gains)))
        else:
            rows.append(((labels[i], *scores),))
    return Panel(head, tuple(rows))


def _best(table: Table) -> set[tuple[int, int]]:
    """Which cells have the highest score, as printed, of their column or row; several where they are equal."""
    scores = {(i, j): cell.score for i, row in enumerate(table.rows) for j, cell in enumerate(row.cells)}
    printed = {where: rounded(score) for where, score in scores.items() if score is not None}
    axis = {"column": 1, "row": 0}.get(table.best)
    if axis is None:
        return set()
    highest: dict[int, float] = {}
    for where, score in printed.items():
        highest[where[axis]] = max(score, highest.get(where[axis], score))
    # One score alone is the best of nothing.
    several = Counter(where[axis] for where in printed)
    return {where for where, score in printed.items() if score == highest[where[axis]] and several[where[axis]] > 1}


def _score(cell: Cell, bold: bool) -> Entry:
    text = number(cell.score)
    latex = rf"\textbf{{{text}}}" if bold else text
    # Bold digits are a tenth wider.
    return Entry(latex + latex_escape(cell.mark), 1.1 * text_width(text) + text_width(cell.mark))


def _gain(cell: Cell) -> Entry:
    if cell.gain is None:
        return NOTHING
    gain, mark = signed(printed_gain(cell.gain)), gain_mark(cell.gain)
    # A minus of mathematics: a hyphen is half as long.
    return Entry(rf"{{\scriptsize ${gain}$}}{latex_escape(mark)}", text_width(gain + mark))


def _label(text: str, room: float) -> Entry:
    width = text_width(text)
    if width <= room:
        return Entry(latex_escape(text), width)
    latex = rf"\parbox[t]{{{room:.0f}pt}}{{\raggedright {breakable(text)}\strut}}"
    return Entry(latex, room, lines_taken(text, room))


def _column_head(text: str) -> Entry:
    width = text_width(text)
    if width <= HEAD_WIDTH:
        return Entry(latex_escape(text), width)
    lines = lines_taken(text, HEAD_WIDTH)
    narrowest = math.ceil(max(text_width(piece.rstrip()) for piece in all_pieces(text)))
    # No wider than it needs for that: BUCC 2018 takes the room of its first word.
    room = next(room for room in range(narrowest, math.ceil(HEAD_WIDTH) + 1) if lines_taken(text, room) <= lines)
    return Entry(rf"\parbox[b]{{{room}pt}}{{\raggedleft {breakable(text)}}}", room, lines)


# --- names ------------------------------------------------------------------------------------------------------------


def display_names(names: Sequence[str]) -> list[str]:
    """Tasks by the name that papers call them; whatever is no task, or would share a name, as it is."""
    display = [short_display_name(name) for name in names]
    times = Counter(display)
    return [shown if times[shown] == 1 else name for name, shown in zip(names, display)]


def short_display_name(name: str) -> str:
    shown = display_name(name)
    # The title of a user's own task may be a sentence.
    return shown if len(shown) <= LONGEST_TITLE else name


def display_name(name: str) -> str:
    """What papers call a target; any other name as it is."""
    task = _task_called(name)
    # Intermediate tasks stand in the table as names of conditions, which are the user's own.
    if task is None or task.role != "target" or task.is_variant:
        return name
    return re.split(r" \(|,", task.title)[0]


def _task_called(name: str) -> Task | None:
    try:
        return get_task(name)
    except UserError:  # the name of a condition, a language or "average"
        return None
