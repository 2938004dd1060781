"""Readers of bitext collections: BUCC 2018 and Tatoeba.

A bitext has two sides and, where it is known, the gold pairs (source id, pivot id); the pivot is English.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.examples.files import read_lines
from stilts_ds.examples.records import Bitext
from stilts_ds.examples.source import Part

Pairs = frozenset[tuple[str, str]]
Sides = tuple[list[Bitext], list[Bitext], Pairs | None]


def read_bucc(part: Part) -> Sides:
    """`id TAB text` on both sides; gold is `source id TAB pivot id`, without it None."""
    assert part.pivot is not None
    source, pivot = _sentences(part.path), _sentences(part.pivot)
    gold = None
    if part.labels is not None:
        ids = [{one.id for one in side} for side in (source, pivot)]
        gold = frozenset(_gold(part.labels, ids[0], ids[1]))
    return source, pivot, gold


def _sentences(path: Path) -> list[Bitext]:
    found: dict[str, Bitext] = {}
    for number, line in read_lines(path):
        id, tab, text = line.partition("\t")
        where = f"{path}:{number}"
        if not tab or not id:
            raise UserError(f"{where}: expected id TAB text; download the file again")
        if id in found:
            raise UserError(f"{where}: id {id[:40]!r} occurs twice; make ids unique")
        found[id] = Bitext(id, text)
    return list(found.values())


def _gold(path: Path, sources: Collection[str], pivots: Collection[str]) -> list[tuple[str, str]]:
    pairs = []
    for number, line in read_lines(path):
        cells = line.split("\t")
        where = f"{path}:{number}"
        if len(cells) != 2:
            raise UserError(f"{where}: {len(cells)} columns, expected source id TAB pivot id; repair the line")
        for id, known in zip(cells, (sources, pivots)):
            if id not in known:
                raise UserError(f"{where}: no sentence has the id {id[:40]!r}; use gold and texts of the same split")
        pairs.append((cells[0], cells[1]))
    return pairs


def read_aligned(part: Part) -> Sides:
    """Line i of one file translates line i of the other (Tatoeba); ids are line indices from 0."""
    source, pivot, _ = read_unaligned(part)
    if len(source) != len(pivot):
        problem = f"{part.path} has {len(source)} lines and {part.pivot} {len(pivot)}"
        raise UserError(f"{problem}; aligned files must be equally long, download them again")
    return source, pivot, frozenset((one.id, one.id) for one in source)


def read_unaligned(part: Part) -> Sides:
    """Two files of lines without gold; ids are line indices from 0."""
    assert part.pivot is not None
    return _numbered(part.path), _numbered(part.pivot), None


def _numbered(path: Path) -> list[Bitext]:
    return [Bitext(str(number - 1), line) for number, line in read_lines(path)]


READERS: dict[str, Callable[[Part], Sides]] = {
    "bucc": read_bucc,
    "aligned_lines": read_aligned,
    "unaligned_lines": read_unaligned,
}
