"""Margin-based bitext mining: neighbours in both directions from one pass over the scores, then matching.

Margin (Artetxe and Schwenk, 2019, "Margin-based parallel corpus mining with multilingual sentence embeddings"): with
a = cos(x, y) and b = the mean of x's mean similarity to its k neighbours and y's to its,

    absolute: a        distance: a - b        ratio: a / b

Retrieval: `forward` keeps the best target of each source, `backward` the best source of each target, `intersect` the
pairs found both ways, and `max` sorts the union of both by margin and takes each source and target at most once.
Equal margins keep the lower source, then the lower target. A ratio with b = 0 is undefined and ranks last (-inf).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from stilts_kernels.panels import PanelMaker
from stilts_kernels.rows import Rows, canonical_scores, check_pair
from stilts_kernels.screen import (
    CAP_FIRST,
    DEFAULT_MEMORY,
    Report,
    best_pairs,
    centre_of,
    choose_screen,
    describe_path,
    is_cosine,
    make_panels,
    queries_per_pass,
    record,
    redo,
    scoring_step,
    sweep,
)
from stilts_kernels.shortlist import Shortlist

MARGINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ratio": lambda a, b: torch.where(b == 0, -torch.inf, a / b),
    "distance": lambda a, b: a - b,
    "absolute": lambda a, b: a,
}
SIDE_ROWS = 2048  # of a block of scores that both directions read: 8 MB, and each direction's floor rises fast
RETRIEVALS = ("max", "forward", "backward", "intersect")


class Neighbours(NamedTuple):
    """k best of every row of one side: values float64 [n, k], falling, and indices int64 [n, k] into the other."""

    values: Tensor
    indices: Tensor


class MinedPairs(NamedTuple):
    """Mined pairs, best margin first: source and target int64 [P], score float32 [P]."""

    source: Tensor
    target: Tensor
    score: Tensor


def two_way(source: Rows, target: Rows, k_forward: int, k_backward: int, screen: str = "auto",
            memory: int = DEFAULT_MEMORY) -> tuple[Neighbours, Neighbours]:
    """Exact neighbours of source in target and of target in source; each score is computed once.

    Raises ValueError for sides that do not fit together, or a k larger than the side it searches.
    """
    check_pair(source, target, k_forward)
    check_pair(target, source, k_backward)
    screen = choose_screen(screen)
    forward = Shortlist(source.count, k_forward, max(CAP_FIRST, 16 * k_forward))
    backward = Shortlist(target.count, k_backward, max(CAP_FIRST, 16 * k_backward))
    sweep_both(source, target, forward, backward, getattr(torch, screen), memory)
    ahead, back = forward.finish(), backward.finish()
    score = scores_of(source, target, torch.cat([ahead[0], back[1]]), torch.cat([ahead[1], back[0]]), memory)
    found = (Neighbours(*best_pairs(forward, *ahead, score[: len(ahead[0])])),
             Neighbours(*best_pairs(backward, *back, score[len(ahead[0]) :])))
    redo(source, target, forward, *found[0], screen)
    redo(target, source, backward, *found[1], screen)
    rows = source.count + target.count
    certified = rows - int(forward.failed.sum()) - int(backward.failed.sum())
    record(Report(describe_path(screen) + ", two-way", rows, certified, len(score) / rows))
    return found


def scores_of(source: Rows, target: Rows, source_row: Tensor, target_row: Tensor, memory: int) -> Tensor:
    """Canonical scores [P] of both directions' pairs; one found both ways is scored once."""
    pairs, place = torch.unique((source_row << 32) + target_row, return_inverse=True)
    return canonical_scores(source, target, pairs >> 32, pairs & 0xFFFFFFFF, scoring_step(source.dim, memory))[place]


def sweep_both(source: Rows, target: Rows, forward: Shortlist, backward: Shortlist, dtype: torch.dtype,
               memory: int) -> None:
    """One pass over all scores; keeps as many source panels as `memory` allows and streams the target past them."""
    source_centre, target_centre = centre_of(source), centre_of(target)
    sources = PanelMaker(source, source_centre, target_centre, 2, dtype)
    targets = PanelMaker(target, target_centre, source_centre, 0, dtype)
    step = queries_per_pass(source, forward.k, memory)
    for first in range(0, source.count, step):
        panels = list(make_panels(sources, SIDE_ROWS, first, min(source.count, first + step)))
        sweep(panels, make_panels(targets, SIDE_ROWS), forward, backward)


