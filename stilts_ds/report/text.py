"""Tables as Markdown and CSV. User text (names of conditions and runs) is escaped in each, and what would steer the
terminal that shows them too."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from stilts_ds.display import number
from stilts_ds.escape import csv_text, markdown_escape
from stilts_ds.report.table import Cell, Sheet, Table, cell_text, gain_text, printed_gain

CSV_COLUMNS = (
    "table", "row", "column", "score", "gain", "mean", "mean_gain", "low", "high", "p", "p_adjusted", "significant",
    "mark", "note",
)  # fmt: skip


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown_table(table: Table) -> str:
    """One row a row; a gain stands in brackets behind its score."""
    return _markdown(table, [(row.label, [cell_text(cell) for cell in row.cells]) for row in table.rows])


def stacked_markdown(table: Table, baseline: str) -> str:
    """Scores, and under them a row of gains: the narrow form for terminals."""
    rows: list[tuple[str, list[str]]] = []
    for row in table.rows:
        rows.append((row.label, [number(cell.score) + cell.mark for cell in row.cells]))
        if any(cell.gain for cell in row.cells):
            rows.append((f"gain over {baseline}", [gain_text(cell.gain) for cell in row.cells]))
    return _markdown(table, rows)


def _markdown(table: Table, rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    lines = [_markdown_row(table.corner, table.columns), _bars("---", ["---:"] * len(table.columns))]
    return "\n".join([*lines, *(_markdown_row(label, cells) for label, cells in rows)]) + "\n"


def markdown_sheet(sheet: Sheet) -> str:
    lines = [_markdown_row(sheet.columns[0], sheet.columns[1:]), _bars("---", ["---:"] * (len(sheet.columns) - 1))]
    return "\n".join([*lines, *(_markdown_row(row[0], row[1:]) for row in sheet.rows)]) + "\n"


def _markdown_row(first: str, cells: Sequence[str]) -> str:
    return _bars(markdown_escape(first), [markdown_escape(cell) for cell in cells])


def _bars(first: str, cells: Sequence[str]) -> str:
    return f"| {first} | " + " | ".join(cells) + " |"


# --- CSV -------------------------------------------------------------------------------------------------------------


def csv_tables(tables: Iterable[Table]) -> str:
    """One cell a row at full precision; empty where there is nothing. Text that a spreadsheet would run is quoted."""
    text = io.StringIO()
    # csv would end lines as on Windows, and a report must not depend on the machine.
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells):
                writer.writerow((table.name, csv_text(row.label), csv_text(column), *_csv_cell(cell)))
    return text.getvalue()


def _csv_cell(cell: Cell) -> tuple[object, ...]:
    gain = cell.gain
    printed = printed_gain(gain) if gain else None
    tested = (gain.value, gain.low, gain.high, gain.p, gain.adjusted, gain.significant) if gain else (None,) * 6
    return (cell.score, printed, cell.mean, *tested, cell.mark, csv_text(cell.note))
