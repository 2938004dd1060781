"""Attention over packed rows: sequences stand one after the other, without padding, and do not see each other.

Legend: T tokens of all rows, B rows, h heads, d size of a head.

On CPUs rows of equal length are attended to together. On GPUs torch's nested tensors choose a variable-length kernel
(FlashAttention for half precision, memory-efficient attention for float32). Rows that are longer than a decoder's
window of attention take the way of CPUs everywhere: nested tensors know no window.

Rows of a prefix language model (Dong et al. 2019, arXiv 1905.03197, section 3.3: the tokens of the prefix see each
other both ways, each token behind it sees what stands left of it) take the way of CPUs, too: it is where masks are.

With dropout none of these takes masks that depend on the example: there it is our own attention, step by step on a CPU
and in Triton kernels on a GPU. The kernels see both ways; a decoder with dropout takes the way of CPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import torch
from stilts_kernels.dropout.function import dropout_of_squares
from torch import nn
from torch.nn import functional

from stilts_ds.model.decoding import KeyValueCache
from stilts_ds.model.masks import Masks, attend

NAME = "stilts_packed"  # under which transformers finds it
# What some models ask of attention and this one cannot do: a cap on scores, biases by position, sinks.
UNKNOWN = ("softcap", "position_bias", "s_aux")


class EqualRows(NamedTuple):
    """Neighbouring rows of one length and one prefix."""

    rows: int
    length: int
    prefix: int


@dataclass(frozen=True)
class Packing:
    """Where rows stand among the T tokens: `lengths` [B] on the host, `offsets` [B + 1] on the device.

    `causal`: a token sees itself and what stands left of it in its row, and not all of the row. `prefix` [B] on the
    host: so many first tokens of a row see each other both ways, those behind them see left; None: whole rows do, or
    nothing where `causal`. `masks`, in training: what draws the dropout masks of their attention. `cache`, in decoding:
    the keys and values of the tokens before these.
    """

    lengths: tuple[int, ...]
    offsets: torch.Tensor
    causal: bool = False
    masks: Masks | None = None
    prefix: tuple[int, ...] | None = None
    cache: KeyValueCache | None = None

    @cached_property
    def runs(self) -> list[EqualRows]:
        """Neighbouring rows of one length and prefix, in order."""
        # Of neighbours only: sorting rows by length here would mean to move every tensor.
        prefix = self.prefix or ((0,) * len(self.lengths) if self.causal else self.lengths)
        return [EqualRows(len(list(same)), *key) for key, same in groupby(zip(self.lengths, prefix))]

    @property
    def longest(self) -> int:
        """Tokens of the longest row, those before the batch among them."""
        before = 0 if self.cache is None else self.cache.longest
        return before + max(self.lengths)

    def sight(self, run: EqualRows, window: int | None, device: torch.device) -> torch.Tensor | None:
        """Which keys each query of a row of the run sees, bool [length, length]; None: all, or those left of it where
        that is what `causal` says."""
        windowed = window is not None and run.length > window
        if run.prefix in (0, run.length) and self.causal == (run.prefix == 0) and not windowed:
            return None
        ones = torch.ones(run.length, run.length, dtype=torch.bool, device=device)
        seen = ones.tril()
        seen[:, : run.prefix] = True
        # A token sees itself and the `window - 1` before it.
        return seen & ones.triu(1 - window) if windowed and window is not None else seen


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: query [1, h, T, d], key and value [1, h / groups, T, d] to ([1, T, h, d],
    no weights). `sliding_window` holds for decoders: the tokens, itself among them, that a token sees at most.

    Raises ValueError without `packing`, since there is no mask that could tell rows apart, and for what a model asks
    of attention beyond that (UNKNOWN).
    """
    if packing is None:
        raise ValueError("packed attention needs to know where rows begin; call the model through MultiTask")
    for name in UNKNOWN:
        if others.get(name) is not None:
            raise ValueError(f"packed attention has no {name}")
    window = None
    if packing.causal and sliding_window is not None and sliding_window < packing.longest:
        window = sliding_window
    if packing.cache is not None:
        if packing.cache.samples:
            return packing.cache.attend(module, query, key, value, scaling, window), None
        packing.cache.keep_prompts(module, key, value)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # grouped-query attention: neighbouring heads share keys and values
        key, value = (shared.repeat_interleave(groups, dim=1) for shared in (key, value))
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if dropout and packing.masks is not None:
        if query.is_cuda and not packing.causal and packing.prefix is None:
            return fused_attention(q, k, v, packing, dropout, scaling)[None], None
        return masked_attention(q, k, v, packing, dropout, scaling, window)[None], None
    if query.is_cuda and window is None and packing.prefix is None:
        return nested_attention(q, k, v, packing, dropout, scaling)[None], None
    return grouped_attention(q, k, v, packing, dropout, scaling, window)[None], None


def grouped_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    dropout: float,
    scaling: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """[T, h, d] each to [T, h, d]: one call for each run of equal lengths. Rows longer than `window` get a mask."""

    def seen_by(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        sight = packing.sight(packing.runs[number], window, query.device)
        # torch takes a mask or the word that there is a causal one, not both.
        causal = packing.causal and sight is None
        return functional.scaled_dot_product_attention(
            q, k, v, attn_mask=sight, dropout_p=dropout, is_causal=causal, scale=scaling
        )

    return of_runs(packing, (query, key, value), seen_by)


def of_runs(
    packing: Packing, query_key_value: Sequence[torch.Tensor], seen_by: Callable[..., torch.Tensor]
) -> torch.Tensor:
    """[T, h, d]: what `seen_by(number of the run, q, k, v)` gives for the [rows, h, length, d] of each run of rows of
    one length, put together as packed rows again."""
    query = query_key_value[0]
    sizes = [run.rows * run.length for run in packing.runs]
    pieces = zip(*(tensor.split(sizes) for tensor in query_key_value))
    seen_by_runs = []
    for number, of_run in enumerate(pieces):
        rows, length, _ = packing.runs[number]
        q, k, v = (
            tensor_of_run.reshape(rows, length, *tensor_of_run.shape[1:]).transpose(1, 2) for tensor_of_run in of_run
        )
        seen = seen_by(number, q, k, v)
        seen_by_runs.append(seen.transpose(1, 2).reshape(rows * length, *query.shape[1:]))
    return torch.cat(seen_by_runs)


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packing: Packing,
    dropout: float,
    scaling: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """The same with dropout whose masks are those of `packing`: no call of torch's takes masks, so that probabilities
    are written to memory, as torch itself does on CPUs where there is dropout."""
    assert packing.masks is not None
    keys, site = packing.masks.attention_sites(query.shape[1])
    planes, sides = zip(*((run.rows * query.shape[1], run.length) for run in packing.runs))

    def seen_by(number: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        run = packing.runs[number]
        sight = packing.sight(run, window, query.device)
        if sight is None and packing.causal:
            sight = torch.ones(run.length, run.length, dtype=torch.bool, device=query.device).tril()
        return attend(q, k, v, drops[number], scaling, sight)

    # Outside of the masks' own function mode: within it each of the many small calls of torch goes through Python
    # first, which nearly doubles what they cost.
    with torch._C.DisableTorchFunction():
        drops = dropout_of_squares(keys.flatten(), planes, sides, site, dropout)
        return of_runs(packing, (query, key, value), seen_by)


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
            tensor.contiguous(), packing.offsets, min_seqlen=shortest, max_seqlen=longest
        ).transpose(1, 2)
        for tensor in (query, key, value)
    )
    seen = functional.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=packing.causal, scale=scaling)
    return seen.transpose(1, 2).contiguous().values()