def margins(found: Neighbours, own_mean: Tensor, other_mean: Tensor, margin: str) -> Tensor:
    """Margins float64 [n, k] of each row's neighbours; the means are those of each side's k similarities."""
    return MARGINS[margin](found.values, (own_mean[:, None] + other_mean[found.indices]) / 2)


def best_of(found: Neighbours, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(margin, index) [n] of each row's best neighbour; among equal margins the lower index wins."""
    best = scores.max(dim=1, keepdim=True).values
    index = torch.where(scores == best, found.indices, torch.iinfo(torch.int64).max).min(dim=1).values
    return best[:, 0], index


def match(forward: tuple[Tensor, Tensor], backward: tuple[Tensor, Tensor], retrieval: str) -> MinedPairs:
    """Pairs from each source's best (margin, target) and each target's best (margin, source)."""
    sources, targets = torch.arange(len(forward[0])), torch.arange(len(backward[0]))
    ahead = (sources, forward[1], forward[0])
    back = (backward[1], targets, backward[0])
    if retrieval == "intersect":
        mutual = backward[1][forward[1]] == sources
        return ordered(*(part[mutual] for part in ahead))
    if retrieval == "max":
        return one_to_one(ordered(*(torch.cat(parts) for parts in zip(ahead, back))))
    return ordered(*(ahead if retrieval == "forward" else back))


def ordered(source: Tensor, target: Tensor, score: Tensor) -> MinedPairs:
    """Sorts by falling score, then source, then target."""
    order = torch.argsort(target, stable=True)
    order = order[torch.argsort(source[order], stable=True)]
    order = order[torch.argsort(score[order], descending=True, stable=True)]
    return MinedPairs(source[order], target[order], score[order].float())


def one_to_one(pairs: MinedPairs) -> MinedPairs:
    """Goes down the list and keeps a pair when neither side has been taken."""
    seen_source: set[int] = set()
    seen_target: set[int] = set()
    keep = []
    for place, (source, target) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist())):
        if source not in seen_source and target not in seen_target:
            seen_source.add(source)
            seen_target.add(target)
            keep.append(place)
    chosen = torch.tensor(keep, dtype=torch.int64)
    return MinedPairs(pairs.source[chosen], pairs.target[chosen], pairs.score[chosen])


def pairs_from(forward: Neighbours, backward: Neighbours, margin: str, retrieval: str) -> MinedPairs:
    """Scores both directions' neighbours and matches them."""
    means = forward.values.mean(dim=1), backward.values.mean(dim=1)
    ahead = best_of(forward, margins(forward, *means, margin))
    back = best_of(backward, margins(backward, *means[::-1], margin))
    return match(ahead, back, retrieval)


def check_choices(margin: str, retrieval: str) -> None:
    """Raises ValueError for an unknown margin or retrieval."""
    for name, value, known in (("margin", margin, tuple(MARGINS)), ("retrieval", retrieval, RETRIEVALS)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is not one of {', '.join(known)}")


def mine_cpu(source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str,
             memory: int = DEFAULT_MEMORY) -> MinedPairs:
    """See `stilts_kernels.mine`."""
    check_choices(margin, retrieval)
    unit = is_cosine(metric)
    forward, backward = two_way(Rows(source, "source", unit), Rows(target, "target", unit), k, k, memory=memory)
    return pairs_from(forward, backward, margin, retrieval)


def mine_cuda(source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str) -> MinedPairs:
    """`mine` for CUDA tensors: both directions from one pass of the fused kernel. See `stilts_kernels.mine`."""
    from stilts_kernels.fused import two_way_cuda

    check_choices(margin, retrieval)
    unit = is_cosine(metric)
    found = two_way_cuda(Rows(source, "source", unit), Rows(target, "target", unit), k, k)
    forward, backward = (Neighbours(*(part.cpu() for part in side)) for side in found)
    return pairs_from(forward, backward, margin, retrieval)
