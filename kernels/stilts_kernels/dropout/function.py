"""Dropout as a differentiable function, on any device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.dropout.cpu import Planes, apply_kept, dropout_cpu, kept_of
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
    if x.is_cuda:
        return OnGpu.apply(x, keys, site, threshold)
    return OnCpu.apply(x, lambda planes: dropout_cpu(planes, fold(keys, site), threshold), threshold)


def dropout_of_squares(
    keys: Tensor, planes: Sequence[int], sides: Sequence[int], site: int, rate: float
) -> list[Callable[[Tensor], Tensor]]:
    """`dropout` of square planes of several sizes: the probabilities of attention in rows of several lengths.

    `keys` int64 [sum of planes]; `planes[i]` of them are of planes [side, side] with `sides[i]`. Returns for each i
    what dropout does to its x [planes, side, side]. On a CPU all masks are drawn here, together.
    """
    threshold, of_squares = threshold_of(rate), keys.split(list(planes))
    if threshold == 0 or keys.is_cuda:
        return [partial(dropout, keys=of_square, site=site, rate=rate) for of_square in of_squares]
    folded = fold(keys, site).split(list(planes))
    kept = kept_of([Planes(of_square, side, side) for of_square, side in zip(folded, sides)], threshold)
    return [partial(drop_drawn, kept=kept_of_square, threshold=threshold) for kept_of_square in kept]


def drop_drawn(x: Tensor, kept: Tensor, threshold: int) -> Tensor:
    """Dropout on a CPU by a mask that was drawn before."""
    return OnCpu.apply(x, lambda planes: (apply_kept(planes, kept, threshold), kept), threshold)


class OnCpu(torch.autograd.Function):
    """Keeps a byte an element for the backward pass: reading it takes a third of the time of hashing again.

    `drop` takes x and returns it after dropout, and what is kept.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, drop: Callable[[Tensor], tuple[Tensor, Tensor]], threshold: int) -> Tensor:
        out, kept = drop(x)
        context.save_for_backward(kept)
        # A number, not a tensor, so it is kept beside the saved ones.
        context.threshold = threshold
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = context.saved_tensors
        return apply_kept(gradient, kept, context.threshold), None, None


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
