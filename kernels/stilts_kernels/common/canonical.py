"""Canonical scores: the exact scores that every path ranks.

The canonical score of a pair is the float64 dot product of its two float32 rows, summed over D in an order that depends
on D alone (one row, one reduction). Equal rows therefore score equal to the last bit wherever they stand, ties fall to
the lower index, and splitting the bank over shards or ranks cannot change a result.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from stilts_kernels.common.rows import Rows

MAX_STEP = 4096  # rows of each side held in float64 while pairs are scored: 32 MB each at D = 1024
MAPPED_ROWS = 4096  # stretch of a mapped file that one step touches: 8 MB of float16 at D = 1024


def canonical_scores(queries: Rows, bank: Rows, query: Tensor, row: Tensor, step: int = MAX_STEP) -> Tensor:
    """Canonical float64 scores [P] of the distinct pairs (query[p], row[p]), in any order.

    `step` bounds the rows of either side that are held in float64.
    """
    scores = torch.empty(len(query), dtype=torch.float64, device=query.device)
    order = by_block(query, row, step)
    pairs_per_block = torch.bincount(query // step).tolist()
    start = 0
    for number, count in enumerate(pairs_per_block):
        if count == 0:
            continue
        first = number * step
        pairs = order[start : start + count]
        block = queries.block(first, min(queries.count, first + step)).double()
        scores[pairs] = block_scores(block, bank, query[pairs] - first, row[pairs], step)
        start += count
    return scores


def by_block(query: Tensor, row: Tensor, step: int = MAX_STEP) -> Tensor:
    """Order of pairs [P] for exact scoring: by block of queries, then by bank row, so the bank is read in order."""
    return torch.argsort((query // step << 40) + row)


def block_scores(block: Tensor, bank: Rows, query: Tensor, row: Tensor, step: int) -> Tensor:
    """Canonical scores [P] of pairs (row of the float64 block [B, D], bank row), the bank's rows rising."""
    # A mapped file is let go after each stretch: only what one step touches counts as memory.
    stretch = MAPPED_ROWS if bank.mapped else bank.count
    pairs_per_stretch = torch.bincount(row // stretch).tolist()
    sizes = [min(step, count - done) for count in pairs_per_stretch for done in range(0, count, step)]
    scores = []
    for block_row, bank_row in zip(query.split(sizes), row.split(sizes)):
        distinct, counts = torch.unique_consecutive(bank_row, return_counts=True)
        # The float64 rows get no name: they must be freed before the next ones are made, or memory leaves its budget.
        scores.append(sampled_dots(bank.take(distinct).double(), counts, block, block_row))
        bank.release()
    return torch.cat(scores)


def sampled_dots(left: Tensor, counts: Tensor, right: Tensor, column: Tensor) -> Tensor:
    """Dot products [P] of left [L, D] with the rows of right [R, D] listed in `column` [P], counts[l] of them per l.

    On a CPU sampled_addmm forms each product straight from the two rows, one reduction over D per pair, without
    gathering either; its order does not depend on the other pairs (tested). On a GPU one reduction over gathered rows.
    """
    if left.is_cuda:
        return (left.repeat_interleave(counts, dim=0) * right[column]).sum(dim=1)
    row_bounds = torch.zeros(len(counts) + 1, dtype=torch.int64, device=left.device)
    torch.cumsum(counts, dim=0, out=row_bounds[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        pattern = torch.sparse_csr_tensor(
            row_bounds,
            column,
            left.new_zeros(len(column)),
            (len(left), len(right)),
            device=left.device,
            check_invariants=False,
        )
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()
