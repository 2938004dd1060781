"""The hash behind the masks: 64-bit keys that take in one index after the other, and 16 bits for each element.

A key starts from a seed and is folded with the step, the example, the site, the position: each index moves SplitMix64's
counter from the key, and its finaliser mixes the 64 bits (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014; the constants are David Stafford's variant 13). A key then gives each element of its plane 16
bits, two neighbours from one 32-bit word (`reference.lanes`). Counters in place of a generator's state are those
of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

All arithmetic is that of unsigned integers modulo 2^64 or 2^32. Torch has signed ones: products and sums have the same
bits, and a logical shift is an arithmetic one whose copies of the sign are cut off.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15  # SplitMix64's increment: 2^64 over the golden ratio, odd
MIX_1, MIX_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
# A word's two odd factors and shifts are those of Chris Wellons' 32-bit integer hash of lowest bias.
WORD_1, WORD_2 = 0x7FEB352D, 0x846CA68B
LANES = 1 << 16  # values of an element's 16 bits


def signed(value: int, bits: int) -> int:
    """The number that a signed integer of `bits` bits holds with the bits of `value`."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def shift_right(values: Tensor, count: int) -> Tensor:
    """Logical shift of int64."""
    return (values >> count) & ((1 << (64 - count)) - 1)


def mix(values: Tensor) -> Tensor:
    """SplitMix64's finaliser: a bijection of int64 under which each input bit changes half of the output bits."""
    values = (values ^ shift_right(values, 30)) * signed(MIX_1, 64)
    values = (values ^ shift_right(values, 27)) * signed(MIX_2, 64)
    return values ^ shift_right(values, 31)


def fold(keys: Tensor, index: Tensor | int) -> Tensor:
    """Keys that have taken in a further index (0 and above); `keys` int64 and `index` are broadcast."""
    if isinstance(index, int):
        return mix(keys + signed((index + 1) * GOLDEN, 64))
    return mix(keys + (index + 1) * signed(GOLDEN, 64))


def plane_words(height: int, width: int, device: torch.device) -> Tensor:
    """What tells the elements of a plane apart: int32 [height, ceil(width / 2)], one word for two neighbours in a row.

    The elements of a smaller plane have the same words in a larger one, so that planes of many sizes share a table.
    """
    pairs = (width + 1) // 2
    return _table(_power_of_two(height), _power_of_two(pairs), device)[:height, :pairs]


def _power_of_two(size: int) -> int:
    """The smallest that is not below `size`."""
    return 1 << max(0, size - 1).bit_length()


@lru_cache(maxsize=64)
def _table(height: int, pairs: int, device: torch.device) -> Tensor:
    rows = fold(
        torch.zeros((height, 1), dtype=torch.int64, device=device),
        torch.arange(height, dtype=torch.int64, device=device)[:, None],
    )
    words = fold(rows, torch.arange(pairs, dtype=torch.int64, device=device))
    return words.to(torch.int32)  # the low half


def threshold_of(rate: float) -> int:
    """How many of the 65,536 values of an element's bits drop it: `rate` to 16 bits. Raises ValueError outside 0..1."""
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate} is not in 0 <= rate < 1")
    return min(round(rate * LANES), LANES - 1)


def scale_of(threshold: int) -> float:
    """The factor of what is kept. It is exact for the rate that 16 bits give, so that the mean is unchanged."""
    return LANES / (LANES - threshold)
