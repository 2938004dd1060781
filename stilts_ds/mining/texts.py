"""Files of sentences, one a line: looked at once, then read in pieces by whoever needs them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

from stilts_ds.errors import UserError
from stilts_ds.evaluate.embedding import CHUNK
from stilts_ds.sources.files import indexed_lines, lines_from, split_id


@dataclass(frozen=True)
class Texts:
    """A text file as the user gives it: a sentence a line; with `ids`, `id TAB text`; `vectors`: the .npy file with a
    vector for each line, where there is one already."""

    path: str | Path
    vectors: str | Path | None = None
    ids: bool = False


class RowNames(Sequence[str]):
    """Names of `count` sentences without ids: their numbers from 0. They are made when they are asked for, because
    those of a billion sentences would take 60 GB."""

    def __init__(self, count: int) -> None:
        self._rows = range(count)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...
    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        return [str(number) for number in self._rows[row]] if isinstance(row, slice) else str(self._rows[row])


@dataclass(frozen=True)
class TextFile:
    """`lines` sentences; with `ids`, lines are `id TAB text`. `places`: the byte where each CHUNK of lines begins.

    `digest` is the SHA-256 of the lines, whatever the line ends.
    """

    path: Path
    lines: int
    ids: bool
    digest: str
    places: tuple[int, ...]

    @classmethod
    def scan(cls, path: Path, ids: bool, tab_fault: str = "") -> TextFile:
        """Look at all of a file. Raises UserError with file and line for bytes that are no UTF-8, a missing or repeated
        id, and an empty file. `tab_fault`: why a tab inside a text is a fault, "" where it is none."""
        digest, places, seen = hashlib.sha256(), [], dict[str, int]()
        number = 0
        # One pass for checks, hash and offsets: the file may be larger than memory.
        for number, line, offset in indexed_lines(path, CHUNK):
            if offset is not None:
                places.append(offset)
            text = line
            if ids:
                id, text = split_id(line, f"{path}:{number}")
                if id in seen:
                    raise UserError(f"{path}:{number}: id {id[:40]!r} is that of line {seen[id]}, too; make ids unique")
                seen[id] = number
            if tab_fault and "\t" in text:
                raise UserError(f"{path}:{number}: a tab stands inside the text, {tab_fault}")
            # Of the lines as they are read: a file with other line ends holds the same sentences.
            digest.update(line.encode() + b"\n")
        return cls(path, number, ids, digest.hexdigest(), tuple(places))

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> TextFile:
        return cls(**{**value, "path": Path(value["path"]), "places": tuple(value["places"])})

    def read(self, first: int, stop: int) -> list[str]:
        """The texts of the lines first..stop, counted from 0, at most to the end of their chunk of CHUNK lines."""
        return [text for _, text in self._cells(first, stop)]

    def all_texts(self) -> Iterator[str]:
        return (text for _, text in self._all())

    def all_ids(self) -> Sequence[str]:
        """The ids of all lines; without ids these are numbered from 0."""
        return [id for id, _ in self._all()] if self.ids else RowNames(self.lines)

    def _all(self) -> Iterator[tuple[str, str]]:
        for first in range(0, self.lines, CHUNK):
            yield from self._cells(first, min(self.lines, first + CHUNK))

    def _cells(self, first: int, stop: int) -> list[tuple[str, str]]:
        chunk, skip = divmod(first, CHUNK)
        # From the start of the chunk: only its offset is known, so the lines before `first` are read and dropped.
        lines = lines_from(self.path, self.places[chunk], chunk * CHUNK + 1, skip + stop - first)[skip:]
        if not self.ids:
            return [("", line) for line in lines]
        return [split_id(line, f"{self.path}:{first + i + 1}") for i, line in enumerate(lines)]
