"""Exact search on a GPU around the Triton kernels of `fused_kernel`: one way, or both ways from one pass.

The k best bank rows of a query lie in its k best groups of scores, so K >= k groups a split suffice. The splits are
merged, the groups' rows scored in float64 like on every other path, and each row proven: its k-th score must exceed the
upper bound of every group that was dropped, by the bound of `panels` plus the key's truncation. Rows without that proof
(all their neighbours stand in one split, or hundreds are equal) are searched again with 64 groups a split, and after
that pair by pair. For k above 64 the bank is cut into so many splits (at most 16 of the k a split on average) that 64
groups a split nearly always hold them.

Columns need no such proof: every block of queries wrote its two best groups, so a block either has all its rows scored
(`open`, its second group may matter), one group, or nothing, and nothing that may matter is dropped.

Both sides are taken in blocks (`Limits`), so scratch memory does not grow with the problem; blocks merge by score, the
lower index first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from stilts_kernels.fused_kernel import (
    EMPTY,
    GROUP,
    MAX_KEPT,
    Config,
    PairScores,
    group_columns,
    interpreted,
    kept_groups,
    key_bounds,
    launch,
)
from stilts_kernels.panels import Panel, PanelMaker, score_error
from stilts_kernels.reference import exhaustive
from stilts_kernels.rows import Rows, by_block, check_pair
from stilts_kernels.screen import Report, centre_of, log, merge_topk, record
from stilts_kernels.shortlist import places
from stilts_kernels.tuning import choose_config

KEPT_SHARE = 4  # for k > 64: a split is expected to hold a quarter of what it could keep
NOTHING_DROPPED = -1e38  # below every score: only groups beyond the edge lie there
LEAST_SPLITS, PROGRAMS = 8, 1056  # programs: eight for each of an H200's 132 multiprocessors

Found = tuple[Tensor, Tensor]  # values float64 [n, k], falling, and indices int64 [n, k]


@dataclass(frozen=True)
class Limits:
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
            rows = min(rows, self.column_bytes // (8 * min(bank, self.rows_of_bank(dim))) * block)
        return max(block, rows // block * block)

    def columns(self, k: int, blocks: int) -> int:
        """Bank rows whose column keys are read at once."""
        return max(1, min(self.pairs // (2 * GROUP * k), self.column_bytes // (64 * blocks)))


def spans(count: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, step):
        yield start, min(count, start + step)


def splits_for(blocks: int, tiles: int, k: int) -> int:
    """Splits of the bank: enough programs to fill a GPU, enough lists to hold k groups, no more than tiles."""
    return min(tiles, max(LEAST_SPLITS, triton.cdiv(KEPT_SHARE * k, MAX_KEPT) if k > MAX_KEPT else 1,
                          triton.cdiv(PROGRAMS, blocks)))


class Search:
    """One exact search of queries [Q, D] in bank [N, D]; `k_backward` asks for the other direction too."""

    def __init__(self, queries: Rows, bank: Rows, k: int, k_backward: int = 0, limits: Limits | None = None,
                 config: Config | None = None, splits: int = 0, kept: int = 0) -> None:
        check_pair(queries, bank, k)
        if k_backward:
            check_pair(bank, queries, k_backward)
        self.queries, self.bank, self.k, self.k_backward = queries, bank, k, k_backward
        self.limits, self.splits, self.two_way = limits or Limits(), splits, k_backward > 0
        self.kept = kept or kept_groups(k)
        self._make_panels()
        self.config = config or choose_config(bank.data.device, self.left.dtype, queries.dim, self.kept, self.two_way)
        self.score, self.scored = PairScores(queries, bank), 0
        self.failed_rows = torch.zeros(queries.count, dtype=torch.bool, device=bank.data.device)
        self.failed_columns = torch.zeros(bank.count, dtype=torch.bool, device=bank.data.device)

    def _make_panels(self) -> None:
        """16-bit inputs of one dtype are multiplied as they are, float32 and unit rows centred and rounded."""
        queries, bank = self.queries, self.bank
        self.exact = queries.data.dtype == bank.data.dtype != torch.float32 and not bank.unit
        dtype = torch.float16 if interpreted() else bank.data.dtype if self.exact else torch.bfloat16
        zero = torch.zeros(queries.dim, device=bank.data.device)
        centre, bank_centre = (zero, zero) if self.exact else (centre_of(queries), centre_of(bank))
        query_shift = bank_centre if self.two_way and not self.exact else None
        self.left = PanelMaker(queries, centre, query_shift, 2, dtype)
        self.right = PanelMaker(bank, bank_centre, None if self.exact else centre, 0, dtype)

    def run(self) -> tuple[Found, Found]:
        """(forward [Q, k], backward [N, k_backward] or empty)."""
        dim, bank_rows = self.queries.dim, self.limits.rows_of_bank(self.queries.dim)
        query_rows = self.limits.rows_of_queries(max(self.k, self.k_backward), dim, self.bank.count, self.config["BM"],
                                                 self.two_way)
        forward: list[Found] = []
        backward = [self.nothing(stop - start) for start, stop in spans(self.bank.count, bank_rows)]
        for start, stop in spans(self.queries.count, query_rows):
            left, found = self.left(start, stop), self.nothing(stop - start)
            for number, (first, last) in enumerate(spans(self.bank.count, bank_rows)):
                ahead, back = self.block(left, self.right(first, last))
                found = merge_topk([found, ahead], self.k)
                if back is not None:
                    backward[number] = merge_topk([backward[number], back], self.k_backward)
            forward.append(found)
        return self.settled(joined(forward), joined(backward))

    def nothing(self, count: int) -> Found:
        device = self.bank.data.device
        return (torch.empty(count, 0, dtype=torch.float64, device=device),
                torch.empty(count, 0, dtype=torch.int64, device=device))

    def block(self, left: Panel, right: Panel) -> tuple[Found, Found | None]:
        """Neighbours of a block of queries in a block of the bank, global indices, and the other way with two_way."""
        splits = self.splits or splits_for(triton.cdiv(len(left), self.config["BM"]),
                                           triton.cdiv(len(right), self.config["BN"]), self.k)
        keys, tiles, best, second = launch(self.columns(left), self.columns(right), self.kept, splits, self.config,
                                           self.two_way)
        query, row, bound = row_candidates(keys, tiles, score_error(left, right), self.k, self.config["BN"], len(right))
        values, indices = self.ranked(left, right, query, row, self.k)
        proven = (values[:, -1] - self.left_out(left) > bound) | (bound < NOTHING_DROPPED)
        self.failed_rows[left.start : left.start + len(left)] |= ~proven
        if not self.two_way:
            return (values, indices), None
        return (values, indices), self.column_block(left, right, best, second)

    def columns(self, panel: Panel) -> Tensor:
        """The panel's rows without unused shift columns, zero columns up to a multiple of 8; aligned for TMA."""
        rows = panel.rows[:, : self.queries.dim] if self.exact else panel.rows
        whole = rows.new_zeros(len(rows), triton.cdiv(rows.shape[1], 8) * 8)
        whole[:, : rows.shape[1]] = rows
        return whole

    def left_out(self, left: Panel) -> Tensor:
        """What screened scores lack, float64 [q]: q.m one way, c.m both ways (0 when not centred)."""
        centre = self.right.centre.double()
        if self.two_way:
            return (self.left.centre.double() @ centre).expand(len(left))
        return self.queries.block(left.start, left.start + len(left)).double() @ centre

    def ranked(self, left: Panel, right: Panel, query: Tensor, row: Tensor, k: int, backward: bool = False) -> Found:
        """Best k of the candidate pairs [P] (numbers within the panels) by exact score; missing places hold -inf."""
        self.scored += len(query)
        own, other = (row, query) if backward else (query, row)
        order = by_block(own, other)
        score = self.score(self.queries, self.bank, query[order] + left.start, row[order] + right.start)
        own, other = own[order], other[order] + (left if backward else right).start
        order, place = places(own, score)
        order, place = order[place < k], place[place < k]
        count = len(right if backward else left)
        values = torch.full((count, k), -torch.inf, dtype=torch.float64, device=query.device)
        indices = torch.full((count, k), -1, device=query.device)
        values[own[order], place], indices[own[order], place] = score[order], other[order]
        return values, indices

    def column_block(self, left: Panel, right: Panel, best: Tensor, second: Tensor) -> Found:
        """Neighbours of a block of the bank in a block of queries, from the column keys [blocks, n]."""
        error, k = score_error(right, left), self.k_backward
        found = []
        for start, stop in spans(len(right), self.limits.columns(k, len(best))):
            part = right.part(start, stop)
            column, row, failed = column_candidates(best[:, start:stop].T, second[:, start:stop].T, error[start:stop],
                                                    k, self.config, len(left))
            self.failed_columns[part.start : part.start + len(part)] |= failed
            found.append(self.ranked(left, part, row, column, k, backward=True))
        return joined(found)

    def settled(self, forward: Found, backward: Found) -> tuple[Found, Found]:
        """Searches rows and columns without proof another way, in place, and reports."""
        self.redo(self.failed_rows.nonzero()[:, 0], *forward)
        which = self.failed_columns.nonzero()[:, 0]
        if len(which):
            backward[0][which], backward[1][which] = exhaustive(self.bank, which, self.queries, self.k_backward,
                                                                self.score.swapped())
        rows = self.queries.count + (self.bank.count if self.two_way else 0)
        failures = int(self.failed_rows.sum()) + len(which)
        path = "triton interpreter" if interpreted() else "triton fused, cuda"
        record(Report(path + (", two-way" if self.two_way else ""), rows, rows - failures, self.scored / rows))
        return forward, backward

    def redo(self, which: Tensor, values: Tensor, indices: Tensor) -> None:
        """Searches the queries `which` [F] with longer lists, or where lists were at their longest, pair by pair."""
        if len(which) == 0:
            return
        if self.kept == MAX_KEPT:
            values[which], indices[which] = exhaustive(self.queries, which, self.bank, self.k, self.score)
            return
        part = Rows(self.queries.data[which], self.queries.name, self.queries.unit)
        log.info("%d rows without proof: searched again with %d groups a split", len(which), MAX_KEPT)
        values[which], indices[which] = Search(part, self.bank, self.k, limits=self.limits, kept=MAX_KEPT).run()[0]


