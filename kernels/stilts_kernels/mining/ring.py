"""Neighbours both ways of sides that are split among ranks, bit-equal to one process that holds all of them.

Every rank keeps its shard of the source. Blocks of the targets go round a ring of the ranks, one hop after each search,
and each block carries with it the best sources that its rows have met so far. After as many hops as there are ranks a
block is home, and its lists are complete. A rank sends N (4 D + 16 k) bytes for N target rows of all other ranks.

A ring meets the shards in another order on every rank, so lists are merged by score and, of equal scores, by index.
That gives the same bits as one search because every path ranks the same canonical float64 scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.progress import Progress, report_progress
from stilts_kernels.common.ranking import Ranked, merge_in_any_order, numbered_from
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.layout import Layout, as_message, from_message, no_neighbours, padded_to
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.state import SearchState
from stilts_kernels.mining.two_way import TwoWaySearch

CPU = torch.device("cpu")


@dataclass
class RingSearch:
    """What stays the same during a ring search: both sides' shards on this rank, and how they are searched.

    `device`: where products are computed; shards and results lie in CPU memory.
    """

    ranks: Collectives
    layout: Layout
    source: Tensor
    target: Tensor
    unit: bool
    device: torch.device = CPU

    def __post_init__(self) -> None:
        self.k = self.layout.k
        self.first_source = sum(self.layout.query_counts[: self.ranks.rank])
        self.source = self.source.to(self.device)

    @cached_property
    def in_source(self) -> TwoWaySearch:
        """Searches of this rank's source on a CPU; what is prepared of it stays from hop to hop."""
        rows = Rows(self.source, "source", self.unit)
        return TwoWaySearch(rows, self.k, self.k, memory=self.layout.search_memory)

    def rows_of_block(self, owner: int, block: int) -> int:
        """How many rows block number `block` of a rank's targets has; 0 where the rank has fewer blocks."""
        left = self.layout.bank_counts[owner] - block * self.layout.target_rows
        return max(0, min(left, self.layout.target_rows))

    def first_row(self, owner: int, block: int) -> int:
        """The number of a block's first row among the targets of all ranks."""
        return sum(self.layout.bank_counts[:owner]) + block * self.layout.target_rows


@dataclass
class Travelling:
    """A block of a rank's targets on its way: rows [n, D] and, for each, its best sources so far [n, k]."""

    owner: int
    rows: Tensor
    best: Ranked


def neighbours_ring(
    search: RingSearch, progress: Progress | None = None, state: SearchState | None = None
) -> tuple[Neighbours, Neighbours]:
    """Neighbours, with global indices, of this rank's source rows and of its target rows. Collective.

    `progress` is called on all ranks alike, after each hop; it may raise on all of them to end the search. With a
    `state`, finished blocks are kept in its folder, and a later search of the same question on as many ranks goes on
    behind them.
    """
    ranks, k = search.ranks, search.k
    # Padded to k from the start, so that every merge has the same width on every rank.
    forward = padded_to(no_neighbours(len(search.source), 0), k)
    backward = [no_neighbours(0, k)]
    done = 0
    if state is not None:
        done, kept = state.load(ranks)
        if kept is not None:
            forward, backward = kept
    # Of the rank with most: the others take part in the rest with empty blocks, since a hop is collective.
    blocks = max(-(-count // search.layout.target_rows) for count in search.layout.bank_counts)
    hops = blocks * ranks.size
    for block in range(done, blocks):
        travelling = own_block(search, block)
        for hop in range(ranks.size):
            passing = Passing(search, travelling, block, last=hop + 1 == ranks.size)
            try:
                nearest = ranks.agree(partial(search_block, search, travelling, forward))
            finally:
                passing.rows_arrive()  # also after an error, which all ranks raise: nobody writes into freed memory
            forward = merged(forward, nearest[0], search.first_row(travelling.owner, block), k)
            travelling.best = merged(travelling.best, nearest[1], search.first_source, k)
            travelling = passing.finish(travelling)
            report_progress(progress, block * ranks.size + hop + 1, hops)
        backward.append(travelling.best)
        # Not after the last block: the result itself follows at once.
        if state is not None and block + 1 < blocks:
            state.save(ranks, block + 1, forward, backward)
    values, indices = (torch.cat(side) for side in zip(*backward))
    return Neighbours(*forward), Neighbours(values, indices)


def own_block(search: RingSearch, block: int) -> Travelling:
    """A block of this rank's targets at the begin of its way."""
    start = block * search.layout.target_rows
    rows = search.target[start : start + search.layout.target_rows]
    return Travelling(search.ranks.rank, rows, padded_to(no_neighbours(len(rows), 0), search.k))


class Passing:
    """One hop: this rank's block goes to the next rank, that of the rank before comes here.

    Rows are on their way while this rank searches them; lists follow when the search has changed them. At the `last`
    hop a block comes home, where its rows are.
    """

    def __init__(self, search: RingSearch, travelling: Travelling, block: int, last: bool) -> None:
        self.search = search
        # All blocks move on together, so the one that comes belongs to the rank before the present owner.
        self.owner = (travelling.owner - 1) % search.ranks.size
        self.count = search.rows_of_block(self.owner, block)
        outgoing = travelling.rows[:0] if last else travelling.rows.contiguous()
        dtype = search.layout.bank_dtypes[self.owner]
        self.rows = torch.empty(0 if last else self.count, search.layout.dim, dtype=dtype, device="cpu")
        self.pending = search.ranks.shift(outgoing, self.rows)

    def rows_arrive(self) -> None:
        self.pending.wait()

    def finish(self, travelling: Travelling) -> Travelling:
        """Exchange the lists; returns the block that is on this rank now."""
        incoming = torch.empty(self.count, 2 * self.search.k, dtype=torch.int64, device="cpu")
        self.search.ranks.shift(as_message(travelling.best), incoming).wait()
        return Travelling(self.owner, self.rows, from_message(incoming))


def search_block(search: RingSearch, travelling: Travelling, forward: Ranked) -> tuple[Ranked, Ranked]:
    """Neighbours of this rank's source among the targets of a block and of these among the source, padded to k;
    indices count within the two. What can no longer be among the k best of `forward`, the neighbours of the source so
    far, or of the block's own lists may be missing."""
    k, source, target = search.k, search.source, travelling.rows
    if len(source) == 0 or len(target) == 0:
        return padded_to(no_neighbours(len(source), 0), k), padded_to(no_neighbours(len(target), 0), k)
    right = Rows(target.to(search.device), "target", search.unit)
    if not takes_fused_kernel(search.device):
        # Without the scores of earlier blocks, each block would have as many pairs to score exactly as the first.
        return search.in_source(right, (forward[0], travelling.best[0]))
    from stilts_kernels.topk.cuda import two_way_cuda

    left = Rows(source, "source", search.unit)
    # A block may have fewer rows than k; the padding makes up for it.
    neighbours = two_way_cuda(left, right, min(k, len(target)), min(k, len(source)))
    ahead, back = ((values.cpu(), indices.cpu()) for values, indices in neighbours)
    return padded_to(ahead, k), padded_to(back, k)


def takes_fused_kernel(device: torch.device) -> bool:
    """Whether blocks are searched by the Triton kernel."""
    return device.type == "cuda"


def merged(best: Ranked, fresh: Ranked, first: int, k: int) -> Ranked:
    """The best k of what was known and of a block whose rows are numbered from `first` on."""
    # Padding has the score -inf and stands behind every real neighbour.
    return merge_in_any_order(best, numbered_from(fresh, first), k)
