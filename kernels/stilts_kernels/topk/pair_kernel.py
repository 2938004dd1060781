"""Canonical scores of pairs of rows on a GPU: float64, one order of summation for every pair."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.kernel import interpreted

PAIR_BLOCK, PAIR_DEPTH = 8, 128  # larger blocks spill
INTERPRETED_PAIRS = 512


@triton.jit
def pair_score_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    queries,
    bank,
    query_norms,
    bank_norms,
    query,
    row,
    out,
    pair_count,
    query_stride,
    query_step,
    bank_stride,
    bank_step,
    DIM: tl.constexpr,
    UNIT: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    """out float64 [P]: dot products of queries[query[p]] and bank[row[p]], float32 rows, of unit length with UNIT.

    One order of summation for every pair, whatever stands beside it: equal rows score equal to the last bit.
    """
    pair = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    inside = pair < pair_count
    i, j = tl.load(query + pair, mask=inside, other=0), tl.load(row + pair, mask=inside, other=0)
    # BD sums side by side, added up at the end: one order, whatever D is divided into.
    acc = tl.zeros([BP, BD], tl.float64)
    for d in range(0, DIM, BD):
        depth = d + tl.arange(0, BD).to(tl.int64)
        inside_row = inside[:, None] & (depth[None, :] < DIM)
        x = tl.load(queries + i[:, None] * query_stride + depth[None, :] * query_step, mask=inside_row, other=0.0)
        y = tl.load(bank + j[:, None] * bank_stride + depth[None, :] * bank_step, mask=inside_row, other=0.0)
        x, y = x.to(tl.float32), y.to(tl.float32)
        if UNIT:
            # Rounded as IEEE division is; Triton's `/` is an approximation, and would not equal the CPU's.
            x = tl.div_rn(x, tl.load(query_norms + i, mask=inside, other=1.0)[:, None])
            y = tl.div_rn(y, tl.load(bank_norms + j, mask=inside, other=1.0)[:, None])
        acc += x.to(tl.float64) * y.to(tl.float64)
    tl.store(out + pair, tl.sum(acc, axis=1), mask=inside)


def pair_scores(queries: Rows, bank: Rows, query: Tensor, row: Tensor) -> Tensor:
    """Canonical scores float64 [P] of the pairs (query[p], row[p]), int64, on a GPU or under the interpreter.

    Under cosine both sides are `measured`: lengths belong to the rows, so a part of a side brings its own.
    """
    out = torch.empty(len(query), dtype=torch.float64, device=query.device)
    if len(query) == 0:
        return out
    strides = (*queries.data.stride(), *bank.data.stride())
    sides = (queries.data, bank.data, divisors(queries), divisors(bank))
    pairs = (query.contiguous(), row.contiguous())
    size = INTERPRETED_PAIRS if interpreted() else PAIR_BLOCK
    constants = {"DIM": queries.dim, "UNIT": queries.unit, "BP": size, "BD": PAIR_DEPTH}
    programs = triton.cdiv(len(query), size)
    pair_score_kernel[(programs,)](*sides, *pairs, out, len(query), *strides, **constants)
    return out


def divisors(rows: Rows) -> Tensor:
    """The lengths float32 [N] that unit rows are divided by; one unused element where rows are not scaled."""
    if not rows.unit:
        # A kernel takes a pointer for every argument, also for one that it does not read.
        return torch.ones(1, dtype=torch.float32, device=rows.data.device)
    assert rows.lengths is not None, "unit rows must be measured before their pairs are scored"
    return rows.lengths
