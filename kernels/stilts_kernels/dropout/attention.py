"""Attention over packed rows with dropout on a GPU: one fused kernel forward, two backward, no matrix in memory."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from stilts_kernels.dropout.attention_kernel import forward_kernel, key_gradient_kernel, query_gradient_kernel
from stilts_kernels.dropout.hashing import LANES, plane_words, scale_of, threshold_of

# Queries and keys of a program. Masks take registers beside the scores: larger tiles spill (bench/compile_check.py).
LARGE_HEAD = 64
TILE = {"BM": 32, "BN": 32, "num_warps": 4}
HALF_TILE = {"BM": 64, "BN": 32, "num_warps": 8}


def tile_of(dtype: torch.dtype, size: int) -> dict[str, int]:
    """The kernels' constants for heads of `size`: that of a program's vectors is a power of two, as dots need."""
    tile = TILE if dtype == torch.float32 or size > LARGE_HEAD else HALF_TILE
    return {**tile, "BD": max(16, triton.next_power_of_2(size))}


def fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    offsets: Tensor,
    longest: int,
    keys: Tensor,
    site: int,
    rate: float,
    scale: float | None,
) -> Tensor:
    """Attention inside rows with dropout of its probabilities: query, key, value [T, h, d] to [T, h, d].

    Row b is the tokens offsets[b] to offsets[b + 1] (int64 [B + 1]), at most `longest` of them. Probability (i, j) of a
    row and head is dropped as `function.dropout` drops element (i, j) of a plane with the same of `keys` [B, h].
    """
    # The default of scaled dot-product attention: 1 / sqrt(d).
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    settings = AttentionSettings(longest, site, threshold_of(rate), scale)
    return FusedAttention.apply(query.contiguous(), key.contiguous(), value.contiguous(), offsets, keys, settings)


class AttentionSettings:
    """What the kernels of one call take beside tensors."""

    def __init__(self, longest: int, site: int, threshold: int, scale: float) -> None:
        self.longest, self.site, self.threshold, self.scale = longest, site, threshold, scale

    def numbers(self, query: Tensor, words: Tensor) -> tuple[Any, ...]:
        _, heads, size = query.shape
        least = self.threshold - LANES // 2
        return heads, size, words.shape[1], self.site, least, self.scale, scale_of(self.threshold)

    def words(self, device: torch.device) -> Tensor:
        """The words of the smallest power of two of positions: few tables, whatever the batches' lengths."""
        side = triton.next_power_of_2(self.longest)
        return plane_words(side, side, device)

    def grid(self, block: int, keys: Tensor) -> tuple[int, int]:
        """Programs of `block` queries or keys, for each row and head."""
        return triton.cdiv(self.longest, block), keys.numel()


class FusedAttention(torch.autograd.Function):
    """Saves inputs, output and a number for each query and head."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        offsets: Tensor,
        keys: Tensor,
        settings: AttentionSettings,
    ) -> Tensor:
        out = torch.empty_like(query)
        # float32 also for 16-bit inputs: all probabilities of a row are made again from it, and share its error.
        logs = torch.empty(query.shape[:2], dtype=torch.float32, device=query.device)
        words = settings.words(query.device)
        numbers, tile = settings.numbers(query, words), tile_of(query.dtype, query.shape[2])
        forward_kernel[settings.grid(tile["BM"], keys)](
            query, key, value, out, logs, offsets, keys, words, *numbers, **tile
        )
        context.save_for_backward(query, key, value, out, logs, offsets, keys)
        context.settings = settings
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, logs, offsets, keys = context.saved_tensors
        settings, gradient = context.settings, gradient.contiguous()
        # The sum of a query's gradients times probabilities, in which dropout cancels out.
        deltas = (gradient.float() * out.float()).sum(-1)
        # Each is written whole by its kernel, without atomics: gradients do not depend on the order of programs.
        dq, dk, dv = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        words = settings.words(query.device)
        numbers, tile = settings.numbers(query, words), tile_of(query.dtype, query.shape[2])
        inputs = query, key, value, gradient, logs, deltas
        query_gradient_kernel[settings.grid(tile["BM"], keys)](*inputs, dq, offsets, keys, words, *numbers, **tile)
        key_gradient_kernel[settings.grid(tile["BN"], keys)](*inputs, dk, dv, offsets, keys, words, *numbers, **tile)
        return dq, dk, dv, None, None, None
