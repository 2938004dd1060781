"""Products that really multiply float32, whatever the process has set.

Three common settings make torch round the inputs of a float32 product to 10 or 7 bits: `set_float32_matmul_precision`
("medium", "high"), `torch.backends.*.fp32_precision`, and autocast; oneDNN's variables do the same from outside. The
error bound of `topk.bounds` would then vouch for products that were never made. So every search multiplies a canary
first, by the very calls that it makes itself: 1 + 2^-12, which no shorter format can hold, times 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.products import multiply, pack
from stilts_kernels.common.report import log

CANARY = 1.0 + 2.0**-12  # bfloat16 keeps 8 bits of it, TensorFloat-32 and float16 keep 11: all of them lose the tail
CANARY_ROWS = 64  # a product of 64 x 64 x 64: below 16^3 terms torch never takes the short way


@contextmanager
def exact_float32(dim: int, device: torch.device) -> Iterator[None]:
    """Within it, `multiply` and `torch.mv` of float32 on `device` keep float32, for rows of `dim` numbers.

    Switches off autocast and, where the canary shows the need, torch's own setting, and restores both. Raises
    ValueError where products are rounded all the same, as by a variable of oneDNN.
    """
    with torch.autocast(device.type, enabled=False):
        if keeps_float32(dim, device):
            yield
            return
        # Only where it is needed: the setting belongs to the whole process.
        settings = matmul_settings(device)
        before = settings.fp32_precision
        settings.fp32_precision = "ieee"
        try:
            if not keeps_float32(dim, device):
                raise ValueError(
                    "float32 products are rounded to fewer bits on this machine, so no result could be proven: unset "
                    "DNNL_DEFAULT_FPMATH_MODE and ONEDNN_DEFAULT_FPMATH_MODE, or set them to STRICT"
                )
            log.info("float32 products were rounded to %s here: the search multiplies in full float32", before)
            yield
        finally:
            settings.fp32_precision = before


def matmul_settings(device: torch.device) -> Any:
    """Where torch keeps the precision of float32 products on this kind of device."""
    if device.type == "cuda":
        return torch.backends.cuda.matmul
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def keeps_float32(dim: int, device: torch.device) -> bool:
    """Whether the canary survives the calls that a search makes."""
    # Of the search's own depth, since libraries choose their way by the shape.
    width = max(dim, CANARY_ROWS)
    left = torch.zeros(CANARY_ROWS, width, dtype=torch.float32, device=device)
    left[:, 0] = CANARY
    right = torch.zeros_like(left)
    right[:, 0] = 1.0
    scores = torch.empty(CANARY_ROWS, CANARY_ROWS, dtype=torch.float32, device=device)
    multiply(left, right, scores)
    shift = torch.mv(left, right[0])
    return is_canary(scores) and is_canary(shift) and is_canary(multiply(left, pack(right)))


def is_canary(product: Tensor) -> bool:
    return bool((product == CANARY).all())
