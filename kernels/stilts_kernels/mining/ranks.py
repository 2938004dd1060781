"""Search and mining over sides split among ranks, bit-equal to one process holding all of them.

Every rank holds a shard of each side, in rank order; queries travel in blocks, results return to their owner (12 bytes
per query, rank and neighbour).

Equality holds because every path ranks the same canonical float64 scores (`canonical_scores`), and because shards are
merged in order of their rows by a stable sort, which keeps the lower index first.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.collectives import Collectives, collectives_of
from stilts_kernels.common.progress import Progress, report_progress
from stilts_kernels.common.ranking import Ranked, TopK, merge_topk
from stilts_kernels.common.rows import Rows, check_matrix, is_cosine
from stilts_kernels.mining.margin import Neighbours, best_margin
from stilts_kernels.mining.match import MinedPairs, check_choices, match
from stilts_kernels.mining.two_way import two_way
from stilts_kernels.topk.cpu import DEFAULT_MEMORY, topk_float64


@torch.no_grad()
def topk_ranks(
    queries: Tensor,
    bank: Tensor,
    k: int,
    comm: Any,
    metric: str = "inner",
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> TopK:
    """Top-k of this rank's queries [Q, D] in the whole bank, of which this rank holds `bank` [N, D].

    Indices count the bank over all ranks in rank order. `memory` bounds scratch bytes per rank. Collective: raises the
    same ValueError on every rank when any rank's input is bad.
    """
    ranks = collectives_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    layout = Layout(ranks, queries, bank, k, memory, ("queries", "bank"))
    rankings = [no_neighbours(0, k)]
    done, total = 0, sum(layout.query_counts)
    for owner, start, stop in layout.blocks():
        block = layout.share(ranks, queries, owner, start, stop)
        in_shard = ranks.agree(partial(local_topk, block, bank, k, unit, layout.search_memory))
        rankings += collect_on_owner(ranks, layout, in_shard, owner, k)
        done = report_progress(progress, done + stop - start, total)
    values, indices = (torch.cat(side) for side in zip(*rankings))
    return TopK(values.float(), indices)


@torch.no_grad()
def mine_ranks(
    source: Tensor,
    target: Tensor,
    k: int,
    comm: Any,
    margin: str = "ratio",
    retrieval: str = "max",
    metric: str = "cosine",
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> MinedPairs:
    """`stilts_kernels.mine` over sides split among ranks: all pairs, with global indices, on every rank.

    Every score is computed once, by the rank that holds the target row. Collective, raises as `topk_ranks`.
    """
    ranks = collectives_of(comm)
    ranks.agree(lambda: check_choices(margin, retrieval))
    unit = ranks.agree(lambda: is_cosine(metric))
    layout = Layout(ranks, source, target, k, memory, ("source", "target"))
    if k > sum(layout.query_counts):
        raise ValueError(f"k = {k} is outside 1..{sum(layout.query_counts)}, the number of rows of source")
    forward, backward = neighbours_ranks(ranks, layout, source, target, k, unit, progress)
    source_mean, target_mean = forward.values.mean(dim=1), backward.values.mean(dim=1)
    all_source_means = torch.cat(ranks.gather_rows(source_mean))
    all_target_means = torch.cat(ranks.gather_rows(target_mean))
    best_targets = best_margin(forward, source_mean, all_target_means, margin)
    best_sources = best_margin(backward, target_mean, all_source_means, margin)
    return match(of_all_ranks(ranks, best_targets), of_all_ranks(ranks, best_sources), retrieval)


class Layout:
    """How both sides lie over the ranks; made collectively, so a bad shard on one rank raises on all."""

    def __init__(
        self, ranks: Collectives, queries: Tensor, bank: Tensor, k: int, memory: int, names: tuple[str, str]
    ) -> None:
        ranks.agree(partial(check_shard, queries, names[0]))
        ranks.agree(partial(check_shard, bank, names[1]))
        shapes = ranks.gather([list(queries.shape), str(queries.dtype), list(bank.shape), k, memory])
        query_shapes, dtypes, bank_shapes, ks, memories = zip(*shapes)
        self.query_counts = [shape[0] for shape in query_shapes]
        self.bank_counts = [shape[0] for shape in bank_shapes]
        self.dtypes = [getattr(torch, dtype.removeprefix("torch.")) for dtype in dtypes]
        self.dim, self.k = queries.shape[1], k
        self.memory = min(memories)  # blocks must be cut alike on all ranks
        self.search_memory = self.memory * 3 // 4  # the rest holds the block of queries and its results
        dims = {shape[1] for shape in (*query_shapes, *bank_shapes)}
        self.check(dims, set(ks), names)

    def check(self, dims: set[int], ks: set[int], names: tuple[str, str]) -> None:
        """Raises the same ValueError on every rank."""
        for what, values in (("D", dims), ("k", ks)):
            if len(values) > 1:
                raise ValueError(f"ranks differ in {what}: {sorted(values)}")
        k = self.k
        for counts, name in ((self.query_counts, names[0]), (self.bank_counts, names[1])):
            if sum(counts) == 0:
                raise ValueError(f"{name} is empty on all ranks")
        if not 1 <= k <= sum(self.bank_counts):
            raise ValueError(f"k = {k} is outside 1..{sum(self.bank_counts)}, the number of rows of {names[1]}")

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(owner, start, stop) of every block of queries, in order of their global rows; a quarter of the memory."""
        step = max(1, self.memory // 4 // (self.dim * 4 + 32 * self.k))
        for owner, count in enumerate(self.query_counts):
            for start in range(0, count, step):
                yield owner, start, min(count, start + step)

    def share(self, ranks: Collectives, queries: Tensor, owner: int, start: int, stop: int) -> Tensor:
        """The owner's block of queries, on every rank."""
        block = torch.empty(stop - start, self.dim, dtype=self.dtypes[owner], device="cpu")
        if ranks.rank == owner:
            block.copy_(queries[start:stop])
        return ranks.broadcast(block, owner)


def check_shard(side: Tensor, name: str) -> None:
    """Raises ValueError unless `side` is a readable CPU shard; it may be empty, but not missing."""
    if side is None:
        raise ValueError(f"the shard of {name} is missing")
    check_matrix(side, name)
    if side.device.type != "cpu":
        raise ValueError(f"{name} is on {side.device}; shards are exchanged in CPU memory")


def local_topk(block: Tensor, bank: Tensor, k: int, unit: bool, memory: int) -> Ranked:
    """Top-k of a block in this rank's shard alone, padded to k; indices count within the shard."""
    if len(bank) == 0:
        return padded_to(no_neighbours(len(block), 0), k)
    queries, shard = Rows(block, "queries", unit), Rows(bank, "bank", unit)
    return padded_to(topk_float64(queries, shard, min(k, len(bank)), memory=memory), k)


def local_two_way(block: Tensor, target: Tensor, k: int, unit: bool, memory: int) -> tuple[Ranked, Ranked]:
    """Neighbours of a source block in this rank's targets and of the targets in the block, padded to k."""
    if len(target) == 0:
        return local_topk(block, target, k, unit, memory), no_neighbours(0, k)
    source, shard = Rows(block, "source", unit), Rows(target, "target", unit)
    forward, backward = two_way(source, shard, min(k, len(target)), min(k, len(block)), memory=memory)
    return padded_to(forward, k), padded_to(backward, k)


def neighbours_ranks(
    ranks: Collectives, layout: Layout, source: Tensor, target: Tensor, k: int, unit: bool, progress: Progress | None
) -> tuple[Neighbours, Neighbours]:
    """Neighbours, with global indices, of this rank's source rows and of its target rows."""
    forward = [no_neighbours(0, k)]
    backward = padded_to(no_neighbours(len(target), 0), k)
    done, total = 0, sum(layout.query_counts)
    for owner, start, stop in layout.blocks():
        block = layout.share(ranks, source, owner, start, stop)
        in_shard, in_block = ranks.agree(partial(local_two_way, block, target, k, unit, layout.search_memory))
        forward += collect_on_owner(ranks, layout, in_shard, owner, k)
        block_values, block_indices = in_block
        backward = merge_topk([backward, (block_values, block_indices.add_(done))], k)
        done = report_progress(progress, done + stop - start, total)
    values, indices = (torch.cat(side) for side in zip(*forward))
    return Neighbours(values, indices), Neighbours(*backward)


def collect_on_owner(ranks: Collectives, layout: Layout, in_shard: Ranked, owner: int, k: int) -> list[Ranked]:
    """On the owner, the merged top-k with global indices, as a list of one; elsewhere an empty list."""
    values = ranks.collect(in_shard[0].contiguous(), owner)
    indices = ranks.collect(in_shard[1].int(), owner)
    if not values:
        return []
    first_rows = [sum(layout.bank_counts[:rank]) for rank in range(ranks.size)]
    rankings = [(value, index.long() + first) for value, index, first in zip(values, indices, first_rows)]
    return [merge_topk(rankings, k)]


def of_all_ranks(ranks: Collectives, best: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every rank's (margin, index) one after the other."""
    margin, index = best
    return torch.cat(ranks.gather_rows(margin)), torch.cat(ranks.gather_rows(index))


def no_neighbours(rows: int, k: int) -> Ranked:
    """(values, indices) [rows, k] of no search, in CPU memory, where results of shards are exchanged."""
    values = torch.empty(rows, k, dtype=torch.float64, device="cpu")
    return values, torch.empty(rows, k, dtype=torch.int64, device="cpu")


def padded_to(ranking: Ranked, k: int) -> Ranked:
    """(values, indices) with -inf and -1 up to k columns, for shards of fewer than k rows."""
    values, indices = ranking
    missing = k - values.shape[1]
    if missing == 0:
        return values, indices
    return (
        torch.nn.functional.pad(values, (0, missing), value=-torch.inf),
        torch.nn.functional.pad(indices, (0, missing), value=-1),
    )
