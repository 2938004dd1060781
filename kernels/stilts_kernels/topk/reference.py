"""Plain-torch reference of every operation: float64, the whole score matrix in memory, nothing clever.

Tests and benchmarks compare against this module; it is also the last resort of the fast paths for rows that no bound
can settle (see `cpu` and `cuda`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.rows import Rows, check_norms, normalize

CELLS_PER_STEP = 1 << 20
Score = Callable[[Rows, Rows, Tensor, Tensor], Tensor]


def scores(queries: Tensor, bank: Tensor, metric: str = "inner") -> Tensor:
    """All scores [Q, N] in float64."""
    if metric == "cosine":
        queries, bank = normalize(queries, "queries"), normalize(bank, "bank")
    # By way of float32, which every path reads rows as: float64 rows would have other scores.
    return queries.float().double() @ bank.float().double().T


def topk(queries: Tensor, bank: Tensor, k: int, metric: str = "inner") -> tuple[Tensor, Tensor]:
    """(values, indices), float64 and int64 [Q, k]; equal scores keep the lower index first."""
    return topk_of(scores(queries, bank, metric), k)


def topk_of(matrix: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of [Q, N], ties to the lower index (a stable sort, unlike torch.topk)."""
    values, indices = torch.sort(matrix, dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def exhaustive(
    queries: Rows, which: Tensor, bank: Rows, k: int, score: Score = canonical_scores
) -> tuple[Tensor, Tensor]:
    """Canonical top-k of the queries `which` [F] by scoring every pair: (values float64, indices) [F, k]."""
    values = torch.empty(len(which), k, dtype=torch.float64, device=which.device)
    indices = torch.empty(len(which), k, dtype=torch.int64, device=which.device)
    for i, query in enumerate(which.tolist()):
        row = canonical_row(queries, query, bank, score)
        # One query at a time: there are few of them, and a row of N float64 scores is all the memory this may take.
        best, order = torch.sort(row, descending=True, stable=True)
        values[i], indices[i] = best[:k], order[:k]
    return values, indices


def canonical_row(queries: Rows, query: int, bank: Rows, score: Score = canonical_scores) -> Tensor:
    """Canonical scores [N] of one query against the whole bank. Raises ValueError on a non-finite bank row."""
    row = torch.empty(bank.count, dtype=torch.float64, device=bank.data.device)
    query_row = queries.part(query, query + 1)
    for start in range(0, bank.count, CELLS_PER_STEP):
        index = torch.arange(start, min(bank.count, start + CELLS_PER_STEP), dtype=torch.int64, device=row.device)
        # In stretches: with cosine, `score` widens the rows it is given.
        row[index] = score(query_row, bank, torch.zeros_like(index), index)
    check_norms(row.abs() ** 0.5, f"{queries.name} row {query} against {bank.name}")
    return row


def mean_pool(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the unmasked tokens of a padded batch [B, S, D], mask [B, S] -> float64 [B, D]."""
    weights = mask.double()[:, :, None]
    return (tokens.double() * weights).sum(dim=1) / weights.sum(dim=1)
