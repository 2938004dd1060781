"""The Triton kernel of dropout: hashes, masks and scales in one pass over the elements; no mask is in memory.

A program owns a tile of planes and elements. It reads the words of its places, which all planes share, and makes the
planes' keys and the masks in registers: there is no memory traffic beyond the tensor's own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from stilts_kernels.dropout.hashing import GOLDEN, LANES, MIX_1, MIX_2, WORD_1, WORD_2, plane_words, scale_of

STEP = tl.constexpr(GOLDEN)
FACTOR_1, FACTOR_2 = tl.constexpr(MIX_1), tl.constexpr(MIX_2)
ODD_1, ODD_2 = tl.constexpr(WORD_1), tl.constexpr(WORD_2)
BLOCK_PLANES, BLOCK_ELEMENTS = 4, 256


@triton.jit
def mix_key(key: tl.tensor) -> tl.tensor:
    """`hashing.mix` of uint64."""
    key = (key ^ (key >> 30)) * tl.full([1], FACTOR_1, tl.uint64)
    key = (key ^ (key >> 27)) * tl.full([1], FACTOR_2, tl.uint64)
    return key ^ (key >> 31)


@triton.jit
def fold_key(key: tl.tensor, index: tl.tensor) -> tl.tensor:
    """`hashing.fold` of uint64."""
    return mix_key(key + (index.to(tl.uint64) + 1) * tl.full([1], STEP, tl.uint64))


@triton.jit
def keep(key: tl.tensor, word: tl.tensor, column: tl.tensor, least: tl.tensor) -> tl.tensor:
    """Which elements stay, of planes with uint64 `key`, at places of uint32 `word` (`hashing.plane_words`) whose column
    says which half of the bits is theirs. All are broadcast (`reference.keep_mask`)."""
    bits = (key.to(tl.uint32) ^ word) * tl.full([1], ODD_1, tl.uint32)
    bits = (bits ^ (bits >> 15)) + (key >> 32).to(tl.uint32)
    bits = bits * tl.full([1], ODD_2, tl.uint32)
    bits = bits ^ (bits >> 16)
    # The lane's 16 bits go to the top, and come back with their sign.
    lane = (bits << (16 - 16 * (column & 1)).to(tl.uint32)).to(tl.int32, bitcast=True) >> 16
    return lane >= least


@triton.jit(do_not_specialize=["planes", "elements", "width", "site", "least"])
def dropout_kernel(
    x: tl.tensor,
    keys: tl.tensor,
    words: tl.tensor,
    out: tl.tensor,
    planes: tl.tensor,
    elements: tl.tensor,
    width: tl.tensor,
    site: tl.tensor,
    least: tl.tensor,
    scale: tl.tensor,
    BP: tl.constexpr,
    BE: tl.constexpr,
) -> None:
    """Tile (planes, elements of a plane) of contiguous planes: out = x * scale where kept, else 0."""
    plane = tl.program_id(0) * BP + tl.arange(0, BP)
    element = tl.program_id(1) * BE + tl.arange(0, BE)
    key = tl.load(keys + plane, mask=plane < planes, other=0).to(tl.uint64, bitcast=True)
    # The site is folded here, so that all layers of a model share one table of keys.
    key = fold_key(key, tl.full([1], 0, tl.uint64) + site)
    row, column = element // width, element % width
    word = tl.load(words + row * ((width + 1) // 2) + column // 2, mask=element < elements, other=0)
    kept = keep(key[:, None], word.to(tl.uint32, bitcast=True)[None, :], column[None, :], least)
    position = plane.to(tl.int64)[:, None] * elements + element[None, :]
    inside = (plane < planes)[:, None] & (element < elements)[None, :]
    value = tl.load(x + position, mask=inside, other=0.0).to(tl.float32) * scale
    tl.store(out + position, tl.where(kept, value, 0.0).to(out.dtype.element_ty), mask=inside)


def launch(x: Tensor, keys: Tensor, site: int, threshold: int) -> Tensor:
    """Dropout of planes x [K, height, width] with `keys` int64 [K], contiguous."""
    # A program counts elements by themselves and knows no strides.
    x = x.contiguous()
    out = torch.empty_like(x)
    planes, height, width = x.shape
    # As many elements as a row of channels has, so that few lanes idle; a tile always has 1,024.
    block = min(1024, max(BLOCK_ELEMENTS, triton.next_power_of_2(height * width)))
    tile = {"BP": max(1, BLOCK_PLANES * BLOCK_ELEMENTS // block), "BE": block}
    grid = triton.cdiv(planes, tile["BP"]), triton.cdiv(height * width, tile["BE"])
    least = threshold - LANES // 2
    words = plane_words(height, width, x.device).contiguous()  # of a larger table
    dropout_kernel[grid](x, keys, words, out, planes, height * width, width, site, least, scale_of(threshold), **tile)
    return out
