"""Dropout on a CPU: lanes of integers, in blocks that stay in the cache.

torch draws a mask on CPUs element by element from one generator. Here two elements come from a 32-bit word by ten
vectorised integer operations, and none waits for another. A block's words are never written to memory; what is, for
the backward pass, is a byte an element.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stilts_kernels.dropout.hashing import LANES, WORD_1, WORD_2, plane_words, scale_of, signed

BLOCK = 1 << 17  # elements of a block for each thread: its words and one factor an element fit into a core's cache


def dropout_cpu(x: Tensor, keys: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Planes x [K, height, width] with `keys` int64 [K]: (the planes after dropout, kept int8 of the same shape)."""
    _, height, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    kept = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    low, high = keys.view(torch.int32).view(-1, 2, 1).split(1, dim=1)  # little-endian, as CPUs that torch runs on
    step = planes_of_block(x)
    places = plane_words(height, width, x.device).view(1, 1, -1)
    words = torch.empty(min(step, len(x)), 1, places.numel(), dtype=torch.int32, device=x.device)
    shifted = torch.empty_like(words)
    # A view, not a copy: the halves of a word lie side by side in memory, as the lanes of two neighbours do.
    bits = words.view(torch.int16).view(len(words), height, -1)[:, :, :width]
    flags = torch.empty(bits.shape, dtype=torch.int16, device=x.device)
    factor = torch.empty(bits.shape, dtype=x.dtype, device=x.device)
    for start in range(0, len(x), step):
        stop = min(start + step, len(x))
        size = stop - start
        hash_words(low[start:stop], high[start:stop], places, words[:size], shifted[:size])
        # Moved by half of the range, since int16 is signed.
        torch.ge(bits[:size], threshold - LANES // 2, out=flags[:size])
        kept[start:stop].copy_(flags[:size])
        _apply(x[start:stop], kept[start:stop], scale_of(threshold), factor[:size], out[start:stop])
    return out, kept


def hash_words(low: Tensor, high: Tensor, places: Tensor, words: Tensor, shifted: Tensor) -> None:
    """Fill `words` int32 [n, 1, W] from the keys' halves [n, 1, 1] and the places' words [1, 1, W]; `shifted` is
    scratch."""
    torch.bitwise_xor(low, places, out=words)
    words.mul_(WORD_1)
    torch.bitwise_right_shift(words, 15, out=shifted)
    # An arithmetic shift fills up with the sign, which the mask cuts off.
    words.bitwise_xor_(shifted.bitwise_and_((1 << 17) - 1))
    words.add_(high)
    words.mul_(signed(WORD_2, 32))
    torch.bitwise_right_shift(words, 16, out=shifted)
    words.bitwise_xor_(shifted.bitwise_and_((1 << 16) - 1))


def apply_kept(x: Tensor, kept: Tensor, threshold: int) -> Tensor:
    """`x` where kept and scaled, zero elsewhere: what the backward pass does to a gradient."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    step = planes_of_block(x)
    factor = torch.empty(min(step, len(x)), *x.shape[1:], dtype=x.dtype, device=x.device)
    for start in range(0, len(x), step):
        planes = slice(start, min(start + step, len(x)))
        size = planes.stop - start
        _apply(x[planes], kept[planes], scale_of(threshold), factor[:size], out[planes])
    return out


def _apply(x: Tensor, kept: Tensor, scale: float, factor: Tensor, out: Tensor) -> None:
    """Multiply by a factor of 0 or 1, which is exact, then by the scale. torch's `where`, and products with bool, are
    not vectorised."""
    factor.copy_(kept)
    torch.mul(x, factor, out=out).mul_(scale)


def planes_of_block(x: Tensor) -> int:
    return max(1, BLOCK * torch.get_num_threads() // max(1, x[0].numel()))