def joined(parts: list[Found]) -> Found:
    values, indices = zip(*parts)
    return torch.cat(values), torch.cat(indices)


def row_candidates(keys: Tensor, tiles: Tensor, error: Tensor, k: int, tile_columns: int,
                   count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(query, row, bound): pairs [P] that may be among the k best, and the upper bound [Q] of all other groups."""
    lower, upper = key_bounds(keys, error)
    full = (keys != EMPTY).all(dim=2)
    dropped = torch.where(full, upper.min(dim=2).values, -torch.inf).max(dim=0).values
    splits, queries, kept = keys.shape
    flat_lower, flat_upper = (side.transpose(0, 1).reshape(queries, splits * kept) for side in (lower, upper))
    query, slot = ((flat_upper >= floor_of(flat_lower, k)) & (flat_upper > -torch.inf)).nonzero(as_tuple=True)
    at = (slot // kept, query, slot % kept)
    rows = group_columns(keys[at], tiles[at], tile_columns)
    inside = rows < count
    return query[:, None].expand_as(rows)[inside], rows[inside], dropped


def column_candidates(best: Tensor, second: Tensor, error: Tensor, k: int, config: Config,
                      count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(column, row, failed): pairs [P] that hold the k best of every column, and columns [n] with too many of them.

    best, second int32 [n, blocks]: each block's two best groups of a column; rows count to `count` over all blocks.
    """
    (best_lower, best_upper), (second_lower, second_upper) = (key_bounds(keys, error) for keys in (best, second))
    floor = floor_of(torch.cat([best_lower, second_lower], dim=1), k)
    whole = second_upper >= floor  # a third group may matter as well: look at all rows of the block
    single = (best_upper >= floor) & ~whole
    height = config["BM"] // config["ROW_GROUPS"]
    failed = whole.sum(dim=1) * config["BM"] + single.sum(dim=1) * height > max(4096, 64 * k)
    whole, single = (side & ~failed[:, None] for side in (whole, single))
    column, block = single.nonzero(as_tuple=True)
    in_group = group_rows(best[column, block], config) + block[:, None] * config["BM"]
    wide_column, block = whole.nonzero(as_tuple=True)
    in_block = torch.arange(config["BM"], device=block.device) + block[:, None] * config["BM"]
    rows = torch.cat([in_group.reshape(-1), in_block.reshape(-1)])
    columns = torch.cat([column.repeat_interleave(height), wide_column.repeat_interleave(config["BM"])])
    return columns[rows < count], rows[rows < count], failed


def floor_of(lower: Tensor, k: int) -> Tensor:
    """The k-th largest lower bound [n, 1] of lower [n, G]; -inf where there are fewer."""
    if k > lower.shape[1]:
        return torch.full((len(lower), 1), -torch.inf, device=lower.device)
    return lower.topk(k, dim=1).values[:, -1:]


def group_rows(keys: Tensor, config: Config) -> Tensor:
    """Rows within a block [P, BM / ROW_GROUPS] of packed row groups [P]; the inverse of `column_keys`."""
    inner = torch.arange(config["BM"] // config["ROW_GROUPS"], device=keys.device)
    return (keys.long() & GROUP - 1)[:, None] * 16 + inner // 16 * 16 * config["ROW_GROUPS"] + inner % 16


def device_of(rows: Rows) -> AbstractContextManager[object]:
    """Triton launches on the current device: makes that the one that holds the rows."""
    return torch.cuda.device(rows.data.device) if rows.data.is_cuda else nullcontext()


def topk_cuda(queries: Rows, bank: Rows, k: int) -> Found:
    """Canonical top-k on a GPU, or under the interpreter: (values float64 [Q, k], indices int64 [Q, k])."""
    with device_of(bank):
        return Search(queries, bank, k).run()[0]


def two_way_cuda(source: Rows, target: Rows, k_forward: int, k_backward: int) -> tuple[Found, Found]:
    """Neighbours of source in target and of target in source; every score is computed once. As `mining.two_way`."""
    with device_of(target):
        return Search(source, target, k_forward, k_backward).run()
