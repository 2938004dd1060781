"""Matching the best neighbours of both directions.

Retrieval: `forward` keeps the best target of each source, `backward` the best source of each target, `intersect` the
pairs found both ways, and `max` sorts the union of both by margin and takes each source and target at most once.
Equal margins keep the lower source, then the lower target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stilts_kernels.mining.margin import MARGINS, Neighbours, best_margin

RETRIEVALS = ("max", "forward", "backward", "intersect")


class MinedPairs(NamedTuple):
    """Mined pairs, best margin first: source and target int64 [P], score float32 [P]."""

    source: Tensor
    target: Tensor
    score: Tensor


def check_choices(margin: str, retrieval: str) -> None:
    """Raises ValueError for an unknown margin or retrieval."""
    for name, value, known in (("margin", margin, tuple(MARGINS)), ("retrieval", retrieval, RETRIEVALS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")


def pairs_from(forward: Neighbours, backward: Neighbours, margin: str, retrieval: str) -> MinedPairs:
    """Scores both directions' neighbours and matches them."""
    # A margin compares with the means of both directions, so both searches come before any margin.
    source_mean, target_mean = forward.values.mean(dim=1), backward.values.mean(dim=1)
    best_targets = best_margin(forward, source_mean, target_mean, margin)
    best_sources = best_margin(backward, target_mean, source_mean, margin)
    return match(best_targets, best_sources, retrieval)


def match(forward: tuple[Tensor, Tensor], backward: tuple[Tensor, Tensor], retrieval: str) -> MinedPairs:
    """Pairs from each source's best (margin, target) and each target's best (margin, source)."""
    target_margin, best_target = forward
    source_margin, best_source = backward
    sources = torch.arange(len(best_target), dtype=torch.int64, device=best_target.device)
    targets = torch.arange(len(best_source), dtype=torch.int64, device=best_source.device)
    if retrieval == "forward":
        return ordered(sources, best_target, target_margin)
    if retrieval == "backward":
        return ordered(best_source, targets, source_margin)
    if retrieval == "intersect":
        # Kept once, with the source's margin: the pair has the same score from either side.
        mutual = best_source[best_target] == sources
        return ordered(sources[mutual], best_target[mutual], target_margin[mutual])
    # A pair that is found both ways has one score and is sorted once: on many ranks one of them matches for all.
    fresh = best_target[best_source] != targets
    union = ordered(
        torch.cat([sources, best_source[fresh]]),
        torch.cat([best_target, targets[fresh]]),
        torch.cat([target_margin, source_margin[fresh]]),
    )
    return one_to_one(union)


def ordered(source: Tensor, target: Tensor, score: Tensor) -> MinedPairs:
    """Sorts by falling score, then source, then target."""
    # Stable sorts from the least significant key to the most, since torch sorts by one key at a time. Source and target
    # make one key, which an int64 holds for 3 * 10^9 sentences a side.
    order = torch.argsort(source * (int(target.max()) + 1) + target) if len(target) else target
    order = order[torch.argsort(score[order], descending=True, stable=True)]
    return MinedPairs(source[order], target[order], score[order].float())


def one_to_one(pairs: MinedPairs) -> MinedPairs:
    """Goes down the list and keeps a pair when neither side has been taken.

    In rounds over all that is left: a pair that comes first for its source and for its target is kept whatever stands
    between, and what shares a side with it goes. Among neighbours a few rounds do, as margins rise along every chain.
    """
    left = torch.arange(len(pairs.source), dtype=torch.int64, device=pairs.source.device)
    kept = [left[:0]]
    while len(left):
        source, target = pairs.source[left], pairs.target[left]
        first_of_source = first_position(source, left) == left
        first_of_target = first_position(target, left) == left
        first = first_of_source & first_of_target
        kept.append(left[first])
        left = left[~(is_among(source, source[first]) | is_among(target, target[first]))]
    chosen = torch.cat(kept).sort().values
    return MinedPairs(pairs.source[chosen], pairs.target[chosen], pairs.score[chosen])


def is_among(number: Tensor, chosen: Tensor) -> Tensor:
    """Whether each `number` [P] is one of `chosen`, which all are numbers: as torch.isin, without its sorting."""
    marked = torch.zeros(int(number.max()) + 1, dtype=torch.bool, device=number.device)
    marked[chosen] = True
    return marked[number]


def first_position(number: Tensor, position: Tensor) -> Tensor:
    """For each entry the lowest `place` [P] among the entries of the same `number` [P]."""
    # Above every position, so that a number without entries never wins a minimum.
    last = torch.iinfo(torch.int64).max
    first = torch.full((int(number.max()) + 1,), last, dtype=torch.int64, device=number.device)
    return first.scatter_reduce_(0, number, position, "amin")[number]
