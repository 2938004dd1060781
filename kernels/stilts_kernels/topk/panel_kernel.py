"""The Triton kernel that makes a screening panel: each number is read once and written once.

A row is divided by its length (cosine), centred, scaled by a power of two and stored in 16 bits; its norms and its
shift are added up on the way. That is 6 bytes of traffic a number for float32 rows, where separate operations of torch
take 54. `bounds.PanelMaker` makes the same panels from such operations; tests compare the two.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.kernel import interpreted
from stilts_kernels.topk.pair_kernel import divisors

PANEL_ROWS, INTERPRETED_ROWS = 4, 512  # of one program
PANEL_DEPTH = 512  # numbers of a row that are held at once


@triton.jit
def panel_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    rows,
    lengths,
    centre,
    opposite,
    out,
    out_norm,
    out_error,
    out_size,
    out_shift,
    count,
    row_stride,
    row_step,
    scale,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    CENTRED: tl.constexpr,
    SHIFTED: tl.constexpr,
    STORED: tl.constexpr,
    LARGEST: tl.constexpr,
    BR: tl.constexpr,
    BD: tl.constexpr,
):
    """out [count, COLUMNS]: X, 16-bit, of the rows x [count, DIM] as scale (x - centre), zero beyond DIM.

    Float32 [count]: out_norm |X|, out_error |scale x' - X|, out_size |x'|, out_shift scale x'.opposite with SHIFTED.
    Without CENTRED x' is x, without STORED only the norms are written. LARGEST is the largest finite number of out.
    """
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    inside = row < count
    norm = tl.zeros([BR, BD], tl.float32)
    error = tl.zeros([BR, BD], tl.float32)
    size = tl.zeros([BR, BD], tl.float32)
    shift = tl.zeros([BR, BD], tl.float32)
    for d in range(0, COLUMNS, BD):
        depth = d + tl.arange(0, BD)
        number = inside[:, None] & (depth[None, :] < DIM)
        x = tl.load(rows + row[:, None] * row_stride + depth[None, :].to(tl.int64) * row_step, mask=number, other=0.0)
        x = x.to(tl.float32)
        if UNIT:
            # Rounded as IEEE division is, since the canonical score divides so.
            x = tl.div_rn(x, tl.load(lengths + row, mask=inside, other=1.0)[:, None])
        if CENTRED:
            x = x - tl.load(centre + depth, mask=depth < DIM, other=0.0)[None, :]
        size += x * x
        scaled = x * scale
        # What the format cannot hold is cut, and the cut is part of the measured error.
        stored = tl.minimum(tl.maximum(scaled, -LARGEST), LARGEST).to(out.dtype.element_ty)
        widened = stored.to(tl.float32)
        norm += widened * widened
        error += (widened - scaled) * (widened - scaled)
        if SHIFTED:
            shift += scaled * tl.load(opposite + depth, mask=depth < DIM, other=0.0)[None, :]
        if STORED:
            tl.store(
                out + row[:, None] * COLUMNS + depth[None, :], stored, mask=inside[:, None] & (depth[None, :] < COLUMNS)
            )
    tl.store(out_norm + row, tl.sqrt_rn(tl.sum(norm, axis=1)), mask=inside)
    tl.store(out_error + row, tl.sqrt_rn(tl.sum(error, axis=1)), mask=inside)
    tl.store(out_size + row, tl.sqrt_rn(tl.sum(size, axis=1)), mask=inside)
    if SHIFTED:
        tl.store(out_shift + row, tl.sum(shift, axis=1), mask=inside)


def measure_rows(
    rows: Rows, centre: Tensor | None, opposite: Tensor | None, dtype: torch.dtype, scale: float
) -> tuple[Tensor, Tensor]:
    """(stored [n, C], measures float32 [4, n]): the panel of all `rows`, C = D rounded up to 8, and its norms |X|,
    errors |scale x' - X|, sizes |x'| and shifts (0 without `opposite` [D]).

    Without a centre, rows of `dtype` are what is stored: where they lie as the search reads them, the tensor itself.
    """
    count, dim = rows.data.shape
    columns = triton.cdiv(dim, 8) * 8
    as_they_are = centre is None and rows.data.dtype == dtype and not rows.unit and scale == 1.0
    store = not (as_they_are and is_aligned(rows.data))
    stored = torch.empty(count, columns, dtype=dtype, device=rows.data.device) if store else rows.data
    measures = torch.zeros(4, count, dtype=torch.float32, device=rows.data.device)
    height = INTERPRETED_ROWS if interpreted() else PANEL_ROWS
    depth = min(PANEL_DEPTH, triton.next_power_of_2(columns))
    sizes = {"DIM": dim, "COLUMNS": columns, "LARGEST": torch.finfo(dtype).max, "BR": height, "BD": depth}
    switches = {"UNIT": rows.unit, "CENTRED": centre is not None, "SHIFTED": opposite is not None, "STORED": store}
    # A kernel takes a pointer for every argument, also for one that it does not read.
    unread = measures[0]
    subtracted = unread if centre is None else centre
    multiplied = unread if opposite is None else opposite
    inputs = (rows.data, divisors(rows), subtracted, multiplied)
    programs = triton.cdiv(count, height)
    panel_kernel[(programs,)](*inputs, stored, *measures, count, *rows.data.stride(), scale, **sizes, **switches)
    return stored, measures


def is_aligned(rows: Tensor) -> bool:
    """Whether 16-bit rows [n, D] lie as tensor descriptors read them: one after the other, each from a multiple of 16
    bytes on."""
    return rows.is_contiguous() and rows.shape[1] % 8 == 0 and rows.data_ptr() % 16 == 0
