"""The masks in plain torch: what the CPU path and the kernel must equal, to the bit."""

from __future__ import annotations

import torch
from torch import Tensor

from stilts_kernels.dropout.hashing import LANES, WORD_1, WORD_2, plane_words, scale_of, threshold_of

LOW = 0xFFFFFFFF


def lanes(keys: Tensor, height: int, width: int) -> Tensor:
    """The 16 bits of each element of planes with `keys` [K]: int64 in 0..65535, [K, height, width].

    A word of 32 bits mixes the key's two halves with the word of its place in the plane; its halves are the bits of two
    neighbours in a row.
    """
    low, high = (keys & LOW)[:, None, None], ((keys >> 32) & LOW)[:, None, None]
    # int64 holds 32 unsigned bits with room for a carry; each step cuts it off again.
    word = low ^ (plane_words(height, width, keys.device).long() & LOW)
    word = word * WORD_1 & LOW
    word = ((word ^ (word >> 15)) + high) & LOW
    word = word * WORD_2 & LOW
    word = word ^ (word >> 16)
    pairs = torch.stack([word & (LANES - 1), word >> 16], dim=3)
    return pairs.flatten(2)[:, :, :width]


def keep_mask(keys: Tensor, height: int, width: int, rate: float) -> Tensor:
    """Which elements stay: bool [K, height, width]. Bits are compared as signed numbers, as lanes of int16 are."""
    bits = lanes(keys, height, width)
    # The kernels compare signed lanes, for which CPUs have an instruction; the threshold is moved along by half.
    as_signed = bits - LANES * (bits >= LANES // 2)
    return as_signed >= threshold_of(rate) - LANES // 2


def dropout_reference(x: Tensor, keys: Tensor, rate: float) -> Tensor:
    """`x` [K, height, width] with elements set to zero, the others scaled."""
    kept = keep_mask(keys, x.shape[1], x.shape[2], rate)
    return torch.where(kept, x * scale_of(threshold_of(rate)), torch.zeros_like(x))
