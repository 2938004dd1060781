"""Neighbours in both directions from one pass over the scores, and mining of tensors on one device."""

from __future__ import annotations

import torch
from torch import Tensor

from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.precision import exact_float32
from stilts_kernels.common.ranking import Ranked, merge_topk, slices
from stilts_kernels.common.report import Report, save_report
from stilts_kernels.common.rows import Rows, check_pair, is_cosine
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import MinedPairs, check_choices, pairs_from
from stilts_kernels.topk.bounds import PanelMaker, centre_of
from stilts_kernels.topk.cpu import (
    CAP_FIRST,
    DEFAULT_MEMORY,
    best_pairs,
    fitting,
    make_panels,
    queries_per_pass,
    scoring_step,
    search_failed_rows,
    shortlist_bytes,
    sweep,
)
from stilts_kernels.topk.int8.search import Direction, Survivors, collect
from stilts_kernels.topk.int8.sides import Frame
from stilts_kernels.topk.screen import choose_screen, describe_path, int8_instructions
from stilts_kernels.topk.shortlist import Shortlist

SIDE_ROWS = 2048  # of a block of scores that both directions read: 8 MB, and each direction's floor rises fast


def mine_cpu(
    source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str, memory: int = DEFAULT_MEMORY
) -> MinedPairs:
    """See `stilts_kernels.mine`."""
    check_choices(margin, retrieval)
    unit = is_cosine(metric)
    forward, backward = two_way(Rows(source, "source", unit), Rows(target, "target", unit), k, k, memory=memory)
    return pairs_from(forward, backward, margin, retrieval)


def mine_cuda(source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str) -> MinedPairs:
    """`mine` for CUDA tensors: both directions from one pass of the fused kernel. See `stilts_kernels.mine`."""
    from stilts_kernels.topk.cuda import two_way_cuda

    check_choices(margin, retrieval)
    unit = is_cosine(metric)
    forward, backward = two_way_cuda(Rows(source, "source", unit), Rows(target, "target", unit), k, k)
    pairs = pairs_from(Neighbours(*forward), Neighbours(*backward), margin, retrieval)
    return MinedPairs(pairs.source.cpu(), pairs.target.cpu(), pairs.score.cpu())


