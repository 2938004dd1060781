"""Which records of a split are taken when it is not wanted whole.

Files are sorted: by source, by article, by round. Their first 500 rows would be one article of SQuAD or one round of
ANLI. So examples that select a model, and those of a shortened train split, are drawn: at random from each file, and
from each file in proportion to its size. Which ones depends on the files alone, not on a run's seed, the condition or
a library's version: all models of a study are selected on the same examples.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

DRAW = "stilts-ds draw 1"  # of the random numbers; another text draws other examples


def proportional_shares(total: int, sizes: Sequence[int]) -> list[int]:
    """`total` split over parts in proportion to their sizes: whole numbers that add up, the largest remainders first.

    Parts are never asked for more than they have; `total` beyond the sum of sizes gives all of each.
    """
    whole = sum(sizes)
    if total >= whole:
        return list(sizes)
    shares = [total * size // whole for size in sizes]
    # Of equal remainders the earlier part comes first, so that the same sizes always give the same shares.
    by_remainder = sorted(range(len(sizes)), key=lambda part: (-(total * sizes[part] % whole), part))
    for part in by_remainder[: total - sum(shares)]:
        shares[part] += 1
    return shares


def drawn_order(part: int, size: int) -> list[int]:
    """Places 0 to `size` - 1 of one part in the order in which they are drawn."""
    # `random.Random` gives the same numbers for the same text in every version of Python. A place's number does not
    # depend on how many places follow it, so a file that grows at its end keeps most of what was drawn from it.
    generator = random.Random(f"{DRAW} {part}")
    keys = [generator.random() for _ in range(size)]
    return sorted(range(size), key=keys.__getitem__)


def draw_places(sizes: Sequence[int], skip: int, limit: int | None) -> list[set[int]]:
    """The places that are taken from each part: `limit` of them (None: all) after the first `skip` in drawn order.

    What is skipped and what is taken never overlap: the skipped ones may select what the others train.
    """
    skipped = proportional_shares(skip, sizes)
    left = [size - share for size, share in zip(sizes, skipped)]
    taken = left if limit is None else proportional_shares(limit, left)
    return [
        set(drawn_order(part, size)[first : first + count])
        for part, (size, first, count) in enumerate(zip(sizes, skipped, taken))
    ]


def at_places(parts: Iterable[Iterable[Any]], places: Iterable[set[int]]) -> Iterator[Any]:
    """The records of each part that stand at its places, in file order."""
    for part, wanted in zip(parts, places):
        for place, record in enumerate(part):
            if place in wanted:
                yield record
