"""Gold pairs of a file, for records and for whoever scores mined pairs against them."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

from stilts_ds.errors import UserError, counted
from stilts_ds.sources.files import filled_lines


def read_gold(path: Path, sources: Set[str], pivots: Set[str], second: str = "pivot") -> list[tuple[str, str]]:
    """The pairs `source id TAB pivot id` of a file's lines, in order; `second` is what messages call the pivot. Raises
    UserError with file and line for a line that is none, and an id that no sentence of its side has."""
    pairs = []
    for number, line in filled_lines(path):
        cells = [cell.strip(" ") for cell in line.split("\t")]
        where = f"{path}:{number}"
        if len(cells) != 2:
            columns = counted(len(cells), "column")
            raise UserError(f"{where}: {columns}, expected source id TAB {second} id; repair the line")
        # Both sides number their sentences alike in some files: only ids that fit the other way alone are exchanged.
        if cells[0] in pivots and cells[1] in sources and not (cells[0] in sources and cells[1] in pivots):
            raise UserError(f"{where}: the ids stand in the other order; write source id TAB {second} id")
        for id, known in zip(cells, (sources, pivots)):
            if id not in known:
                raise UserError(f"{where}: no sentence has the id {id[:40]!r}; use gold and texts of the same split")
        pairs.append((cells[0], cells[1]))
    return pairs
