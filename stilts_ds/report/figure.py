"""The matrix as a picture: `report.png` for slides, `.svg` and `.pdf` for papers. Drawn by matplotlib, which is an
optional extra."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from stilts_ds.errors import UserError
from stilts_ds.report.colour import colours, scale_of
from stilts_ds.report.table import Cell, Table, gain_text, number
from stilts_ds.run_dir import write_atomically

Format = Literal["png", "svg", "pdf"]
# Without dates and the version of matplotlib, which would be other bytes for the same picture.
METADATA: dict[Format, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
CELL_INCHES, ROW_INCHES, LABEL_INCHES = 1.05, 0.55, 2.4
LABEL_LETTERS = 22  # of the label column


def write_figures(
    table: Table, formats: Sequence[Format], path_of: Callable[[str], Path], remarks: Sequence[str]
) -> None:
    """Draw a table of gains into `path_of(".png")` and the like, the same bytes for the same table and matplotlib.

    Raises UserError without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("a picture needs matplotlib; pip install 'stilts-ds[report]', or ask for none") from error
    width = LABEL_INCHES + CELL_INCHES * len(table.columns)
    height = ROW_INCHES * (len(table.rows) + 1) + 0.25 * len(remarks) + 0.2
    # The object interface: pyplot keeps global state, and may look for a display.
    figure = Figure(figsize=(width, height), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    _draw(axes, table)
    for index, remark in enumerate(remarks):
        axes.text(0.1, ROW_INCHES * (len(table.rows) + 1) + 0.25 * (index + 1), _plain(remark), fontsize=8,
                  color="#5a5a5a")  # fmt: skip
    # Text stays text, which can be searched and edited. TrueType, since publishers refuse Type 3 fonts. The salt is
    # random by default, and would make other bytes each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "stilts", "pdf.fonttype": 42}):
        for name in formats:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=name, metadata=METADATA[name])
            write_atomically(path_of(f".{name}"), buffer.getvalue())


def _draw(axes: object, table: Table) -> None:
    text, add = axes.text, axes.add_patch  # type: ignore[attr-defined]
    from matplotlib.patches import Rectangle

    scale = scale_of([table])
    for column, name in enumerate(table.columns):
        text(_centre(column), ROW_INCHES / 2, _plain(name), ha="center", va="center", fontsize=10, weight="bold")
    for row_number, row in enumerate(table.rows, start=1):
        y = row_number * ROW_INCHES
        text(0.1, y + ROW_INCHES / 2, _wrapped(row.label), va="center", fontsize=10, weight="bold")
        for column, cell in enumerate(row.cells):
            back, ink = colours(cell.gain, scale) or ("#ffffff", "#1a1a1a" if cell.gain is None else "#5a5a5a")
            add(Rectangle((LABEL_INCHES + column * CELL_INCHES, y), CELL_INCHES, ROW_INCHES, facecolor=back,
                          edgecolor="#d9d9d4"))  # fmt: skip
            text(_centre(column), y + ROW_INCHES / 2, _lines(cell), ha="center", va="center", fontsize=9, color=ink)


def _centre(column: int) -> float:
    return LABEL_INCHES + (column + 0.5) * CELL_INCHES


def _lines(cell: Cell) -> str:
    """A gain and a score, and between them the gain of means over seeds where it is another."""
    score = number(cell.score) + cell.mark
    return f"{gain_text(cell.gain)}\n{score}".replace(", ", "\n") if cell.gain else score


def _wrapped(label: str) -> str:
    """A row's label in at most three lines that end before the first column."""
    return _plain("\n".join(textwrap.wrap(label, LABEL_LETTERS)[:3]))


def _plain(text: str) -> str:
    """matplotlib reads $...$ as mathematics."""
    return text.replace("$", r"\$")
