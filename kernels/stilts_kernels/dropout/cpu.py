"""Dropout on a CPU: lanes of integers, in blocks that stay in the cache.

torch draws a mask on CPUs element by element from one generator. Here two elements come from a 32-bit word by ten
vectorised integer operations, and none waits for another. A block's words are never written to memory; what is, for
the backward pass, is a byte an element. Small groups of planes share a block: rows of a batch have many lengths, and
what a call of torch costs by itself is more than its work on a short row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from stilts_kernels.dropout.hashing import LANES, WORD_1, WORD_2, plane_words, scale_of, signed

BLOCK = 1 << 17  # elements of a block for each thread: its words and one factor an element fit into a core's cache


class Planes(NamedTuple):
    """Planes of one size: `keys` int64 [K]."""

    keys: Tensor
    height: int
    width: int

    @property
    def number(self) -> int:
        return self.keys.shape[0]

    @property
    def row_words(self) -> int:
        """32-bit words of a row, one for two elements."""
        return (self.width + 1) // 2

    @property
    def words(self) -> int:
        """32-bit words of a plane."""
        return self.height * self.row_words


class Part(NamedTuple):
    """Neighbouring planes of a group, from `start` up to `stop`."""

    group: int
    start: int
    stop: int


def dropout_cpu(x: Tensor, keys: Tensor, threshold: int) -> tuple[Tensor, Tensor]:
    """Planes x [K, height, width] with `keys` int64 [K]: (the planes after dropout, kept int8 of the same shape)."""
    groups, out = [Planes(keys, *x.shape[1:])], torch.empty(x.shape, dtype=x.dtype, device=x.device)
    (kept,) = empty_masks(groups)
    factor = None
    for ((_, start, stop),) in fill(groups, [kept], threshold):
        if factor is None:  # the first block is the largest
            factor = torch.empty(stop - start, *x.shape[1:], dtype=x.dtype, device=x.device)
        # What is kept lies in the cache still.
        _apply(x[start:stop], kept[start:stop], scale_of(threshold), factor[: stop - start], out[start:stop])
    return out, kept


def kept_of(groups: Sequence[Planes], threshold: int) -> list[Tensor]:
    """Which elements stay, int8 [K, height, width] for each group of planes on a CPU."""
    kept = empty_masks(groups)
    for _ in fill(groups, kept, threshold):
        pass
    return kept


def empty_masks(groups: Sequence[Planes]) -> list[Tensor]:
    return [torch.empty(len(keys), *size, dtype=torch.int8, device=keys.device) for keys, *size in groups]


def fill(groups: Sequence[Planes], kept: Sequence[Tensor], threshold: int) -> Iterator[list[Part]]:
    """Fill `kept` with the masks of the groups, block by block; yields each block that is done."""
    device = groups[0].keys.device
    # Little-endian, as CPUs that torch runs on.
    halves = [planes.keys.view(torch.int32).view(-1, 2, 1) for planes in groups]
    low, high = [half[:, :1] for half in halves], [half[:, 1:] for half in halves]
    places = [plane_words(height, width, device) for _, height, width in groups]
    most = max(BLOCK * torch.get_num_threads() // 2, *(planes.words for planes in groups))
    most = min(most, sum(planes.number * planes.words for planes in groups))
    words = torch.empty(most, dtype=torch.int32, device=device)
    shifted = torch.empty_like(words)
    flags = torch.empty(2 * most, dtype=torch.int16, device=device)
    for block in blocks_of(groups, most):
        # Each part's words, one part after the other: as [planes, height, words of a row], and as flags of elements.
        filled, views, lanes = 0, [], []
        for group, start, stop in block:
            planes, end = groups[group], filled + (stop - start) * groups[group].words
            views.append(words[filled:end].view(-1, planes.height, planes.row_words))
            lanes.append(flags[2 * filled : 2 * end].view(-1, planes.height, 2 * planes.row_words))
            torch.bitwise_xor(low[group][start:stop], places[group], out=views[-1])
            filled = end
        hash_words(words[:filled], shifted[:filled], views, [high[group][start:stop] for group, start, stop in block])
        # A view, not a copy: the halves of a word lie side by side in memory, as the lanes of two neighbours do. Moved
        # by half of the range, since int16 is signed.
        torch.ge(words[:filled].view(torch.int16), threshold - LANES // 2, out=flags[: 2 * filled])
        for (group, start, stop), of_part in zip(block, lanes):
            kept[group][start:stop].copy_(of_part[:, :, : groups[group].width])
        yield block


def blocks_of(groups: Sequence[Planes], most: int) -> Iterator[list[Part]]:
    """All planes in order, in blocks of at most `most` words, which hold any single plane."""
    block: list[Part] = []
    room = most
    for number, planes in enumerate(groups):
        start, size = 0, planes.words
        while start < planes.number:
            fits = room // size
            if not fits:
                yield block
                block, room = [], most
                continue
            stop = min(planes.number, start + fits)
            block.append(Part(number, start, stop))
            room -= (stop - start) * size
            start = stop
    if block:
        yield block


def hash_words(words: Tensor, shifted: Tensor, views: Sequence[Tensor], high: Sequence[Tensor]) -> None:
    """Hash `words` int32 in place, which hold the places' words mixed with the low halves of keys; `shifted` is
    scratch. `views` [n, height, words of a row] divide `words`; `high` [n, 1, 1] are the high halves of their keys."""
    words.mul_(WORD_1)
    torch.bitwise_right_shift(words, 15, out=shifted)
    # An arithmetic shift fills up with the sign, which the mask cuts off.
    words.bitwise_xor_(shifted.bitwise_and_((1 << 17) - 1))
    for view, half in zip(views, high):
        view.add_(half)
    words.mul_(signed(WORD_2, 32))
    torch.bitwise_right_shift(words, 16, out=shifted)
    words.bitwise_xor_(shifted.bitwise_and_((1 << 16) - 1))


def apply_kept(x: Tensor, kept: Tensor, threshold: int) -> Tensor:
    """`x` [K, height, width] where kept and scaled, zero elsewhere: what the backward pass does to a gradient, and
    dropout by a mask that was drawn before."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    step = max(1, BLOCK * torch.get_num_threads() // max(1, x.shape[1] * x.shape[2]))
    factor = torch.empty(min(step, len(x)), *x.shape[1:], dtype=x.dtype, device=x.device)
    for start in range(0, len(x), step):
        planes = slice(start, min(start + step, len(x)))
        _apply(x[planes], kept[planes], scale_of(threshold), factor[: planes.stop - start], out[planes])
    return out


def _apply(x: Tensor, kept: Tensor, scale: float, factor: Tensor, out: Tensor) -> None:
    """Multiply by a factor of 0 or 1, which is exact, then by the scale. torch's `where`, and products with bool, are
    not vectorised. `factor` is scratch of the same shape."""
    factor.copy_(kept)
    torch.mul(x, factor, out=out).mul_(scale)
