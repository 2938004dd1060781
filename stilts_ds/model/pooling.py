"""Sentence vectors from hidden states.

Legend: B sentences of a batch, T tokens of all of them, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import stilts_kernels
import torch
from torch import Tensor

from stilts_ds.errors import UserError, did_you_mean


def mean_pool(hidden_TH: Tensor, offsets: Tensor) -> Tensor:
    """Mean of each sentence's hidden states: [B, H], float32; the other sentences of the batch do not matter."""
    return stilts_kernels.mean_pool_packed(hidden_TH, offsets)


def first_pool(hidden_TH: Tensor, offsets: Tensor) -> Tensor:
    """Hidden state of each sentence's first token (`<s>`): [B, H], float32."""
    # float32, also where the model computes in half precision: neighbours are searched by these numbers.
    return hidden_TH[offsets[:-1]].to(torch.float32)


def last_pool(hidden_TH: Tensor, offsets: Tensor) -> Tensor:
    """Hidden state of each sentence's last token, the one that has seen all others where a model reads from left to
    right: [B, H], float32."""
    return hidden_TH[offsets[1:] - 1].to(torch.float32)


POOLINGS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean_pool, "first": first_pool, "last": last_pool}


def pool(hidden_TH: Tensor, offsets: Tensor, pooling: str = "mean") -> Tensor:
    """Sentence vectors [B, H] of sentences one after the other; sentence b has the tokens offsets[b] to offsets[b + 1].

    `mean` over all tokens, `<s>` and `</s>` included, is the paper's choice.
    """
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling {pooling!r}{did_you_mean(pooling, POOLINGS)}")
    return POOLINGS[pooling](hidden_TH, offsets)
