"""Margins of neighbours, after Artetxe and Schwenk, 2019, "Margin-based parallel corpus mining with multilingual
sentence embeddings".

With a = cos(x, y) and b = the mean of x's mean similarity to its k neighbours and y's to its,

    absolute: a        distance: a - b        ratio: a / b

A ratio with b = 0 is undefined and ranks last (-inf).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stilts_kernels.common.ranking import slices

MARGINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ratio": lambda a, b: torch.where(b == 0, -torch.inf, a / b),
    "distance": lambda a, b: a - b,
    "absolute": lambda a, b: a,
}


class Neighbours(NamedTuple):
    """k best of every row of one side: values float64 [n, k], falling, and indices int64 [n, k] into the other."""

    values: Tensor
    indices: Tensor


def best_margin(neighbours: Neighbours, own_mean: Tensor, other_mean: Tensor, margin: str) -> tuple[Tensor, Tensor]:
    """(margin, index) [n] of each row's best neighbour; among equal margins the lower index wins.

    The means are those of the k similarities of this side's rows [n] and of the other side's.
    """
    best = torch.empty_like(neighbours.values[:, 0])
    index = torch.empty_like(neighbours.indices[:, 0])
    # In slices: the means of all neighbours [n, k] at once would double the memory of the result.
    for block in slices(len(best)):
        values, indices = neighbours.values[block], neighbours.indices[block]
        means = (own_mean[block, None] + other_mean[indices]) / 2
        scores = MARGINS[margin](values, means)
        best[block] = scores.max(dim=1).values
        # max names any of several equal entries: take the lowest index among them.
        ties = torch.where(scores == best[block, None], indices, torch.iinfo(torch.int64).max)
        index[block] = ties.min(dim=1).values
    return best, index
