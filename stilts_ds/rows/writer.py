"""Rows written chunk by chunk, so that memory does not grow with the data: to files that grow, or to memory."""

from __future__ import annotations

import struct
from collections import Counter
from pathlib import Path

import numpy as np

from stilts_ds.rows.rows import Rows

# The .npy format wants a multiple of 64; the text of these headers takes less than 128.
HEADER = 128  # bytes; fixed, so that the header can be written again when the length is known
WIDTH = {"span": (2,), "place": (2,)}
BOUNDS = ("starts", "items")  # arrays that say where rows and items begin


class RowsWriter:
    """Appends rows to `<folder>/<array>.npy` and maps them at the end; without a folder they stay in memory.

    A family names the arrays that it uses besides those that all have.
    """

    def __init__(self, folder: Path | None, *arrays: str) -> None:
        self.folder = folder
        names = ("input_ids", "starts", "second", "example", "items", *arrays)
        # int64 where tokens and rows are counted, since a split may hold more than 2^31 tokens.
        dtypes = dict.fromkeys(BOUNDS, np.int64)
        self._columns = {name: Column(folder, name, dtypes.get(name, np.int32), WIDTH.get(name, ())) for name in names}
        for name in BOUNDS:
            # Both hold one entry more than there are rows or items: where the first begins.
            self._columns[name].append(np.zeros(1, np.int64))
        self._tokens = self._rows = 0
        # Noted while writing: finding the ids later would read all rows once more.
        self._seen = np.zeros(0, bool)
        self.tally: Counter[str] = Counter()

    def append(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        second: np.ndarray,
        example: np.ndarray,
        width: int = 1,
        **arrays: np.ndarray,
    ) -> None:
        """Append rows; `lengths`, `second` and `example` are [R], and `width` of them are an item."""
        assert len(ids) == lengths.sum() and len(lengths) % width == 0
        rows = np.arange(width, len(lengths) + 1, width)
        columns = {
            "input_ids": ids,
            "starts": self._tokens + np.cumsum(lengths),
            "second": second,
            "example": example,
            "items": self._rows + rows,
            **arrays,
        }
        # A family that forgot an array would shift it against the others.
        assert columns.keys() == self._columns.keys()
        for name, array in columns.items():
            self._columns[name].append(array)
        self._tokens += len(ids)
        self._rows += len(lengths)
        self._note(ids)

    def _note(self, ids: np.ndarray) -> None:
        """Remember which token ids occur."""
        size = int(ids.max(initial=-1)) + 1
        if size > len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(size - len(self._seen), bool)])
        self._seen[ids] = True

    def rows(self) -> Rows:
        touched = Column(self.folder, "touched", np.int32, ())
        touched.append(np.flatnonzero(self._seen))
        columns = {**self._columns, "touched": touched}
        return Rows(**{name: column.finish() for name, column in columns.items()}, tally=self.tally)


class Column:
    """One array that grows at its end. Its file is open only while it is written: a failed build leaves it closed."""

    def __init__(self, folder: Path | None, name: str, dtype: type, width: tuple[int, ...]) -> None:
        self.path = None if folder is None else folder / f"{name}.npy"
        self.dtype, self.width = np.dtype(dtype), width
        self.length = 0
        self.chunks: list[np.ndarray] = []
        if self.path is not None:
            self.path.write_bytes(bytes(HEADER))

    def append(self, array: np.ndarray) -> None:
        chunk = np.ascontiguousarray(array, self.dtype).reshape(-1, *self.width)
        self.length += len(chunk)
        if self.path is None:
            self.chunks.append(chunk)
        else:
            with self.path.open("ab") as file:
                file.write(chunk.data)

    def finish(self) -> np.ndarray:
        if self.path is None:
            return np.concatenate(self.chunks) if self.chunks else np.zeros((0, *self.width), self.dtype)
        with self.path.open("r+b") as file:
            file.write(npy_header(self.dtype, (self.length, *self.width)))
        # Mapped: rows of running text may be larger than memory, and all ranks of a node share the pages.
        return np.load(self.path, mmap_mode="r")


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file (format 1.0) in exactly HEADER bytes."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    size = HEADER - 10
    return np.lib.format.magic(1, 0) + struct.pack("<H", size) + text.ljust(size - 1).encode() + b"\n"