def two_way(
    source: Rows, target: Rows, k_forward: int, k_backward: int, screen: str = "auto", memory: int = DEFAULT_MEMORY
) -> tuple[Neighbours, Neighbours]:
    """Exact neighbours of source in target and of target in source; each score is computed once.

    Scratch stays within `memory` bytes: a quarter for the survivors of the targets in work, the rest for the search.
    Raises ValueError for sides that do not fit together, or a k larger than the side it searches.
    """
    check_pair(source, target, k_forward)
    # Once for each direction: k may fit one side and not the other.
    check_pair(target, source, k_backward)
    screen = choose_screen(screen)
    search_memory, survivor_memory = memory * 3 // 4, memory // 4
    source_rows = queries_per_pass(source, k_forward, search_memory, screen)
    target_rows = max(SIDE_ROWS, survivor_memory // shortlist_bytes(k_backward))
    forward, backward = SideSearch(source, k_forward), SideSearch(target, k_backward)
    scored = 0
    with exact_float32(source.dim, source.data.device):
        for rows in slices(source.count, source_rows):
            for columns in slices(target.count, target_rows):
                scored += search_tile(source, rows, target, columns, forward, backward, screen, search_memory)
    count = source.count + target.count
    # Rows without proof were searched another way; they are counted, not wrong.
    failed = int(forward.failed.sum()) + int(backward.failed.sum())
    save_report(Report(describe_path(screen) + ", two-way", count, count - failed, scored / count))
    return forward.best, backward.best


class SideSearch:
    """What has been found for one side so far: its neighbours, and the rows that a screen could not prove."""

    def __init__(self, rows: Rows, k: int) -> None:
        device = rows.data.device
        self.k, self.failed = k, torch.zeros(rows.count, dtype=torch.bool, device=device)
        self.best = Neighbours(
            torch.full((rows.count, k), -torch.inf, dtype=torch.float64, device=device),
            torch.full((rows.count, k), -1, dtype=torch.int64, device=device),
        )

    def shortlist(self, rows: Rows, opposite: Rows) -> Shortlist:
        """An empty shortlist for some rows of this side and some of the other."""
        direction = self.direction(rows, opposite)
        return Shortlist(direction.rows, direction.k, direction.cap, rows.data.device)

    def direction(self, rows: Rows, opposite: Rows) -> Direction:
        """What is asked about some rows of this side and some of the other."""
        # Few candidates would fail rows with many near-equal neighbours, many would cost memory for each row.
        return Direction(rows.count, min(self.k, opposite.count), max(CAP_FIRST, 16 * self.k))

    def merge(self, rows: slice, fresh: Ranked, first: int, failed: Tensor) -> None:
        """Takes in neighbours of `rows` whose indices count from `first` on, above all that were taken in before."""
        values, indices = self.best.values[rows], self.best.indices[rows]
        fresh_values, fresh_indices = fresh
        values[:], indices[:] = merge_topk([(values, indices), (fresh_values, fresh_indices + first)], self.k)
        self.failed[rows] |= failed


def search_tile(
    source: Rows,
    rows: slice,
    target: Rows,
    columns: slice,
    forward: SideSearch,
    backward: SideSearch,
    screen: str,
    memory: int,
) -> int:
    """Searches some source rows against some target rows, both ways; returns how many pairs were scored."""
    some_source, some_target = source.part(rows.start, rows.stop), target.part(columns.start, columns.stop)
    forward_list, backward_list = screened(some_source, some_target, forward, backward, screen)
    forward_source, forward_target = forward_list.finish()
    backward_target, backward_source = backward_list.finish()
    scores = scores_of(
        some_source,
        some_target,
        torch.cat([forward_source, backward_source]),
        torch.cat([forward_target, backward_target]),
        scoring_step(source.dim, memory),
    )
    # What a screen let through is scored exactly here; only then are the neighbours chosen.
    forward_scores, backward_scores = scores.split([len(forward_source), len(backward_source)])

    best = best_pairs(forward_list, forward_source, forward_target, forward_scores)
    # Rows whose shortlist could not be proved whole are searched without the screen: the result stays exact.
    search_failed_rows(some_source, some_target, forward_list, *best, screen)
    forward.merge(rows, best, columns.start, forward_list.failed)
    best = best_pairs(backward_list, backward_target, backward_source, backward_scores)
    search_failed_rows(some_target, some_source, backward_list, *best, screen)
    backward.merge(columns, best, rows.start, backward_list.failed)
    return len(scores)


def screened(
    source: Rows, target: Rows, forward: SideSearch, backward: SideSearch, screen: str
) -> tuple[Shortlist | Survivors, Shortlist | Survivors]:
    """The pairs that may be neighbours ahead and back, each score bounded once."""
    if screen == "int8":
        frame = Frame.of(int8_instructions(), target, source)
        return collect(source, target, frame, forward.direction(source, target), backward.direction(target, source))
    forward_list, backward_list = forward.shortlist(source, target), backward.shortlist(target, source)
    sweep_both(source, target, forward_list, backward_list, getattr(torch, screen))
    return forward_list, backward_list


def scores_of(source: Rows, target: Rows, source_row: Tensor, target_row: Tensor, step: int) -> Tensor:
    """Canonical scores [P] of both directions' pairs; one found both ways is scored once."""
    # Both numbers in one integer of 64 bits, so that a pair is one key to sort by.
    pairs, pair_of = torch.unique((source_row << 32) + target_row, return_inverse=True)
    return canonical_scores(source, target, pairs >> 32, pairs & 0xFFFFFFFF, step)[pair_of]


def sweep_both(source: Rows, target: Rows, forward: Shortlist, backward: Shortlist, dtype: torch.dtype) -> None:
    """One pass over all scores: keeps the source's panels and streams the target past them."""
    source_centre, target_centre = centre_of(source), centre_of(target)
    # Kept, since every target block meets them all; the target's are made, used and dropped.
    source_panels = list(make_panels(PanelMaker(source, source_centre, target_centre, 2, dtype), SIDE_ROWS))
    target_maker = PanelMaker(target, target_centre, source_centre, 0, dtype)
    sweep(source_panels, make_panels(target_maker, fitting(SIDE_ROWS, dtype)), forward, backward)
