"""Screening copies of rows, and the rigorous bound on what a screening score can be wrong by.

For any two centres c (queries) and m (bank), with q' = q - c and x' = x - m,

    q.x = q'.x' + c.x' + q'.m + c.m.

The last term is one constant. c.x' is one number per bank row and q'.m one per query. On a CPU each is carried in two
extra low-precision columns (high and low part) against columns of ones, so one matrix product yields the whole centred
score; on a GPU the sum begins at them, in float32.
One-way search drops q'.m as well, a constant per query that cannot change its ranking. XLM-R vectors share a large
mean, which is why screening the raw vectors fails (recall 0.35) and screening the centred ones works.

Bound. Write Q, X for the stored low-precision q', x', and u for the unit roundoff of the score's dtype. Then

    |score - exact| <= |q'-Q| |X| + |q'| |x'-X|                                   storing (Cauchy-Schwarz)
                     + g (|Q| |X| + 1.01 shifts) + 2^-16 shifts                    accumulating; splitting shifts (CPU)
                     + 3 g (|c| |x'| + |m| |q'|)                                   computing the shifts themselves
                     + tiny                                                        flushed denormals
    |stored score - score| <= u |score|                                            rounding the product's output

On a CPU g = 2 (D + 4) 2^-24 >= gamma_n of any summation order with two roundings a term (Higham, Accuracy and Stability
of Numerical Algorithms, 2nd ed., section 3.1; AMX and VDPBF16PS round twice a pair). Tensor cores follow another rule:
a block of n products and the accumulator are aligned to the largest and cut to 23 + e bits, which loses at most
((n + 1) 2^-e + 1) 2^-23 of the absolute sum a block (Fasi, Higham, Mikaitis and Pranesh, Numerical behavior of NVIDIA
tensor cores, PeerJ CS 2021). That is 1.4 D 2^-24 on sm_80 (n 8, e 1) and 0.7 D 2^-24 on sm_90 (n 16, e 2), within
g = 2; the worst of any n >= 4 and e >= 0 is 3, which architectures without a published measurement take.

A GPU may store each side scaled by a power of two, which float16 needs: it is the rows times that power which are then
searched, and every number above is of them.

The norms of the rounding errors q'-Q and x'-X are measured, not estimated. Every norm is computed in float32: its
relative error of at most D 2^-24 is covered by the factor SAFETY, and numbers so small that their squares underflow, by
UNDERFLOW sqrt(D) added to each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from stilts_kernels.common.rows import MAX_NORM, Rows

EXTRA_COLUMNS = 4
SAFETY = 1.001
UNDERFLOW = 2.0**-63  # squares of smaller numbers may be flushed to zero
# Of g, in units of D 2^-24, by compute capability; a CPU's is the first.
CPU_ROUNDINGS, UNMEASURED_ROUNDINGS = 2.0, 3.0
TENSOR_CORE_ROUNDINGS = {(8, 0): 2.0, (9, 0): 2.0}
SPLIT = 2.0**-16  # what two bfloat16 parts of a shift can miss, relative
FLOAT32_ROUNDOFF = 2.0**-24
SMALLEST_NORMAL = 2.0**-126
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: FLOAT32_ROUNDOFF}
ROWS_PER_STEP = 128  # float32 scratch of 128 x 1024 stays in a core's second-level cache
GPU_ROWS_PER_STEP = 1 << 15  # launches cost more than scratch there


@dataclass
class Panel:
    """Screening copy of rows start .. start + len in the screen's dtype, the rest float32 [n].

    Rows are [n, D + 4] on a CPU, the last four columns for the shifts, else [n, C], C being D rounded up to 8.
    """

    start: int
    rows: Tensor
    norm: Tensor  # |X|
    error: Tensor  # |x' - X|
    shift: Tensor  # c.x' (bank) or q'.m (queries)
    centre_norm: float  # length of the other side's centre, the factor of `shift`
    terms: int  # numbers that a score is added up from
    split: float = SPLIT  # what shifts can miss as they are stored, relative
    scale: float = 1.0  # of x' in rows, norm, error and shift, a power of two; the other side's centre is unscaled

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, stop: int) -> Panel:
        """The panel of rows start..stop, counted within this panel; shares memory."""
        cut = slice(start, stop)
        return replace(
            self,
            start=self.start + start,
            rows=self.rows[cut],
            norm=self.norm[cut],
            error=self.error[cut],
            shift=self.shift[cut],
        )


def centre_of(rows: Rows) -> Tensor:
    """Mean [D] of a sample; any centre is correct."""
    return clean_sample(rows).mean(dim=0)


def clean_sample(rows: Rows) -> Tensor:
    """Some of the rows, float32 [n, D]; odd ones are cleared here and reported where they are read."""
    sample = torch.nan_to_num(rows.sample(), 0.0, 0.0, 0.0).clamp(-MAX_NORM, MAX_NORM)
    if rows.unit:
        sample = torch.nn.functional.normalize(sample, dim=1)
    return sample


class PanelMaker:
    """Makes panels of one side of a search.

    `centre` [D] is subtracted from the rows; `other_centre` [D] (or None: shift 0) is the other side's.
    `shift_column` is 0 for the bank and 2 for queries, so that each side's shift meets the other side's ones.
    """

    def __init__(
        self, rows: Rows, centre: Tensor, other_centre: Tensor | None, shift_column: int, dtype: torch.dtype
    ) -> None:
        self.rows, self.centre, self.other_centre = rows, centre, other_centre
        self.shift_column, self.dtype = shift_column, dtype
        self._step = min(GPU_ROWS_PER_STEP if centre.is_cuda else ROWS_PER_STEP, max(1, rows.count))
        self._scratch = torch.empty(2, self._step, rows.dim, dtype=torch.float32, device=centre.device)
        self.underflow = UNDERFLOW * rows.dim**0.5  # what a norm computed in float32 can miss
        self.centre_norm = 0.0
        if other_centre is not None:
            self.centre_norm = float(torch.linalg.vector_norm(other_centre)) + self.underflow

    def __call__(self, start: int, stop: int) -> Panel:
        """The panel of rows start..stop. Raises ValueError on NaN, infinite or oversized rows."""
        count, dim, device = stop - start, self.rows.dim, self.centre.device
        stored = torch.zeros(count, dim + EXTRA_COLUMNS, dtype=self.dtype, device=device)
        norm, error, shift = torch.zeros(3, count, dtype=torch.float32, device=device)
        panel = Panel(start, stored, norm, error, shift, self.centre_norm, dim + EXTRA_COLUMNS)
        panel.rows[:, dim + 2 - self.shift_column : dim + 4 - self.shift_column] = 1
        for first in range(0, count, self._step):
            self._fill(panel.part(first, min(count, first + self._step)))
        self.rows.check_norms(panel.norm, start)
        return panel

    def _fill(self, panel: Panel) -> None:
        """Stores centred rows, their norms, the norms of the rounding errors, and the shifts."""
        dim = self.rows.dim
        centred, widened = self._scratch[0, : len(panel)], self._scratch[1, : len(panel)]
        torch.sub(self.rows.block(panel.start, panel.start + len(panel)), self.centre, out=centred)
        stored = panel.rows[:, :dim]
        stored.copy_(centred)
        widened.copy_(stored)
        torch.linalg.vector_norm(widened, dim=1, out=panel.norm)
        if self.other_centre is not None:
            self._store_shift(panel, torch.mv(centred, self.other_centre))
        torch.linalg.vector_norm(widened.sub_(centred), dim=1, out=panel.error)
        panel.error.add_(panel.norm, alpha=1.01 * FLOAT32_ROUNDOFF).add_(self.underflow)
        panel.norm.add_(self.underflow)

    def _store_shift(self, panel: Panel, shift: Tensor) -> None:
        panel.shift.copy_(shift)
        column = self.rows.dim + self.shift_column
        high = shift.to(self.dtype)
        panel.rows[:, column] = high
        panel.rows[:, column + 1] = (shift - high.float()).to(self.dtype)


@lru_cache
def accumulation_roundings(device: torch.device) -> float:
    """What adding up D products on `device` loses at most, in units of D 2^-24 of their absolute sum (g above)."""
    if device.type != "cuda":
        return CPU_ROUNDINGS
    return TENSOR_CORE_ROUNDINGS.get(torch.cuda.get_device_capability(device), UNMEASURED_ROUNDINGS)


def score_error(panel: Panel, opposite: Panel) -> Tensor:
    """Bound [n] on |score - exact| of each row of `panel` against every row of `opposite` (see the module)."""
    # The largest norm, error and shift of the other side hold for every pair of a row.
    largest_norm, largest_error = opposite.norm.max(), opposite.error.max()
    # A shift is the product of a scaled row with an unscaled centre: it lacks the other side's scale.
    shifts = panel.shift.abs() * opposite.scale + opposite.shift.abs().max() * panel.scale
    gamma = accumulation_roundings(panel.rows.device) * panel.terms * FLOAT32_ROUNDOFF
    length = panel.norm + panel.error  # at least |q'|, which was not stored
    storing = panel.error * largest_norm + length * largest_error
    accumulating = gamma * (panel.norm * largest_norm + 1.01 * shifts) + panel.split * shifts
    centre_norm, opposite_norm = panel.centre_norm * opposite.scale, opposite.centre_norm * panel.scale
    shifting = 3 * gamma * (centre_norm * length + opposite_norm * (largest_norm + largest_error))
    tiny = 4 * panel.terms * SMALLEST_NORMAL * (1 + length + largest_norm)
    return SAFETY * (storing + accumulating + shifting) + tiny
