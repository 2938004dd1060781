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
    """`total` split over files in proportion to their sizes: whole numbers that add up, the largest remainders first.

    Files are never asked for more than they have; `total` beyond the sum of sizes gives all of each.
    """
    whole = sum(sizes)
    if total >= whole:
        return list(sizes)
    shares = [total * size // whole for size in sizes]
    # Of equal remainders the earlier file comes first, so that the same sizes always give the same shares.
    by_remainder = sorted(range(len(sizes)), key=lambda file: (-(total * sizes[file] % whole), file))
    for file in by_remainder[: total - sum(shares)]:
        shares[file] += 1
    return shares


def drawn_order(file: int, size: int) -> list[int]:
    """Places 0 to `size` - 1 of one file in the order in which they are drawn."""
    # `random.Random` gives the same numbers for the same text in every version of Python. A place's number does not
    # depend on how many places follow it, so a file that grows at its end keeps most of what was drawn from it.
    generator = random.Random(f"{DRAW} {file}")
    keys = [generator.random() for _ in range(size)]
    return sorted(range(size), key=keys.__getitem__)


def draw_places(sizes: Sequence[int], skip: int, limit: int | None) -> list[set[int]]:
    """The places that are taken from each file: `limit` of them (None: all) after the first `skip` in drawn order.

    What is skipped and what is taken never overlap: the skipped ones may select what the others train.
    """
    skipped = proportional_shares(skip, sizes)
    left = [size - share for size, share in zip(sizes, skipped)]
    taken = left if limit is None else proportional_shares(limit, left)
    return [
        set(drawn_order(file, size)[first : first + count])
        for file, (size, first, count) in enumerate(zip(sizes, skipped, taken))
    ]


def at_places(files: Iterable[Iterable[Any]], places: Iterable[set[int]]) -> Iterator[Any]:
    """The records of each file that stand at its places, in file order."""
    for records, wanted in zip(files, places):
        for row, record in enumerate(records):
            if row in wanted:
                yield record
