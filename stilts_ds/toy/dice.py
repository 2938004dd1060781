"""Random choices that give the same bytes on every machine: everything is drawn through PCG64's bounded integers.

A world takes three million draws. numpy's `Generator.integers` spends most of each on checking its arguments, so the
words are taken from PCG64 in blocks and bounded here, by the rule that `integers` uses.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 256  # words of 64 bits that are drawn at once
WORD = 1 << 32


class Dice:
    """A random stream of its own for each (seed, name), so that one file's size does not shift another's content."""

    def __init__(self, seed: int, name: str) -> None:
        # CRC-32, since Python's own hash of a string differs from process to process.
        self._halves = _halves(np.random.PCG64([seed, zlib.crc32(name.encode())]))

    def below(self, stop: int) -> int:
        """Draw one of 0 ... stop - 1, each as likely, for 1 <= stop < 2**32: numpy's `Generator.integers(stop)`.

        The rule is that of Lemire (2019), "Fast Random Integer Generation in an Interval", algorithm 5: the high half
        of a random half word times `stop`, where few low halves are drawn again so that no result is likelier.
        """
        if not 1 <= stop < WORD:
            raise ValueError(f"cannot draw below {stop}")
        if stop == 1:
            return 0  # nothing is drawn, as in numpy
        product = next(self._halves) * stop
        # The cheap test first: the exact bound costs a division and is below `stop` anyway.
        if product % WORD < stop:
            uneven = (WORD - stop) % stop
            while product % WORD < uneven:
                product = next(self._halves) * stop
        return product // WORD

    def chance(self, percent: int) -> bool:
        return self.below(100) < percent

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """Return `count` different items in random order."""
        return self.shuffled(items)[:count]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Fisher-Yates, written out because numpy does not promise its own shuffle for ever."""
        result = list(items)
        for last in range(len(result) - 1, 0, -1):
            chosen = self.below(last + 1)  # may be `last` itself, or some orders would never come out
            result[last], result[chosen] = result[chosen], result[last]
        return result


def _halves(words: np.random.PCG64) -> Iterator[int]:
    """The stream of 32-bit halves of PCG64's words, the low half first."""
    while True:
        for word in words.random_raw(BLOCK).tolist():
            yield word % WORD
            yield word // WORD
