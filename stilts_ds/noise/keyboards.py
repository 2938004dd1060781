"""Which keys are neighbours: layouts of 50 languages, or of a file in the same form.

A line of the table is a language, its layout, its script and four rows of keys, the row of digits first, with tabs
between them; see the head of keyboards.tsv.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError, counted
from stilts_ds.noise.clusters import clusters_of

TABLE = Path(__file__).with_name("keyboards.tsv")
NO_KEY, NO_KEYBOARD = "·", "-"
ROW_STARTS = (0.0, 0.5, 0.75, 1.25)  # of the four rows, in widths of a key
# A finger slips along its row nine times as often as to another row (MulTypo, cisnlp/multypo).
ALONG_ROW, ACROSS_ROWS = 9, 1

Neighbours = Mapping[str, tuple[tuple[str, int], ...]]  # a letter -> (letter, weight) of each neighbouring key


@dataclass(frozen=True)
class Keyboard:
    """One language's keyboard. `neighbours` is empty where no keyboard types the script directly."""

    language: str
    script: str
    neighbours: Neighbours


@functools.cache
def keyboards() -> dict[str, Keyboard]:
    """The keyboard of every language of the table."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    parsed = (parse_keyboard(line, str(TABLE)) for line in lines if not line.startswith("#"))
    return {keyboard.language: keyboard for keyboard in parsed}


def parse_keyboard(line: str, where: str) -> Keyboard:
    """One line of a table of keyboards. Raises UserError for a line of another form."""
    cells = line.split("\t")
    if len(cells) != 3 + len(ROW_STARTS):
        columns = counted(len(cells), "column")
        raise UserError(f"{where}: {columns}, expected language, layout, script and four rows of keys")
    language, layout, script, *rows = cells
    if layout == NO_KEYBOARD:
        return Keyboard(language, script, {})
    return Keyboard(language, script, _neighbours([row.split() for row in rows], where))


def _neighbours(rows: Sequence[Sequence[str]], where: str) -> Neighbours:
    keys = [
        (row, ROW_STARTS[row] + column, _levels(key, where))
        for row, names in enumerate(rows)
        for column, key in enumerate(names)
    ]
    neighbours: dict[str, list[tuple[str, int]]] = {}
    for row, x, levels in keys:
        close = [(_weight(row, x, hit_row, hit_x), hit) for hit_row, hit_x, hit in keys]
        # A finger slips with or without Shift: a capital becomes a capital.
        for level, letter in enumerate(levels):
            around = [(hit[level], weight) for weight, hit in close if weight and hit[level]]
            if letter:  # one that stands on two keys has the neighbours of both
                neighbours.setdefault(letter, []).extend(around)
    return {letter: tuple(around) for letter, around in neighbours.items() if around}


def _levels(key: str, where: str) -> tuple[str, str]:
    """A key's letter alone and under Shift; empty where it has none of its own there.

    A letter may be more than one character (a base letter with its nukta).
    """
    levels = ["" if level == NO_KEY else level for level in clusters_of(key)]
    if len(levels) > 2 or not all(level[0].isalpha() for level in levels if level):
        raise UserError(f"{where}: {key!r} is no key; write its letter and the one under Shift, or {NO_KEY} for none")
    return levels[0], levels[1] if len(levels) == 2 else ""


def _weight(row: int, x: float, hit_row: int, hit_x: float) -> int:
    """How often a finger that means one key hits another; 0 for keys that do not touch."""
    if row == hit_row:
        return ALONG_ROW if abs(x - hit_x) == 1 else 0
    # Rows are shifted, so a key touches those of the next row that overlap with it.
    return ACROSS_ROWS if abs(row - hit_row) == 1 and abs(x - hit_x) < 1 else 0


def nearest_keyboard(letters: Mapping[str, int]) -> Keyboard:
    """The keyboard that types most of a text whose language has none in the table; English first of equal ones."""
    every = [keyboards()["en"], *keyboards().values()]
    return max(every, key=lambda keyboard: covered(keyboard.neighbours, letters))


def covered(neighbours: Neighbours, letters: Mapping[str, int]) -> float:
    """The share of a text's letters (letter -> times) that stand on a keyboard."""
    on_keys = sum(times for letter, times in letters.items() if letter in neighbours)
    return on_keys / max(1, sum(letters.values()))
