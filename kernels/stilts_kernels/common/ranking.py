"""Ranking exact scores and merging rankings: equal scores keep the lower index first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Ranked = tuple[Tensor, Tensor]  # values float64 [n, k], falling, and indices int64 [n, k]


class TopK(NamedTuple):
    """Values float32 [Q, k], falling, and bank indices int64 [Q, k]; equal scores keep the lower index first."""

    values: Tensor
    indices: Tensor


def slices(count: int, size: int = 1 << 16) -> Iterator[slice]:
    """Slices of at most `size` rows; the default keeps temporary copies of a result small beside it."""
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def merge_topk(rankings: Sequence[Ranked], k: int) -> Ranked:
    """Best k of several (values [Q, *], indices [Q, *]) whose index ranges rise from one to the next."""
    first_values, first_indices = rankings[0]
    width = min(k, sum(values.shape[1] for values, _ in rankings))
    merged_values = first_values.new_empty(len(first_values), width)
    merged_indices = first_indices.new_empty(len(first_indices), width)
    for block in slices(len(first_values)):
        values = torch.cat([ranking[0][block] for ranking in rankings], dim=1)
        indices = torch.cat([ranking[1][block] for ranking in rankings], dim=1)
        # A stable sort: of equal scores the one from the earlier ranking, which has the lower index, stays first.
        order = torch.sort(values, dim=1, descending=True, stable=True).indices[:, :k]
        merged_values[block] = values.gather(1, order)
        merged_indices[block] = indices.gather(1, order)
    return merged_values, merged_indices


def merge_in_any_order(first: Ranked, second: Ranked, k: int) -> Ranked:
    """Best k of two rankings of the same rows [n, *] whatever their indices: falling score, then rising index."""
    width = min(k, first[0].shape[1] + second[0].shape[1])
    merged_values = first[0].new_empty(len(first[0]), width)
    merged_indices = first[1].new_empty(len(first[1]), width)
    for block in slices(len(first[0])):
        values = torch.cat([first[0][block], second[0][block]], dim=1)
        indices = torch.cat([first[1][block], second[1][block]], dim=1)
        # Two stable sorts: by index, then by score, so that equal scores stand in the order of their indices.
        order = torch.sort(indices, dim=1, stable=True).indices
        by_score = torch.sort(values.gather(1, order), dim=1, descending=True, stable=True).indices[:, :k]
        order = order.gather(1, by_score)
        merged_values[block] = values.gather(1, order)
        merged_indices[block] = indices.gather(1, order)
    return merged_values, merged_indices


def numbered_from(ranking: Ranked, first: int) -> Ranked:
    """The ranking with its indices counted from `first` on; missing places keep their -1."""
    values, indices = ranking
    return values, torch.where(indices < 0, indices, indices + first)


def rounded_down(scores: Tensor) -> Tensor:
    """Float32 numbers that are less than float64 scores, by one place; -inf stays."""
    below = torch.full((), -torch.inf, dtype=torch.float32, device=scores.device)
    return torch.nextafter(scores.float(), below)


def rank_within_rows(row: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """(order, position): `order` sorts by row, then by falling value; order[i] comes position[i]-th within its row.

    Equal values of a row keep their order, so columns that rise make ties fall to the lower one.
    """
    order = falling_order(value)
    order = order[torch.argsort(row[order].int(), stable=True)]
    return order, running_position(row[order])


def running_position(row: Tensor) -> Tensor:
    """Place of each entry among the equal entries before it, for `row` [P] that never falls."""
    position = torch.arange(len(row), dtype=torch.int64, device=row.device)
    begins = torch.ones_like(row, dtype=torch.bool)
    begins[1:] = row[1:] != row[:-1]
    return position - torch.cummax(position * begins, dim=0).values


def falling_order(value: Tensor) -> Tensor:
    """Stable order [P] by falling float64 value, none of them NaN; sorts integers, in a third of the time of floats."""
    bits = (value + 0.0).view(torch.int64)  # adding 0 makes -0 equal to 0
    # The bits of negative floats rise as their values fall: turn them over, the sign bit aside.
    ordered_bits = torch.where(bits < 0, bits ^ torch.iinfo(torch.int64).max, bits)
    return torch.argsort(~ordered_bits, stable=True)
