"""Neighbours in both directions from one pass over the scores, and mining of tensors on one device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stilts_kernels.common.precision import exact_float32
from stilts_kernels.common.ranking import Ranked, merge_topk, numbered_from, slices
from stilts_kernels.common.report import Report, save_report
from stilts_kernels.common.rows import Rows, check_pair, is_cosine
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import MinedPairs, check_choices, pairs_from
from stilts_kernels.topk.bounds import Panel, PanelMaker, centre_of
from stilts_kernels.topk.cpu import (
    CAP_FIRST,
    DEFAULT_MEMORY,
    best_pairs,
    fitting,
    make_panels,
    packed_panels,
    queries_per_pass,
    scoring_step,
    search_failed_rows,
    shortlist_bytes,
    sweep,
)
from stilts_kernels.topk.int8.exact import exact_scores
from stilts_kernels.topk.int8.search import Direction, Survivors, collect
from stilts_kernels.topk.int8.sides import Frame, PreparedQueries, prepare_queries
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
    return TwoWaySearch(source, k_forward, k_backward, screen, memory)(target)


class TwoWaySearch:
    """A source that targets are searched against, both ways, one block of them after the other.

    Where the screening copy of all source rows fits into the memory, it is made for the first block and kept for the
    others: D + 4 D bytes a row and some more with the int8 screen, of the three quarters of `memory` that are for it.
    """

    def __init__(
        self, source: Rows, k_forward: int, k_backward: int, screen: str = "auto", memory: int = DEFAULT_MEMORY
    ) -> None:
        self.source, self.k_forward, self.k_backward = source, k_forward, k_backward
        self.screen = choose_screen(screen)
        self.search_memory, survivor_memory = memory * 3 // 4, memory // 4
        self.source_rows = queries_per_pass(source, k_forward, self.search_memory, self.screen)
        self.target_rows = max(SIDE_ROWS, survivor_memory // shortlist_bytes(k_backward))
        self.prepared: PreparedSource | None = None

    def __call__(self, target: Rows, known: tuple[Tensor, Tensor] | None = None) -> tuple[Neighbours, Neighbours]:
        """Neighbours of the source in `target` and of `target` in the source, indices within the two.

        `known`: of each source row its k_forward best scores in other blocks, and of each target row its k_backward
        best in other sources, float64 [n, k], falling, -inf where there are fewer. Then only neighbours that are among
        the k best of these, too, need be right; other rows of a list hold -inf and -1, as do those of short sides.
        """
        source = self.source
        check_pair(source, target, 1)
        known_forward, known_backward = known or (None, None)
        forward = SideSearch(source, self.k_forward, known_forward)
        backward = SideSearch(target, self.k_backward, known_backward)
        scored = 0
        with exact_float32(source.dim, source.data.device):
            for rows in slices(source.count, self.source_rows):
                some_source = source.part(rows.start, rows.stop)
                prepared = self.prepared or prepare_source(some_source, target, self.screen)
                if self.source_rows >= source.count:
                    self.prepared = prepared
                for columns in slices(target.count, self.target_rows):
                    scored += self._search_tile(some_source, prepared, rows, columns, forward, backward)
        count = source.count + target.count
        # Rows without proof were searched another way; they are counted, not wrong.
        failed = int(forward.failed.sum()) + int(backward.failed.sum())
        save_report(Report(describe_path(self.screen) + ", two-way", count, count - failed, scored / count))
        return forward.best, backward.best

    def _search_tile(
        self,
        source: Rows,
        prepared: PreparedSource,
        rows: slice,
        columns: slice,
        forward: SideSearch,
        backward: SideSearch,
    ) -> int:
        """Search the rows `rows` of the source against some target rows, both ways; returns how many pairs were
        scored."""
        target = backward.rows.part(columns.start, columns.stop)
        ahead, back = forward.direction(rows), backward.direction(columns)
        forward_list, backward_list = screened(source, prepared, target, ahead, back, self.screen)
        forward_source, forward_target = forward_list.finish()
        backward_target, backward_source = backward_list.finish()
        scores = scores_of(
            prepared.scaled(source),
            target,
            torch.cat([forward_source, backward_source]),
            torch.cat([forward_target, backward_target]),
            scoring_step(source.dim, self.search_memory),
        )
        # What a screen let through is scored exactly here; only then are the neighbours chosen.
        forward_scores, backward_scores = scores.split([len(forward_source), len(backward_source)])

        best = best_pairs(forward_list, forward_source, forward_target, forward_scores)
        # Rows whose shortlist could not be proved whole are searched without the screen: the result stays exact. They
        # have more than `cap` survivors, so the side they are searched in has more than k rows.
        search_failed_rows(source, target, forward_list, *best, self.screen)
        forward.merge(rows, best, columns.start, forward_list.failed)
        best = best_pairs(backward_list, backward_target, backward_source, backward_scores)
        search_failed_rows(target, source, backward_list, *best, self.screen)
        backward.merge(columns, best, rows.start, backward_list.failed)
        return len(scores)


class SideSearch:
    """What has been found for one side so far: its neighbours, and the rows that a screen could not prove.

    `known` float64 [n, k]: scores of each row that are known from elsewhere, or None.
    """

    def __init__(self, rows: Rows, k: int, known: Tensor | None = None) -> None:
        device = rows.data.device
        self.rows, self.k, self.known = rows, k, known
        self.failed = torch.zeros(rows.count, dtype=torch.bool, device=device)
        self.best = Neighbours(
            torch.full((rows.count, k), -torch.inf, dtype=torch.float64, device=device),
            torch.full((rows.count, k), -1, dtype=torch.int64, device=device),
        )

    def direction(self, rows: slice) -> Direction:
        """What is asked about some rows of this side: pairs that can still be among their k best."""
        known = self.best.values[rows]
        if self.known is not None:
            known = torch.cat([self.known[rows], known], dim=1).sort(dim=1, descending=True).values[:, : self.k]
        # Few candidates would fail rows with many near-equal neighbours, many would cost memory for each row.
        return Direction(rows.stop - rows.start, self.k, max(CAP_FIRST, 16 * self.k), known)

    def merge(self, rows: slice, fresh: Ranked, first: int, failed: Tensor) -> None:
        """Takes in neighbours of `rows` whose indices count from `first` on, above all that were taken in before."""
        values, indices = self.best.values[rows], self.best.indices[rows]
        values[:], indices[:] = merge_topk([(values, indices), numbered_from(fresh, first)], self.k)
        self.failed[rows] |= failed


@dataclass(frozen=True)
class PreparedSource:
    """Source rows as a screen reads them: with the int8 screen `frame` and `queries`, else both sides' `centres` and
    `panels`. The targets' centre is that of the block they were made for; it is right for any other block."""

    frame: Frame | None = None
    queries: PreparedQueries | None = None
    centres: tuple[Tensor, Tensor] | None = None
    panels: list[Panel] = field(default_factory=list)

    def scaled(self, source: Rows) -> Rows:
        """The same rows to be scored exactly: where the screen keeps them as float32, in unit length, these."""
        # A source that meets many blocks of targets is so read and scaled once.
        return source if self.queries is None else Rows(self.queries.values, source.name)


