"""Exact search on a GPU around the Triton kernels of `kernel`: one way, or both ways from one pass.

The k best bank rows of a query lie in its k best groups of scores, so K >= k groups a split suffice. The splits are
merged, the groups' rows scored in float64 like on every other path, and each row proven: its k-th score must exceed the
upper bound of every group that was dropped, by the bound of `bounds` plus the key's truncation. Rows without that proof
(all their neighbours stand in one split, or hundreds are equal) are searched again with 64 groups a split, and after
that pair by pair. For k above 64 the bank is cut into so many splits (at most 16 of the k a split on average) that 64
groups a split nearly always hold them.

Columns need no such proof: every block of queries wrote its two best groups, so a block either has all its rows scored
(`column_groups`, its second group may matter), one group, or nothing, and nothing that may matter is dropped.

Both sides are taken in blocks (`ScratchLimits`), so scratch memory does not grow with the problem; blocks merge by
score, the lower index first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from stilts_kernels.common.canonical import by_block
from stilts_kernels.common.ranking import Ranked, merge_topk, rank_within_rows
from stilts_kernels.common.report import Report, log, save_report
from stilts_kernels.common.rows import Rows, check_pair
from stilts_kernels.topk.bounds import Panel, score_error
from stilts_kernels.topk.candidates import column_candidates, column_groups, fitting_spans, row_candidates, row_groups
from stilts_kernels.topk.configs import choose_config
from stilts_kernels.topk.kernel import GROUP, MAX_KEPT, Config, Side, interpreted, kept_groups, launch
from stilts_kernels.topk.pair_kernel import pair_scores
from stilts_kernels.topk.panels import BankPanels
from stilts_kernels.topk.reference import exhaustive

KEPT_SHARE = 4  # for k > 64: a split is expected to hold a quarter of what it could keep
NOTHING_DROPPED = -1e38  # below every score: only groups beyond the edge lie there
LEAST_SPLITS, PROGRAMS = 8, 1056  # programs: eight for each of an H200's 132 multiprocessors


def topk_cuda(queries: Rows, bank: Rows, k: int, prepared: BankPanels | None = None) -> Ranked:
    """Canonical top-k on a GPU, or under the interpreter: (values float64 [Q, k], indices int64 [Q, k]).

    `prepared`: `prepared_bank` of this bank.
    """
    with device_of(bank):
        return Search(queries, bank, k, prepared=prepared).run()[0]


def prepared_bank(bank: Rows) -> BankPanels:
    """What an `Index` keeps of a bank on a GPU. Raises ValueError on bad rows."""
    with device_of(bank):
        return BankPanels(bank).keep(ScratchLimits().rows_of_bank(bank.dim))


def two_way_cuda(source: Rows, target: Rows, k_forward: int, k_backward: int) -> tuple[Ranked, Ranked]:
    """Neighbours of source in target and of target in source; every score is computed once. As `mining.two_way`."""
    with device_of(target):
        return Search(source, target, k_forward, k_backward).run()


def device_of(rows: Rows) -> AbstractContextManager[object]:
    """Triton launches on the current device: makes that the one that holds the rows."""
    return torch.cuda.device(rows.data.device) if rows.data.is_cuda else nullcontext()


@dataclass(frozen=True)
class ScratchLimits:
    """Scratch memory of one search: a block of either side, candidate pairs scored at once, bytes of column keys."""

    bank_rows: int = 1 << 20
    panel_bytes: int = 1 << 31
    pairs: int = 1 << 25
    column_bytes: int = 1 << 30

    def rows_of_bank(self, dim: int) -> int:
        """Bank rows of one block."""
        return min(self.bank_rows, self.panel_bytes // (2 * dim))

    def rows_of_queries(self, k: int, dim: int, bank: int, block: int, two_way: bool) -> int:
        """Queries of one block, whole blocks of `block`; about 2 k groups of each are scored."""
        rows = min(self.pairs // (2 * GROUP * k), self.panel_bytes // (2 * dim))
        if two_way:
            key_bytes_per_block = 8 * min(bank, self.rows_of_bank(dim))
            rows = min(rows, self.column_bytes // key_bytes_per_block * block)
        return max(block, rows // block * block)

    def columns(self, k: int, blocks: int) -> int:
        """Bank rows whose column keys are read at once."""
        return max(1, min(self.pairs // (2 * GROUP * k), self.column_bytes // (64 * blocks)))


class Search:
    """One exact search of queries [Q, D] in bank [N, D]; `k_backward` asks for the other direction too.

    `prepared`: the bank's panels, made before.
    """

    def __init__(
        self,
        queries: Rows,
        bank: Rows,
        k: int,
        k_backward: int = 0,
        limits: ScratchLimits | None = None,
        config: Config | None = None,
        splits: int = 0,
        kept: int = 0,
        prepared: BankPanels | None = None,
    ) -> None:
        check_pair(queries, bank, k)
        if k_backward:
            check_pair(bank, queries, k_backward)
        device = bank.data.device
        self.panels = prepared or BankPanels(bank, queries)
        self.queries, self.bank = queries.measured(), self.panels.rows
        self.k, self.k_backward = k, k_backward
        self.limits, self.splits, self.two_way = limits or ScratchLimits(), splits, k_backward > 0
        self.kept = kept or kept_groups(k)
        self.left = self.panels.queries_maker(self.queries, self.two_way)
        self.config = config or choose_config(device, self.panels.dtype, queries.dim, self.kept, self.two_way)
        self.scored = 0
        self.failed_rows = torch.zeros(queries.count, dtype=torch.bool, device=device)
        self.failed_columns = torch.zeros(bank.count, dtype=torch.bool, device=device)

    def run(self) -> tuple[Ranked, Ranked]:
        """(forward [Q, k], backward [N, k_backward] or empty)."""
        dim = self.queries.dim
        query_rows = self.limits.rows_of_queries(
            max(self.k, self.k_backward), dim, self.bank.count, self.config["BM"], self.two_way
        )
        query_spans = list(spans(self.queries.count, query_rows))
        # Lists without columns: the first merge then has nothing to rank beside what it takes in.
        forward = [self._no_neighbours(stop - start) for start, stop in query_spans]
        backward = []
        bank_rows = self.limits.rows_of_bank(dim)
        if self.bank.count <= bank_rows:
            # One block, which memory holds anyway: rows without proof meet it again.
            self.panels.keep(bank_rows)
        query_panels = self._query_panels(query_spans)
        # The bank outside: its large blocks are made once, and the small ones of the queries for each of them.
        for right in self.panels.panels(bank_rows):
            nearest = self._no_neighbours(len(right))
            for number, (start, stop) in enumerate(query_spans):
                left = query_panels[number] if query_panels else self.left(start, stop)
                in_bank, in_queries = self._search_block(left, right)
                forward[number] = merge_topk([forward[number], in_bank], self.k)
                if in_queries is not None:
                    nearest = merge_topk([nearest, in_queries], self.k_backward)
            backward.append(nearest)
        return self._search_unproven(concatenated(forward), concatenated(backward))

    def _query_panels(self, query_spans: list[tuple[int, int]]) -> list[Panel]:
        """The panels of all queries, where several blocks of the bank meet them and they fit; else none."""
        fits = 2 * self.queries.dim * self.queries.count <= self.limits.panel_bytes
        if self.bank.count <= self.limits.rows_of_bank(self.queries.dim) or not fits:
            return []
        return [self.left(start, stop) for start, stop in query_spans]

    def _no_neighbours(self, count: int) -> Ranked:
        device = self.bank.data.device
        return (
            torch.empty(count, 0, dtype=torch.float64, device=device),
            torch.empty(count, 0, dtype=torch.int64, device=device),
        )

    def _search_block(self, left: Panel, right: Panel) -> tuple[Ranked, Ranked | None]:
        """Neighbours of a block of queries in a block of the bank, global indices, and the other way with two_way."""
        blocks = triton.cdiv(len(left), self.config["BM"])
        tiles = triton.cdiv(len(right), self.config["BN"])
        splits = self.splits or splits_for(blocks, tiles, self.k)
        keys = launch(*self.sides(left, right), self.kept, splits, self.config, self.two_way)
        error = score_error(left, right)
        may_matter, dropped = row_groups(keys.rows, keys.floors, error, self.k)
        nearest = []
        # Hundreds of equal rows all may matter: what is scored at once is cut, not what is scored.
        for start, stop in fitting_spans(GROUP * may_matter.sum(dim=1), self.limits.pairs):
            span = slice(start, stop)
            query, row = row_candidates(
                keys.rows[:, span], keys.tiles[:, span], may_matter[span], self.config["BN"], len(right)
            )
            nearest.append(self._rank(left.part(start, stop), right, query, row, self.k))
        values, indices = concatenated(nearest)
        # Screened scores lack a constant per query: compare the k-th score with the dropped groups without it.
        kth_score = (values[:, -1] - self._left_out(left)) * (left.scale * right.scale)
        proven = (kth_score > dropped) | (dropped < NOTHING_DROPPED)
        self.failed_rows[left.start : left.start + len(left)] |= ~proven
        if not self.two_way:
            return (values, indices), None
        return (values, indices), self._search_columns(left, right, keys.best, keys.second)

    def sides(self, left: Panel, right: Panel) -> tuple[Side, Side]:
        """What the kernel multiplies, and where its sums begin; rows multiplied as they are have no shifts."""
        if self.panels.exact:
            return Side(left.rows), Side(right.rows)
        # One way, a query's own shift is the same for all its scores and cannot change their order.
        query_shift = left.shift * right.scale if self.two_way else None
        return Side(left.rows, query_shift), Side(right.rows, right.shift * left.scale)

    def _left_out(self, left: Panel) -> Tensor:
        """What screened scores lack, float64 [q]: q.m one way, c.m both ways (0 when not centred)."""
        bank_centre = self.panels.centre.double()
        if self.two_way:
            return (self.panels.query_centre.double() @ bank_centre).expand(len(left))
        return self.queries.block(left.start, left.start + len(left)).double() @ bank_centre

    def _rank(self, left: Panel, right: Panel, query: Tensor, row: Tensor, k: int, backward: bool = False) -> Ranked:
        """Best k of the candidate pairs [P] (numbers within the panels) by exact score; missing places hold -inf."""
        self.scored += len(query)
        # `ranked` is the side whose rows get neighbours, `neighbour` the side that they are chosen from.
        ranked, neighbour = (row, query) if backward else (query, row)
        ranked_panel, neighbour_panel = (right, left) if backward else (left, right)
        # Rows are gathered in order, so that neighbouring programs read neighbouring memory.
        order = by_block(ranked, neighbour)
        score = pair_scores(self.queries, self.bank, query[order] + left.start, row[order] + right.start)
        ranked = ranked[order]
        neighbour = neighbour[order] + neighbour_panel.start
        order, position = rank_within_rows(ranked, score)
        among_best = position < k
        order, position = order[among_best], position[among_best]
        shape = len(ranked_panel), k
        values = torch.full(shape, -torch.inf, dtype=torch.float64, device=query.device)
        indices = torch.full(shape, -1, dtype=torch.int64, device=query.device)
        values[ranked[order], position] = score[order]
        indices[ranked[order], position] = neighbour[order]
        return values, indices

    def _search_columns(self, left: Panel, right: Panel, best: Tensor, second: Tensor) -> Ranked:
        """Neighbours of a block of the bank in a block of queries, from the column keys [blocks, n]."""
        error, k = score_error(right, left), self.k_backward
        nearest = []
        for start, stop in spans(len(right), self.limits.columns(k, len(best))):
            some_columns = right.part(start, stop)
            keys = best[:, start:stop].T
            groups = column_groups(keys, second[:, start:stop].T, error[start:stop], k, self.config)
            self.failed_columns[some_columns.start : some_columns.start + len(some_columns)] |= groups.failed
            for first, last in fitting_spans(groups.pairs(self.config), self.limits.pairs):
                column, row = column_candidates(keys[first:last], groups.part(first, last), self.config, len(left))
                nearest.append(self._rank(left, some_columns.part(first, last), row, column, k, backward=True))
        return concatenated(nearest)

    def _search_unproven(self, forward: Ranked, backward: Ranked) -> tuple[Ranked, Ranked]:
        """Searches rows and columns without proof another way, in place, and reports."""
        self._search_rows_again(self.failed_rows.nonzero()[:, 0], *forward)
        columns = self.failed_columns.nonzero()[:, 0]
        if len(columns):
            values, indices = backward
            values[columns], indices[columns] = exhaustive(
                self.bank, columns, self.queries, self.k_backward, pair_scores
            )
        rows = self.queries.count + (self.bank.count if self.two_way else 0)
        failures = int(self.failed_rows.sum()) + len(columns)
        path = "triton interpreter" if interpreted() else "triton fused, cuda"
        path += f", {self.panels.describe()}"
        save_report(Report(path + (", two-way" if self.two_way else ""), rows, rows - failures, self.scored / rows))
        return forward, backward

    def _search_rows_again(self, queries: Tensor, values: Tensor, indices: Tensor) -> None:
        """Searches the queries [F] with longer lists, or where lists were at their longest, pair by pair."""
        if len(queries) == 0:
            return
        # These lists were already the longest that a split can keep.
        if self.kept == MAX_KEPT:
            values[queries], indices[queries] = exhaustive(self.queries, queries, self.bank, self.k, pair_scores)
            return
        log.info("%d rows without proof: searched again with %d groups a split", len(queries), MAX_KEPT)
        kept = self.panels if self.panels.kept else None
        search = Search(
            self.queries.select(queries), self.bank, self.k, limits=self.limits, kept=MAX_KEPT, prepared=kept
        )
        values[queries], indices[queries] = search.run()[0]


def spans(count: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, step):
        yield start, min(count, start + step)


def splits_for(blocks: int, tiles: int, k: int) -> int:
    """Splits of the bank: enough programs to fill a GPU, enough lists to hold k groups, no more than tiles."""
    to_fill_gpu = triton.cdiv(PROGRAMS, blocks)
    # A split keeps at most 64 groups, so a larger k needs more splits.
    to_hold_k = triton.cdiv(KEPT_SHARE * k, MAX_KEPT) if k > MAX_KEPT else 1
    return min(tiles, max(LEAST_SPLITS, to_hold_k, to_fill_gpu))


def concatenated(rankings: list[Ranked]) -> Ranked:
    values, indices = zip(*rankings)
    return torch.cat(values), torch.cat(indices)
