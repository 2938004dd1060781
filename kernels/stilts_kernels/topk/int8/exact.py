"""Canonical scores by the extension: the bits of `canonical_scores`, from the float32 rows where they lie.

The canonical order of a sum is torch's. Its kernel adds numbers side by side in one register, then the register's own
numbers one after the other, so the order is known by the register's width, and products of float32 numbers are exact in
float64. Which width it is, and that nothing else decides the bits, is tried on random rows before it is relied on.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache, partial

import torch
from torch import Tensor

from stilts_kernels.common.canonical import MAX_STEP, canonical_scores, sampled_dots
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.int8.library import address
from stilts_kernels.topk.int8.sides import in_threads

log = logging.getLogger(__name__)

WIDTHS = (4, 8, 2)  # numbers of float64 in a register
TRIED = 64  # pairs that must agree
LEAST_TASK = 4096  # pairs of a thread


def exact_scores(queries: Rows, bank: Rows, query: Tensor, row: Tensor, step: int = MAX_STEP) -> Tensor:
    """`canonical_scores` float64 [P] of the pairs (query[p], row[p]), int64. `step` is for rows that must be copied."""
    sets = library.instruction_sets()
    width = torch_width(queries.dim, sets[-1]) if sets and as_they_lie(queries) and as_they_lie(bank) else 0
    if not width or len(query) == 0:
        return canonical_scores(queries, bank, query, row, step)
    return dots(queries.data, bank.data, query, row, width, sets[-1])


def rank_pairs(row: Tensor, column: Tensor, score: Tensor, values: Tensor, indices: Tensor) -> None:
    """Writes the k best of each row's pairs into `values` float64 and `indices` int64 [rows, k], on a CPU.

    Falling scores float64 [P], of equal ones the lower column int64 first; places that no pair takes keep what they
    hold.
    """
    row, column, score = row.contiguous(), column.contiguous(), score.contiguous()
    pairs = address(row), address(column), address(score)
    places = address(values), address(indices)
    task = library.Ranking(*pairs, len(row), *values.shape, *places)
    library.loaded().rank_pairs(ctypes.byref(task))


def as_they_lie(rows: Rows) -> bool:
    """Whether scores are products of the very numbers in memory."""
    plain = rows.data.dtype == torch.float32 and rows.data.device.type == "cpu" and not rows.unit
    # Pages of a mapped file are let go in an order of its own.
    return plain and rows.data.stride(1) == 1 and not rows.mapped


def dots(left: Tensor, right: Tensor, left_row: Tensor, right_row: Tensor, width: int, isa: int) -> Tensor:
    """Float64 [P] products of float32 rows, summed `width` numbers side by side."""
    left_row, right_row = left_row.contiguous(), right_row.contiguous()
    scores = torch.empty(len(left_row), dtype=torch.float64, device="cpu")

    rows = address(left), address(right), left.stride(0), right.stride(0)

    def some(start: int, stop: int) -> None:
        numbers = address(left_row, start), address(right_row, start)
        task = library.Exact(*rows, *numbers, stop - start, left.shape[1], address(scores, start))
        library.loaded().exact_scores(isa, width, ctypes.byref(task))

    size = max(LEAST_TASK, -(-len(scores) // torch.get_num_threads()))
    spans = [(at, min(len(scores), at + size)) for at in range(0, len(scores), size)]
    in_threads([partial(some, *span) for span in spans])
    return scores


@lru_cache
def torch_width(dim: int, isa: int) -> int:
    """The width of torch's sums of `dim` products; 0 where torch sums in a way that the extension does not know."""
    generator = torch.Generator(device="cpu").manual_seed(dim)
    # Of many sizes, so that another order gives other bits.
    left, right = (
        torch.randn(TRIED, dim, generator=generator, dtype=torch.float32, device="cpu").pow(3) for _ in range(2)
    )
    each = torch.arange(TRIED, dtype=torch.int64, device="cpu")
    torchs = sampled_dots(left.double(), torch.ones_like(each), right.double(), each)
    for width in WIDTHS:
        if torch.equal(dots(left, right, each, each, width, isa), torchs):
            return width
    log.info("torch adds up %d products in an order that the extension does not know: torch scores pairs itself", dim)
    return 0
