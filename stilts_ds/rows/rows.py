"""Token rows: what examples become before training, as flat arrays that can be memory-mapped.

Shapes: T tokens in all rows together, R rows, I items. A row is one sequence for the encoder. An item is what a batch
is counted in: one row for most families, the k rows of one question for `choice`, one window for `span`, one chunk of
a long sentence for `tag`.

    input_ids   int32 [T]     the rows' tokens, one row after the other
    starts      int64 [R+1]   row r is input_ids[starts[r] : starts[r + 1]]
    second      int32 [R]     where the second segment starts inside the row (its length if there is none)
    example     int32 [R]     index of the record a row comes from
    items       int64 [I+1]   item i is rows items[i] .. items[i + 1] - 1
    label       int32 [I]     pair: label index; choice: right choice; text: language; -1 without label
    span        int32 [R, 2]  span: first and last answer token inside the row; (0, 0) when there is none
    prefix      int32 [R]     generate: how many of a row's first tokens see each other both ways; the others see left
    token_label int32 [T]     tag: label index at a word's first piece, -1 elsewhere
    place       int32 [T, 2]  span: character start and end in the context; tag: (word index, 0); -1 elsewhere
    touched     int32 [V]     the token ids that occur, ascending; known since the rows were built
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

BLOCK = 1 << 22  # tokens looked at in one go
PER_TOKEN = ("input_ids", "token_label", "place")  # arrays with an entry for each token
# Of a file: smaller ones are in memory soon, and quicker by reading ahead.
LARGE_BYTES = 1 << 30


@dataclass
class Rows:
    """Encoded examples of one task, split and language; arrays that a family does not use are None."""

    input_ids: np.ndarray
    starts: np.ndarray
    second: np.ndarray
    example: np.ndarray
    items: np.ndarray
    label: np.ndarray | None = None
    span: np.ndarray | None = None
    token_label: np.ndarray | None = None
    prefix: np.ndarray | None = None
    place: np.ndarray | None = None
    touched: np.ndarray | None = None
    tally: Counter[str] = field(default_factory=Counter)

    ARRAYS = ("input_ids", "starts", "second", "example", "items", "label", "span", "token_label", "prefix", "place")

    def __len__(self) -> int:
        return len(self.items) - 1

    @cached_property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each row, int32 [R]."""
        return lengths_between(self.starts)

    @cached_property
    def item_lengths(self) -> np.ndarray:
        """Tokens an item costs: its rows times their longest, int32 [I]."""
        # Every item is one row: no reduction is needed.
        if len(self.items) == len(self.starts):
            return self.row_lengths
        longest = np.maximum.reduceat(self.row_lengths, self.items[:-1])
        return longest * lengths_between(self.items)

    @property
    def item_tokens(self) -> np.ndarray:
        """Real tokens of each item, int32 [I]."""
        if len(self.items) == len(self.starts):
            return self.row_lengths
        return lengths_between(self.starts[self.items])

    def expect_random_reads(self) -> None:
        """Tell the system that items are read in any order. For a row of some hundred bytes it would otherwise read the
        next hundred kilobytes from the disk, too."""
        for _, mapping in self._large_maps():
            mapping.madvise(mmap.MADV_RANDOM)

    def will_read(self, items: Sequence[int]) -> None:
        """Have the system read some items at once, in the background: without it each would be waited for in turn."""
        for array, mapping in self._large_maps():
            token_bytes = array.nbytes // len(array)
            for item in items:
                first, stop = (int(self.starts[self.items[bound]]) for bound in (item, item + 1))
                begin = (array.offset + first * token_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
                end = array.offset + stop * token_bytes
                mapping.madvise(mmap.MADV_WILLNEED, begin, end - begin)

    def _large_maps(self) -> Iterator[tuple[np.memmap, mmap.mmap]]:
        """The arrays of tokens that are mapped from files too large to be read whole for the first few rows."""
        if not hasattr(mmap, "MADV_RANDOM"):  # a system that takes no advice
            return
        for name in PER_TOKEN:
            array = getattr(self, name)
            if isinstance(array, np.memmap) and array.nbytes >= LARGE_BYTES and isinstance(array.base, mmap.mmap):
                yield array, array.base

    def take(self, count: int) -> Rows:
        """The first `count` items."""
        if count >= len(self):
            return self
        rows = int(self.items[count])
        tokens = int(self.starts[rows])
        cut = {
            "input_ids": tokens,
            # One entry more than rows, and items likewise: each begins where the one before ends.
            "starts": rows + 1,
            "second": rows,
            "example": rows,
            "items": count + 1,
            "label": count,
            "span": rows,
            "token_label": tokens,
            "prefix": rows,
            "place": tokens,
        }
        arrays = {name: getattr(self, name) for name in self.ARRAYS}
        kept: dict[str, Any] = {name: array[: cut[name]] for name, array in arrays.items() if array is not None}
        # `touched` is left out: it is of all rows, and is computed anew for these.
        return Rows(**kept, tally=self.tally)


def lengths_between(bounds: np.ndarray) -> np.ndarray:
    """What lies between each bound [n + 1] and the next, int32 [n]. Every rank holds these of all items that it may
    draw, so they take 4 bytes and no second copy on the way."""
    lengths = np.empty(len(bounds) - 1, np.int32)
    np.subtract(bounds[1:], bounds[:-1], out=lengths, casting="same_kind")
    return lengths


def touched_ids(rows: Iterable[Rows], special: Iterable[int], size: int) -> np.ndarray:
    """Token ids of `rows` and the special ones, ascending. `size` is the vocabulary's."""
    seen = np.zeros(size, bool)
    # Batches hold special tokens that no row does: masks, and what closes a row without text.
    seen[[i for i in special if i < size]] = True
    for split_rows in rows:
        seen[ids_in(split_rows)] = True
    return np.flatnonzero(seen)


def ids_in(rows: Rows) -> np.ndarray:
    """The token ids that occur in `rows`, ascending."""
    if rows.touched is not None:
        return rows.touched
    seen = np.zeros(0, bool)
    for start in range(0, len(rows.input_ids), BLOCK):
        block = rows.input_ids[start : start + BLOCK]
        seen = np.concatenate([seen, np.zeros(max(0, int(block.max()) + 1 - len(seen)), bool)])
        seen[block] = True
    return np.flatnonzero(seen)


def rows_by_example(rows: Rows) -> dict[int, list[int]]:
    """The rows of each record: a sentence's chunks, a question's windows."""
    by_example: dict[int, list[int]] = {}
    for row, example in enumerate(rows.example.tolist()):
        by_example.setdefault(example, []).append(row)
    return by_example
