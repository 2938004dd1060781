"""The matrix and the learning curves as pictures: `report.png` and `report-curves.png` for slides, `.svg` and `.pdf`
for papers. Drawn by matplotlib, which is an optional extra."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stilts_ds.display import number
from stilts_ds.errors import UserError
from stilts_ds.report.colour import colours, scale_of
from stilts_ds.report.curves import COLOURS, DASHES, Line
from stilts_ds.report.latex import display_names
from stilts_ds.report.table import Cell, Table, gain_text
from stilts_ds.run_dir import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["png", "svg", "pdf"]
# Without dates and the version of matplotlib, which would be other bytes for the same picture.
METADATA: dict[Format, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
CELL_INCHES, ROW_INCHES, LABEL_INCHES = 1.05, 0.55, 2.4
LABEL_LETTERS, HEAD_LETTERS = 22, 12  # of the label column and of others, in one line
CHART_INCHES, CHARTS_A_ROW = (3.4, 2.4), 3  # three charts are as wide as a page's text
KEY_INCHES = 0.25  # one line of the key of conditions
INK = "#1a1a1a"


def write_figures(
    table: Table, formats: Sequence[Format], path_of: Callable[[str], Path], remarks: Sequence[str]
) -> None:
    """Draw a table of gains into `path_of(".png")` and the like, the same bytes for the same table and matplotlib.

    Raises UserError without matplotlib.
    """
    width = LABEL_INCHES + CELL_INCHES * len(table.columns)
    height = ROW_INCHES * (len(table.rows) + 1) + 0.25 * len(remarks) + 0.2
    figure = _new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _draw(axes, table)
    for index, remark in enumerate(remarks):
        axes.text(0.1, ROW_INCHES * (len(table.rows) + 1) + 0.25 * (index + 1), _plain(remark), fontsize=8,
                  color="#5a5a5a")  # fmt: skip
    _save(figure, formats, path_of)


def write_curves(
    charts: Sequence[tuple[str, Sequence[Line]]],
    conditions: Sequence[str],
    formats: Sequence[Format],
    path_of: Callable[[str], Path],
) -> None:
    """Draw the training loss of every chart into one picture, in the colours and dashes of the page.

    `charts` are titles with their lines, at least one; colours follow the order of `conditions`. Raises UserError
    without matplotlib.
    """
    rows = math.ceil(len(charts) / CHARTS_A_ROW)
    columns = min(len(charts), CHARTS_A_ROW)
    drawn = {line.condition for _, lines in charts for line in lines}
    present = [name for name in conditions if name in drawn]
    width, height = CHART_INCHES[0] * columns, CHART_INCHES[1] * rows + KEY_INCHES * len(present)
    figure = _new_figure(width, height)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (title, lines) in zip(grid.flat, charts):
        for line in lines:
            axes.plot(*zip(*line.points), linewidth=1.2, **_stroke(conditions.index(line.condition)))
        # From 0 as on the page, so that a difference looks as large as it is.
        axes.set(xlim=(0, None), ylim=(0, None))
        axes.set_title(_plain(textwrap.shorten(title, 48)), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("step", fontsize=7)
    for axes in grid.flat[len(charts) :]:
        axes.axis("off")
    grid[0, 0].set_ylabel("training loss", fontsize=7)
    _draw_key(figure, present, conditions)
    figure.tight_layout(rect=(0, KEY_INCHES * len(present) / height, 1, 1))
    _save(figure, formats, path_of)


def _draw_key(figure: Figure, present: Sequence[str], conditions: Sequence[str]) -> None:
    """One line of the picture's foot for each condition: names may be as long as the picture is wide."""
    from matplotlib.lines import Line2D

    strokes = [Line2D([], [], **_stroke(conditions.index(name))) for name in present]
    names = [_plain(name) for name in present]
    figure.legend(strokes, names, loc="lower left", fontsize=8, frameon=False, borderpad=0.2, labelspacing=0.35)


def _stroke(where: int) -> dict[str, Any]:
    colour, dash = COLOURS[where % len(COLOURS)], DASHES[where // len(COLOURS) % len(DASHES)]
    return {
        # A picture has no text colour of its own that the page's could follow.
        "color": INK if colour == "currentColor" else colour,
        "linestyle": (0, tuple(map(int, dash.split()))) if dash else "-",
    }


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches. Raises UserError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("a picture needs matplotlib; pip install 'stilts-ds[report]', or ask for none") from error
    # The object interface: pyplot keeps global state, and may look for a display.
    figure = Figure(figsize=(width, height), dpi=160)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, formats: Sequence[Format], path_of: Callable[[str], Path]) -> None:
    import matplotlib

    # Text stays text, which can be searched and edited. TrueType, since publishers refuse Type 3 fonts. The salt is
    # random by default, and would make other bytes each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stilts", "pdf.fonttype": 42}):
        for name in formats:
            buffer = io.BytesIO()
            # Tight: a long name or remark makes the picture wider, and is not cut off at its edge.
            figure.savefig(buffer, format=name, metadata=METADATA[name], bbox_inches="tight", pad_inches=0.05)
            write_atomically(path_of(f".{name}"), buffer.getvalue())


def _draw(axes: Axes, table: Table) -> None:
    text, add = axes.text, axes.add_patch
    from matplotlib.patches import Rectangle

    scale = scale_of([table])
    for column, name in enumerate(display_names(table.columns)):
        text(_centre(column), ROW_INCHES / 2, _wrapped(name, HEAD_LETTERS), ha="center", va="center",
             fontsize=10 if len(name) <= HEAD_LETTERS else 8, weight="bold")  # fmt: skip
    for row_number, row in enumerate(table.rows, start=1):
        y = row_number * ROW_INCHES
        size = 10 if len(row.label) <= LABEL_LETTERS else 8
        text(0.1, y + ROW_INCHES / 2, _wrapped(row.label, LABEL_LETTERS), va="center", fontsize=size, weight="bold")
        for column, cell in enumerate(row.cells):
            back, ink = colours(cell.gain, scale) or ("#ffffff", INK if cell.gain is None else "#5a5a5a")
            add(Rectangle((LABEL_INCHES + column * CELL_INCHES, y), CELL_INCHES, ROW_INCHES, facecolor=back,
                          edgecolor="#d9d9d4"))  # fmt: skip
            text(_centre(column), y + ROW_INCHES / 2, _lines(cell), ha="center", va="center", fontsize=9, color=ink)


def _centre(column: int) -> float:
    return LABEL_INCHES + (column + 0.5) * CELL_INCHES


def _lines(cell: Cell) -> str:
    """A gain and a score, and between them the gain of means over seeds where it is another."""
    score = number(cell.score) + cell.mark
    return f"{gain_text(cell.gain)}\n{score}".replace(", ", "\n") if cell.gain else score


def _wrapped(name: str, letters: int) -> str:
    """A name in lines of so many letters, three for the longest condition and four for the longest task."""
    # Names are full of hyphens; a line that ended at each would take the room of the next.
    return _plain("\n".join(textwrap.wrap(name, letters, break_on_hyphens=False)[:4]))


def _plain(text: str) -> str:
    """matplotlib reads $...$ as mathematics."""
    return text.replace("$", r"\$")
