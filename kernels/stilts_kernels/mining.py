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
    fitting,
    is_cosine,
    make_panels,
    merge_topk,
    queries_per_pass,
    record,
    redo,
    scoring_step,
    shortlist_bytes,
    slices,
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

    Scratch stays within `memory` bytes: a quarter for the survivors of the targets in work, the rest for the search.
    Raises ValueError for sides that do not fit together, or a k larger than the side it searches.
    """
    check_pair(source, target, k_forward)
    check_pair(target, source, k_backward)
    screen = choose_screen(screen)
    forward, backward = Found(source, k_forward), Found(target, k_backward)
    source_step = queries_per_pass(source, k_forward, memory * 3 // 4, screen)
    target_step = max(SIDE_ROWS, memory // 4 // shortlist_bytes(k_backward))
    scored = 0
    for rows in slices(source.count, source_step):
        for columns in slices(target.count, target_step):
            scored += search_tile(source, rows, target, columns, forward, backward, screen, memory * 3 // 4)
    count, failed = source.count + target.count, int(forward.failed.sum()) + int(backward.failed.sum())
    record(Report(describe_path(screen) + ", two-way", count, count - failed, scored / count))
    return forward.best, backward.best


class Found:
    """What has been found for one side so far: its neighbours, and the rows that a screen could not prove."""

    def __init__(self, rows: Rows, k: int) -> None:
        device = rows.data.device
        self.k, self.failed = k, torch.zeros(rows.count, dtype=torch.bool, device=device)
        self.best = Neighbours(torch.full((rows.count, k), -torch.inf, dtype=torch.float64, device=device),
                               torch.full((rows.count, k), -1, device=device))

    def merge(self, rows: slice, fresh: tuple[Tensor, Tensor], first: int, failed: Tensor) -> None:
        """Takes in neighbours of `rows` whose indices count from `first` on, above all that were taken in before."""
        known = self.best.values[rows], self.best.indices[rows]
        known[0][:], known[1][:] = merge_topk([known, (fresh[0], fresh[1] + first)], self.k)
        self.failed[rows] |= failed


def search_tile(source: Rows, rows: slice, target: Rows, columns: slice, forward: Found, backward: Found, screen: str,
                memory: int) -> int:
    """Searches some source rows against some target rows, both ways; returns how many pairs were scored."""
    own, other = source.part(rows.start, rows.stop), target.part(columns.start, columns.stop)
    device = own.data.device
    ahead = Shortlist(own.count, min(forward.k, other.count), max(CAP_FIRST, 16 * forward.k), device)
    back = Shortlist(other.count, min(backward.k, own.count), max(CAP_FIRST, 16 * backward.k), device)
    sweep_both(own, other, ahead, back, getattr(torch, screen))
    there, here = ahead.finish(), back.finish()
    score = scores_of(own, other, torch.cat([there[0], here[1]]), torch.cat([there[1], here[0]]),
                      scoring_step(own.dim, memory))
    scores = score.split([len(there[0]), len(here[0])])
    best = best_pairs(ahead, *there, scores[0])
    redo(own, other, ahead, *best, screen)
    forward.merge(rows, best, columns.start, ahead.failed)
    best = best_pairs(back, *here, scores[1])
    redo(other, own, back, *best, screen)
    backward.merge(columns, best, rows.start, back.failed)
    return len(score)


def scores_of(source: Rows, target: Rows, source_row: Tensor, target_row: Tensor, step: int) -> Tensor:
    """Canonical scores [P] of both directions' pairs; one found both ways is scored once."""
    pairs, place = torch.unique((source_row << 32) + target_row, return_inverse=True)
    return canonical_scores(source, target, pairs >> 32, pairs & 0xFFFFFFFF, step)[place]


def sweep_both(source: Rows, target: Rows, forward: Shortlist, backward: Shortlist, dtype: torch.dtype) -> None:
    """One pass over all scores: keeps the source's panels and streams the target past them."""
    source_centre, target_centre = centre_of(source), centre_of(target)
    panels = list(make_panels(PanelMaker(source, source_centre, target_centre, 2, dtype), SIDE_ROWS))
    maker = PanelMaker(target, target_centre, source_centre, 0, dtype)
    sweep(panels, make_panels(maker, fitting(SIDE_ROWS, dtype)), forward, backward)


def best_margin(found: Neighbours, own_mean: Tensor, other_mean: Tensor, margin: str) -> tuple[Tensor, Tensor]:
    """(margin, index) [n] of each row's best neighbour; among equal margins the lower index wins.

    The means are those of the k similarities of this side's rows [n] and of the other side's.
    """
    best, index = torch.empty_like(found.values[:, 0]), torch.empty_like(found.indices[:, 0])
    for block in slices(len(best)):
        values, indices = found.values[block], found.indices[block]
        scores = MARGINS[margin](values, (own_mean[block, None] + other_mean[indices]) / 2)
        best[block] = scores.max(dim=1).values
        ties = torch.where(scores == best[block, None], indices, torch.iinfo(torch.int64).max)
        index[block] = ties.min(dim=1).values
    return best, index


def match(forward: tuple[Tensor, Tensor], backward: tuple[Tensor, Tensor], retrieval: str) -> MinedPairs:
    """Pairs from each source's best (margin, target) and each target's best (margin, source)."""
    sources, targets = (torch.arange(len(side[0]), device=side[0].device) for side in (forward, backward))
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
    """Goes down the list and keeps a pair when neither side has been taken.

    In rounds over all that is left: a pair that comes first for its source and for its target is kept whatever stands
    between, and what shares a side with it goes. Among neighbours a few rounds do, as margins rise along every chain.
    """
    left = torch.arange(len(pairs.source), device=pairs.source.device)
    kept = [left[:0]]
    while len(left):
        source, target = pairs.source[left], pairs.target[left]
        first = (first_place(source, left) == left) & (first_place(target, left) == left)
        kept.append(left[first])
        left = left[~(torch.isin(source, source[first]) | torch.isin(target, target[first]))]
    chosen = torch.cat(kept).sort().values
    return MinedPairs(*(part[chosen] for part in pairs))


def first_place(number: Tensor, place: Tensor) -> Tensor:
    """For each entry the lowest `place` [P] among the entries of the same `number` [P]."""
    first = torch.full((int(number.max()) + 1,), torch.iinfo(torch.int64).max, device=number.device)
    return first.scatter_reduce_(0, number, place, "amin")[number]


def pairs_from(forward: Neighbours, backward: Neighbours, margin: str, retrieval: str) -> MinedPairs:
    """Scores both directions' neighbours and matches them."""
    means = forward.values.mean(dim=1), backward.values.mean(dim=1)
    ahead = best_margin(forward, *means, margin)
    back = best_margin(backward, *means[::-1], margin)
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
    pairs = pairs_from(Neighbours(*found[0]), Neighbours(*found[1]), margin, retrieval)
    return MinedPairs(*(part.cpu() for part in pairs))
