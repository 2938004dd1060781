"""Attention over packed rows: sequences stand one after the other, without padding, and do not see each other.

Legend: T tokens of all rows, B rows, h heads, d size of a head.

On CPUs rows of equal length are attended to together. On GPUs torch's nested tensors choose a variable-length kernel
(FlashAttention for half precision, memory-efficient attention for float32). With dropout neither takes masks that
depend on the example: there it is our own attention, step by step on a CPU and in Triton kernels on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stilts_ds.model.masks import Masks, attend

NAME = "stilts_packed"  # under which transformers finds it


@dataclass(frozen=True)
class Packing:
    """Where rows stand among the T tokens: `lengths` [B] on the host, `offsets` [B + 1] on the device; in training also
    what draws the masks of their attention."""

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    masks: Masks | None = None

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """(rows, length) of neighbouring rows of one length, in order."""
        return [(len(list(same)), length) for length, same in groupby(self.lengths)]


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: query, key, value [1, h, T, d] to ([1, T, h, d], no weights).

    Raises ValueError without `packing`: there is no mask that could tell rows apart.
    """
    if packing is None:
        raise ValueError("packed attention needs to know where rows begin; call the model through MultiTask")
    q, k, v = (each[0].transpose(0, 1) for each in (query, key, value))
    if dropout and packing.masks is not None:
        attend_masked = fused_attention if query.is_cuda else masked_attention
        return attend_masked(q, k, v, packing, dropout, scaling)[None], None
    attend_rows = nested_attention if query.is_cuda else grouped_attention
    return attend_rows(q, k, v, packing, dropout, scaling)[None], None


def grouped_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, dropout: float, scaling: float | None
) -> torch.Tensor:
    """[T, h, d] each to [T, h, d]: one call for each run of equal lengths. No call has a mask."""
    sizes = [rows * length for rows, length in packing.runs]
    parts = []
    for (rows, length), *qkv in zip(packing.runs, *(each.split(sizes) for each in (query, key, value))):
        q, k, v = (part.reshape(rows, length, *part.shape[1:]).transpose(1, 2) for part in qkv)
        seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
        parts.append(seen.transpose(1, 2).reshape(rows * length, *query.shape[1:]))
    return torch.cat(parts)


def masked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, dropout: float, scaling: float | None
) -> torch.Tensor:
    """The same with dropout whose masks are those of `packing`: no call of torch's takes masks, so that probabilities
    are written to memory, as torch itself does on CPUs where there is dropout."""
    assert packing.masks is not None
    keys, site = packing.masks.attention_sites(query.shape[1])
    sizes = [rows * length for rows, length in packing.runs]
    keys_of_runs = keys.split([rows for rows, _ in packing.runs])
    parts = []
    for (rows, length), keys_of_run, *qkv in zip(
        packing.runs, keys_of_runs, *(each.split(sizes) for each in (query, key, value))
    ):
        q, k, v = (part.reshape(rows, length, *part.shape[1:]).transpose(1, 2) for part in qkv)
        seen = attend(q, k, v, keys_of_run.flatten(), site, dropout, scaling)
        parts.append(seen.transpose(1, 2).reshape(rows * length, *query.shape[1:]))
    return torch.cat(parts)


def fused_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, dropout: float, scaling: float | None
) -> torch.Tensor:
    """The same on a GPU, in kernels that hash the masks where they need them."""
    from stilts_kernels.dropout import attention  # triton: only where there is a GPU

    assert packing.masks is not None
    keys, site = packing.masks.attention_sites(query.shape[1])
    return attention.fused_attention(
        query, key, value, packing.offsets, max(packing.lengths), keys, site, dropout, scaling
    )


def nested_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing, dropout: float, scaling: float | None
) -> torch.Tensor:
    """The same through torch's jagged nested tensors; the lengths are given, so nothing waits for the device."""
    shortest, longest = min(packing.lengths), max(packing.lengths)
    q, k, v = (
        torch.nested.nested_tensor_from_jagged(
            each.contiguous(), packing.offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for each in (query, key, value)
    )
    seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=scaling)
    return seen.transpose(1, 2).contiguous().values()
