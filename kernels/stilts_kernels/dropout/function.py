"""Dropout as a differentiable function, on any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stilts_kernels.dropout.cpu import apply_kept, dropout_cpu
from stilts_kernels.dropout.hashing import fold, threshold_of


def dropout(x: Tensor, keys: Tensor, site: int, rate: float) -> Tensor:
    """`x` [K, height, width] with elements set to zero with probability `rate`, the others scaled so that means stay.

    `keys` int64 [K]. An element's mask is a function of its plane's key, the `site` (0 and above) and its place in the
    plane alone, equal on every device and in planes of every size. Raises ValueError for a rate outside 0 <= rate < 1
    and another number of keys.
    """
    threshold = threshold_of(rate)
    if len(keys) != len(x):
        raise ValueError(f"dropout has {len(x)} planes, but {len(keys)} keys")
    # The input itself, not a copy: at rate 0 dropout costs nothing.
    if threshold == 0 or not x.numel():
        return x
    kind = OnGpu if x.is_cuda else OnCpu
    return kind.apply(x, keys, site, threshold)


class OnCpu(torch.autograd.Function):
    """Keeps a byte an element for the backward pass: reading it takes a third of the time of hashing again."""

    @staticmethod
    def forward(context: Any, x: Tensor, keys: Tensor, site: int, threshold: int) -> Tensor:
        out, kept = dropout_cpu(x, fold(keys, site), threshold)
        context.save_for_backward(kept)
        # A number, not a tensor, so it is kept beside the saved ones.
        context.threshold = threshold
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = context.saved_tensors
        return apply_kept(gradient, kept, context.threshold), None, None, None


class OnGpu(torch.autograd.Function):
    """One kernel each way. It hashes again in the backward pass, so that no mask is ever in memory."""

    @staticmethod
    def forward(context: Any, x: Tensor, keys: Tensor, site: int, threshold: int) -> Tensor:
        from stilts_kernels.dropout.kernel import launch

        context.save_for_backward(keys)
        context.site, context.threshold = site, threshold
        return launch(x, keys, site, threshold)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from stilts_kernels.dropout.kernel import launch

        # The same kernel: the gradient of a mask times a scale is the same mask times the same scale.
        (keys,) = context.saved_tensors
        return launch(gradient, keys, context.site, context.threshold), None, None, None
