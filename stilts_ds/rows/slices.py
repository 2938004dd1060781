"""Many short pieces of one flat array, handled with a numpy call for all of them instead of Python for each.

Shapes: N slices, T tokens in the flat array, R rows.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass(frozen=True)
class Slices:
    """Slice i is `flat[first[i] : first[i] + length[i]]`; flat int32 [T], first and length int64 [N]."""

    flat: np.ndarray
    first: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, lists: Collection[Sequence[int]]) -> Slices:
        length = np.fromiter(map(len, lists), np.int64, len(lists))
        flat = np.fromiter(chain.from_iterable(lists), np.int32, int(length.sum()))
        return cls(flat, np.cumsum(length) - length, length)

    def take(self, index: np.ndarray) -> Slices:
        return Slices(self.flat, self.first[index], self.length[index])

    def part(self, skip: np.ndarray | int, length: np.ndarray) -> Slices:
        """`length` tokens of each slice, after its first `skip` ones."""
        return Slices(self.flat, self.first + skip, length)

    def up_to(self, most: int | np.ndarray) -> Slices:
        """The first `most` tokens of each slice."""
        # Views: the flat array is shared and never copied.
        return Slices(self.flat, self.first, np.minimum(self.length, most))

    def lists(self) -> list[list[int]]:
        """Each slice's tokens."""
        ends = self.first + self.length
        return [self.flat[first:end].tolist() for first, end in zip(self.first.tolist(), ends.tolist())]

    @property
    def positions(self) -> np.ndarray:
        """Where the slices' tokens stand in `flat`, one slice after the other."""
        return spread(self.first, self.length)


def spread(first: np.ndarray, length: np.ndarray) -> np.ndarray:
    """first[i], first[i] + 1, ... (length[i] of them) for every i, one after the other."""
    ends = np.cumsum(length)
    # One count through all slices, less what the slices before had, plus where this one begins.
    return np.repeat(first - ends + length, length) + np.arange(ends[-1] if len(ends) else 0)


@dataclass(frozen=True)
class Laid:
    """Rows laid out one after the other: their tokens [T], their lengths [R], and where part p of row r begins."""

    ids: np.ndarray
    lengths: np.ndarray
    begins: list[np.ndarray]

    def inside(self, segment: int) -> np.ndarray:
        """The begin of a part, counted from the begin of its row, [R]."""
        return self.begins[segment] - self.begins[0]


def lay_out(segments: Sequence[Slices | tuple[int, ...]], rows: int) -> Laid:
    """Put the parts of each row one after the other; a tuple is the same tokens in every row."""
    # Two passes: the first finds each row's length, so that the second writes into one array.
    lengths = np.zeros(rows, np.int64)
    for segment in segments:
        lengths += segment.length if isinstance(segment, Slices) else len(segment)
    at = np.cumsum(lengths) - lengths
    ids, begins = np.empty(int(lengths.sum()), np.int32), []
    for segment in segments:
        begins.append(at)
        if isinstance(segment, Slices):
            ids[spread(at, segment.length)] = segment.flat[segment.positions]
            at = at + segment.length
        else:
            for token in segment:
                ids[at] = token
                at = at + 1
    return Laid(ids, lengths, begins)