def prepare_source(source: Rows, target: Rows, screen: str) -> PreparedSource:
    """The source as `screen` reads it, centred for `target`."""
    if screen == "int8":
        frame = Frame.of(int8_instructions(), target, source)
        return PreparedSource(frame, prepare_queries(source, frame, torch.get_num_threads()))
    centres = centre_of(source), centre_of(target)
    maker = PanelMaker(source, *centres, 2, getattr(torch, screen))
    return PreparedSource(centres=centres, panels=packed_panels(maker, SIDE_ROWS))


def screened(
    source: Rows, prepared: PreparedSource, target: Rows, ahead: Direction, back: Direction, screen: str
) -> tuple[Shortlist | Survivors, Shortlist | Survivors]:
    """The pairs that may be neighbours ahead and back, each score bounded once."""
    if prepared.frame is not None:
        return collect(prepared.queries or source, target, prepared.frame, ahead, back)
    assert prepared.centres is not None, "what is not int8 has centres"
    source_centre, target_centre = prepared.centres
    # The scores of panels lack the product of both centres (`bounds`).
    left_out = source_centre.double() @ target_centre.double()
    # Both sums of D <= 2^13 products, this one and that of a canonical score, may err by D 2^-53 of the lengths.
    left_out += 2.0**-36 * torch.linalg.vector_norm(source_centre) * torch.linalg.vector_norm(target_centre)
    device = target.data.device
    forward, backward = (
        Shortlist(side.rows, side.k, side.cap, device, None if side.known is None else side.known - left_out)
        for side in (ahead, back)
    )
    dtype = getattr(torch, screen)
    # The source's panels are kept, since every target block meets them all; the target's are made, used and dropped.
    target_maker = PanelMaker(target, target_centre, source_centre, 0, dtype)
    sweep(prepared.panels, make_panels(target_maker, fitting(SIDE_ROWS, dtype)), forward, backward)
    return forward, backward


def scores_of(source: Rows, target: Rows, source_row: Tensor, target_row: Tensor, step: int) -> Tensor:
    """Canonical scores [P] of both directions' pairs; one found both ways is scored once."""
    # Both numbers in one integer of 64 bits, so that a pair is one key to sort by.
    pairs, pair_of = torch.unique((source_row << 32) + target_row, return_inverse=True)
    return exact_scores(source, target, pairs >> 32, pairs & 0xFFFFFFFF, step)[pair_of]
