"""What mining costs before it is done: counts that follow from the sizes, and time from costs measured on small shapes.

Counts are those of the code: blocks, hops and bytes of the ring (stilts_kernels.mining.ring), files and candidates of
the approximate index (stilts_ds.mining.candidates). `simulate` runs through a whole search without data, block by block,
with failures of machines drawn at random.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

SAVE_SECONDS = 60.0  # as stilts_kernels.mining.state: the least time between two saves
PAIR_VALUES = 16  # bytes of a neighbour: a float64 score and an int64 row


@dataclass(frozen=True)
class Sides:
    """Sentences of both sides, numbers of a vector, bytes of a number in the file, neighbours each way."""

    source: int
    target: int
    width: int
    number_bytes: int = 4
    k: int = 4

    @property
    def rows(self) -> int:
        return self.source + self.target

    @property
    def vector_bytes(self) -> int:
        """Of both files."""
        return self.rows * self.width * self.number_bytes


@dataclass(frozen=True)
class Cluster:
    """`ranks`; scratch bytes of each; bytes a second that a rank sends; hours between two failures of a rank (none:
    infinity); seconds from a failure until the job runs again."""

    ranks: int = 1
    memory: int = 1 << 30
    bandwidth: float = 1e9
    hours_to_failure: float = math.inf
    restart_seconds: float = 300.0


@dataclass(frozen=True)
class Costs:
    """Seconds of one rank, at one width of vectors.

    `score`: of a pair, both ways at once; `row`: of a row that is prepared and finished, each time that a block is
    searched; `train`: of a vector, a list and a pass of k-means; `list`: of a query or an added vector and a list;
    `scan`: of a vector that a query meets in a list; `candidate`: of an exact score; `embed`: of a sentence (None: the
    vectors are there).
    """

    score: float
    row: float
    train: float
    list: float
    scan: float
    candidate: float
    embed: float | None = None


def share(count: int, rank: int, ranks: int) -> int:
    """Rows of a rank's shard."""
    return count * (rank + 1) // ranks - count * rank // ranks


def block_rows(memory: int, width: int, k: int) -> int:
    """Targets of a block that travels: as `Layout.target_rows`."""
    return max(1, memory // 4 // (2 * (width * 4 + 16 * k) + 32 * k))


def default_nlist(rows: int) -> int:
    """Lists of an approximate index: the power of two next to 4 sqrt(rows), FAISS's advice, and no more than 40 vectors
    a list allow."""
    return max(1, min(2 ** round(math.log2(4 * math.sqrt(rows))), rows // 40))


# --- exact search ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ring:
    """Counts of an exact search. `sent`: bytes that all ranks send in the ring; `gathered`: bytes that each rank
    receives of means and best margins; `saved`: bytes that all ranks write when they save at the end."""

    blocks: int
    hops: int
    scores: int
    sent: int
    gathered: int
    saved: int

    @property
    def searched_rows(self) -> int:
        raise NotImplementedError


def ring(sides: Sides, cluster: Cluster) -> Ring:
    """The counts of a search with its targets round a ring."""
    ranks = cluster.ranks
    rows = block_rows(cluster.memory, sides.width, sides.k)
    blocks = -(-max(share(sides.target, rank, ranks) for rank in range(ranks)) // rows)
    sent = 0
    if ranks > 1:
        # Rows make all hops but the last, lists make all of them.
        sent = sides.target * ((ranks - 1) * sides.width * sides.number_bytes + ranks * PAIR_VALUES * sides.k)
    return Ring(
        blocks,
        blocks * ranks,
        sides.source * sides.target,
        sent,
        gathered(sides, ranks),
        PAIR_VALUES * sides.k * sides.rows,
    )


def gathered(sides: Sides, ranks: int) -> int:
    """Bytes that a rank receives of the others' means, best margins and rows of these, each as long as the longest."""
    longest = [max(share(count, rank, ranks) for rank in range(ranks)) for count in (sides.source, sides.target)]
    return (ranks - 1) * sum(longest) * (8 + 8 + 8)
