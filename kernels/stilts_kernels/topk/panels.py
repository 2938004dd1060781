"""Panels of a search on a GPU: which 16-bit format rows are stored in, how they are made, and what is kept of a bank.

Rows that are 16-bit already, on both sides and without scaling to unit length, are multiplied as they are. All others
are centred and rounded to float16, or to bfloat16 where that is asked for. Tensor cores multiply both at one rate, and
float16 keeps three more bits of a number: measured |x' - X| / |x'| 0.00021 against 0.00166, so half as many groups
survive.

What float16 lacks is range, so each side is scaled by a power of two, which changes no digit. It puts the largest
number of a sample between 2^8 and 2^9: 128 times as much still fits, and 2^-22 of it still has all digits. Whatever
lies outside is cut or rounded more, which the kernel measures: the proof holds for any rows. A row that is longer than
the others by so much would void the bound of bfloat16 as well, which counts 2^-9 of the longest row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.bounds import EXTRA_COLUMNS, FLOAT32_ROUNDOFF, UNDERFLOW, Panel, centre_of, clean_sample
from stilts_kernels.topk.panel_kernel import measure_rows

LARGEST_EXPONENT = 9  # of the sample's largest number in float16, whose own is 15
CENTRE_EXPONENT = 50  # a centre is at most 2^50 of the largest centred number times it, so that shifts stay finite


class KernelPanelMaker:
    """Makes panels of one side of a search by one kernel, as `bounds.PanelMaker` does on a CPU.

    `centre` [D] (or None: rows as they are) is subtracted from the rows; `other_centre` [D] (or None: shift 0) is the
    other side's. `scale` is a power of two.
    """

    def __init__(
        self, rows: Rows, centre: Tensor | None, other_centre: Tensor | None, dtype: torch.dtype, scale: float = 1.0
    ) -> None:
        self.rows, self.centre, self.other_centre, self.dtype, self.scale = rows, centre, other_centre, dtype, scale
        self.underflow = UNDERFLOW * rows.dim**0.5  # what a norm computed in float32 can miss
        self.centre_norm = 0.0
        if other_centre is not None:
            self.centre_norm = float(torch.linalg.vector_norm(other_centre)) + self.underflow

    def __call__(self, start: int, stop: int) -> Panel:
        """The panel of rows start..stop. Raises ValueError on NaN, infinite or oversized rows."""
        rows = self.rows.part(start, stop)
        stored, (norm, error, size, shift) = measure_rows(rows, self.centre, self.other_centre, self.dtype, self.scale)
        self.rows.check_norms(size, start)
        # Of |x'|, not of |X|, which is less where numbers were cut.
        error.add_(size, alpha=1.01 * FLOAT32_ROUNDOFF * self.scale).add_(self.underflow)
        norm.add_(self.underflow)
        terms = self.rows.dim + EXTRA_COLUMNS
        return Panel(start, stored, norm, error, shift, self.centre_norm, terms, split=0.0, scale=self.scale)


class BankPanels:
    """A bank [N, D] with its centre and, once `keep` was called, its panels: 2 D + 16 bytes a row (D rounded up to 8),
    or 16 where the bank's own rows are multiplied.

    `queries` settle what the bank alone leaves open: without them they will be centred at the bank's mean. `screen` is
    the format of rows that cannot be multiplied as they are, float16 or bfloat16.
    """

    def __init__(self, bank: Rows, queries: Rows | None = None, screen: torch.dtype = torch.float16) -> None:
        self.rows = bank.measured()
        dtype = bank.data.dtype
        # 16-bit rows are multiplied as they are, where queries may be, too.
        self.exact = dtype != torch.float32 and not bank.unit and (queries is None or queries.data.dtype == dtype)
        self.kept: list[Panel] = []
        if self.exact:
            self.dtype = dtype
            self.centre = self.query_centre = torch.zeros(bank.dim, dtype=torch.float32, device=bank.data.device)
            self.maker = KernelPanelMaker(self.rows, None, None, self.dtype)
            return
        self.dtype = screen
        sample = clean_sample(bank)
        self.centre = sample.mean(dim=0)
        self.query_centre = self.centre if queries is None else centre_of(queries)
        scale = scale_of(sample - self.centre, self.centre, screen)
        self.maker = KernelPanelMaker(self.rows, self.centre, self.query_centre, self.dtype, scale)

    def describe(self) -> str:
        """How rows are multiplied, for the report."""
        if self.exact:
            return "rows as they are"
        return f"{str(self.dtype).removeprefix('torch.')} screen"

    def keep(self, block: int) -> BankPanels:
        """Makes all panels now, of `block` rows each. Raises ValueError on rows that cannot be read."""
        self.kept = self.kept or list(self.panels(block))
        return self

    def panels(self, block: int) -> Iterator[Panel]:
        """Those that are kept, else each of `block` rows is made when its turn comes and let go."""
        if self.kept:
            yield from self.kept
            return
        for start in range(0, self.rows.count, block):
            yield self.maker(start, min(self.rows.count, start + block))

    def queries_maker(self, queries: Rows, two_way: bool) -> KernelPanelMaker:
        """What makes the queries' panels."""
        if self.exact and queries.data.dtype == self.dtype:
            return KernelPanelMaker(queries, None, None, self.dtype)
        # An index of 16-bit rows meets queries of another format here: they are rounded, and the error is measured.
        scale = scale_of(clean_sample(queries) - self.query_centre, self.query_centre, self.dtype)
        if self.exact:
            return KernelPanelMaker(queries, None, None, self.dtype, scale)
        # One way, a query's own shift is the same for all its scores and cannot change their order.
        opposite = self.centre if two_way else None
        return KernelPanelMaker(queries, self.query_centre, opposite, self.dtype, scale)


def scale_of(centred: Tensor, centre: Tensor, dtype: torch.dtype) -> float:
    """The power of two that a side is stored with, from a sample [n, D] and the centre [D] it was centred at."""
    # bfloat16 has the range of float32.
    if dtype == torch.bfloat16:
        return 1.0
    largest = max(float(centred.abs().max()), float(centre.abs().max()) * 2.0**-CENTRE_EXPONENT)
    # A side of equal rows has nothing to scale.
    if largest == 0.0:
        return 1.0
    exponent = LARGEST_EXPONENT - math.frexp(largest)[1]
    # Within float32, in which rows are scaled.
    return 2.0 ** max(-100, min(100, exponent))
