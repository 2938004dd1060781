"""Search and mining over sides split among ranks, bit-equal to one process holding all of them.

Every rank holds a shard of each side, in rank order. A search one way sends the queries round in blocks, and results
return to their owner (12 bytes per query, rank and neighbour); mining sends the targets round a ring (`ring`).

Equality holds because every path ranks the same canonical float64 scores (`canonical_scores`), and because equal scores
keep the lower index first wherever lists are merged.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.collectives import Collectives, collectives_of
from stilts_kernels.common.progress import Progress, report_progress
from stilts_kernels.common.ranking import Ranked, TopK, merge_topk
from stilts_kernels.common.rows import Rows, is_cosine
from stilts_kernels.mining.layout import Layout, as_message, from_message, no_neighbours, padded_to
from stilts_kernels.mining.margin import Neighbours, best_margin
from stilts_kernels.mining.match import MinedPairs, check_choices, match
from stilts_kernels.mining.ring import CPU, RingSearch, neighbours_ring
from stilts_kernels.mining.state import SearchState
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
        # Every rank searches the same block of queries in its own shard: no rank ever holds the whole bank.
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

    Every score is computed once. Collective, raises as `topk_ranks`.
    """
    ranks = collectives_of(comm)
    ranks.agree(lambda: check_choices(margin, retrieval))
    forward, backward = neighbours_ranks(source, target, k, ranks, metric, memory, progress)
    return pairs_of_ranks(ranks, forward, backward, margin, retrieval)


@torch.no_grad()
def neighbours_ranks(
    source: Tensor,
    target: Tensor,
    k: int,
    comm: Any,
    metric: str = "cosine",
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
    device: torch.device = CPU,
    state: SearchState | None = None,
) -> tuple[Neighbours, Neighbours]:
    """The k neighbours, with global indices, of this rank's source [Q, D] among all targets, and of its target [N, D]
    among all of the source.

    Shards and results lie in CPU memory, products are computed on `device`. `state` keeps what is found, for a later
    start (see `ring`). Collective: raises the same ValueError on every rank when any rank's input is bad.
    """
    ranks = collectives_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    layout = Layout(ranks, source, target, k, memory, ("source", "target"))
    if k > sum(layout.query_counts):
        raise ValueError(f"k = {k} is outside 1..{sum(layout.query_counts)}, the number of rows of source")
    return neighbours_ring(RingSearch(ranks, layout, source, target, unit, device), progress, state)


@torch.no_grad()
def pairs_of_ranks(comm: Any, forward: Neighbours, backward: Neighbours, margin: str, retrieval: str) -> MinedPairs:
    """All pairs, on every rank, from what `neighbours_ranks` gave on each. Collective."""
    ranks = collectives_of(comm)
    best_targets, best_sources = best_of_ranks(ranks, forward, backward, margin)
    return match(of_all_ranks(ranks, best_targets), of_all_ranks(ranks, best_sources), retrieval)


@torch.no_grad()
def pairs_on_first(
    comm: Any, forward: Neighbours, backward: Neighbours, margin: str, retrieval: str
) -> MinedPairs | None:
    """As `pairs_of_ranks` on rank 0, None elsewhere: matching takes about 100 bytes a row of both sides. Collective."""
    ranks = collectives_of(comm)
    sides = [
        ranks.collect_rows(as_message((margins[:, None], indices[:, None])), 0)
        for margins, indices in best_of_ranks(ranks, forward, backward, margin)
    ]
    if ranks.rank != 0:
        return None
    (target_margins, targets), (source_margins, sources) = (from_message(torch.cat(tables)) for tables in sides)
    best_targets, best_sources = (target_margins[:, 0], targets[:, 0]), (source_margins[:, 0], sources[:, 0])
    return match(best_targets, best_sources, retrieval)


def best_of_ranks(
    ranks: Collectives, forward: Neighbours, backward: Neighbours, margin: str
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(margin, index) of the best target of each source row of this rank, and of the best source of each target row.

    A margin needs the other side's mean similarity, which is why the means of all ranks are gathered first.
    """
    source_mean, target_mean = means_of_ranks(ranks, forward), means_of_ranks(ranks, backward)
    best_targets = best_margin(forward, forward.values.mean(dim=1), target_mean, margin)
    return best_targets, best_margin(backward, backward.values.mean(dim=1), source_mean, margin)


def means_of_ranks(ranks: Collectives, neighbours: Neighbours) -> Tensor:
    """Mean similarity of each row of a side to its k neighbours, float64, of all ranks one after the other."""
    return torch.cat(ranks.gather_rows(neighbours.values.mean(dim=1)))


def local_topk(block: Tensor, bank: Tensor, k: int, unit: bool, memory: int) -> Ranked:
    """Top-k of a block in this rank's shard alone, padded to k; indices count within the shard."""
    if len(bank) == 0:
        # A rank without rows still takes part, with nothing found: the exchange behind this is a collective.
        return padded_to(no_neighbours(len(block), 0), k)
    queries, shard = Rows(block, "queries", unit), Rows(bank, "bank", unit)
    return padded_to(topk_float64(queries, shard, min(k, len(bank)), memory=memory), k)


def collect_on_owner(ranks: Collectives, layout: Layout, in_shard: Ranked, owner: int, k: int) -> list[Ranked]:
    """On the owner, the merged top-k with global indices, as a list of one; elsewhere an empty list."""
    values = ranks.collect(in_shard[0].contiguous(), owner)
    # 32 bits hold a place in one shard, and halve what travels; places in the whole bank are made on the owner.
    indices = ranks.collect(in_shard[1].int(), owner)
    # Not the owner, which alone merges.
    if not values:
        return []
    first_rows = [sum(layout.bank_counts[:rank]) for rank in range(ranks.size)]
    rankings = [(value, index.long() + first) for value, index, first in zip(values, indices, first_rows)]
    return [merge_topk(rankings, k)]


def of_all_ranks(ranks: Collectives, best: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every rank's (margin, index) one after the other."""
    margin, index = best
    return torch.cat(ranks.gather_rows(margin)), torch.cat(ranks.gather_rows(index))
