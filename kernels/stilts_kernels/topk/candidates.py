"""From the packed keys of the fused kernel to the pairs to score exactly: none that may matter is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from stilts_kernels.topk.kernel import GROUP, Config, group_columns, key_bounds

MOST_CANDIDATES, CANDIDATES_PER_K = 4096, 64  # of one column; with more it is searched pair by pair


def row_groups(keys: Tensor, floors: Tensor, error: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(may_matter, dropped): groups bool [Q, splits * kept] that may hold one of the k best, and the upper bound [Q] of
    all groups that were dropped.

    keys int32 [splits, Q, kept] and floors int32 [Q] of the row kernel, error [Q].
    """
    lower, upper = key_bounds(keys, error)
    # A split drops what is not above the weakest key of its own full list, or of another's: the floor is the largest of
    # those. No list was full where it is empty, and nothing was dropped.
    dropped = key_bounds(floors[:, None], error)[1][:, 0]
    splits, queries, kept = keys.shape
    lower_of_query = lower.transpose(0, 1).reshape(queries, splits * kept)
    upper_of_query = upper.transpose(0, 1).reshape(queries, splits * kept)
    return (upper_of_query >= floor_of(lower_of_query, k)) & (upper_of_query > -torch.inf), dropped


def row_candidates(
    keys: Tensor, tiles: Tensor, may_matter: Tensor, tile_columns: int, count: int
) -> tuple[Tensor, Tensor]:
    """(query, row): the pairs [P] of the groups that may matter.

    keys, tiles int32 [splits, Q, kept] of the row kernel; bank rows count to `count`.
    """
    kept = keys.shape[2]
    query, slot = may_matter.nonzero(as_tuple=True)
    key_at = (slot // kept, query, slot % kept)
    rows = group_columns(keys[key_at], tiles[key_at], tile_columns)
    inside = rows < count
    return query[:, None].expand_as(rows)[inside], rows[inside]


@dataclass(frozen=True)
class ColumnGroups:
    """Bool [n, blocks]: blocks of which a column's best group may matter, or all rows; `failed` [n] has too many."""

    one_group: Tensor
    whole_block: Tensor
    failed: Tensor

    def part(self, start: int, stop: int) -> ColumnGroups:
        span = slice(start, stop)
        return ColumnGroups(self.one_group[span], self.whole_block[span], self.failed[span])

    def pairs(self, config: Config) -> Tensor:
        """Pairs [n] that the groups stand for."""
        group_height = config["BM"] // config["ROW_GROUPS"]
        return self.whole_block.sum(dim=1) * config["BM"] + self.one_group.sum(dim=1) * group_height


def column_groups(best: Tensor, second: Tensor, error: Tensor, k: int, config: Config) -> ColumnGroups:
    """Where the k best of every column may be.

    best, second int32 [n, blocks]: each block's two best groups of a column, error [n].
    """
    best_lower, best_upper = key_bounds(best, error)
    second_lower, second_upper = key_bounds(second, error)
    floor = floor_of(torch.cat([best_lower, second_lower], dim=1), k)
    whole_block = second_upper >= floor  # a third group may matter as well: look at all rows of the block
    one_group = (best_upper >= floor) & ~whole_block
    pairs = ColumnGroups(one_group, whole_block, whole_block[:, 0]).pairs(config)
    failed = pairs > max(MOST_CANDIDATES, CANDIDATES_PER_K * k)
    return ColumnGroups(one_group & ~failed[:, None], whole_block & ~failed[:, None], failed)


def column_candidates(best: Tensor, groups: ColumnGroups, config: Config, count: int) -> tuple[Tensor, Tensor]:
    """(column, row): the pairs [P] of the groups that may matter; best int32 [n, blocks], rows count to `count`."""
    block_rows = config["BM"]
    group_height = block_rows // config["ROW_GROUPS"]
    column_of_group, block = groups.one_group.nonzero(as_tuple=True)
    rows_of_group = group_rows(best[column_of_group, block], config) + block[:, None] * block_rows
    column_of_block, block = groups.whole_block.nonzero(as_tuple=True)
    row_in_block = torch.arange(block_rows, dtype=torch.int64, device=block.device)
    rows_of_block = row_in_block + block[:, None] * block_rows
    row = torch.cat([rows_of_group.reshape(-1), rows_of_block.reshape(-1)])
    column = torch.cat([column_of_group.repeat_interleave(group_height), column_of_block.repeat_interleave(block_rows)])
    inside = row < count
    return column[inside], row[inside]


def fitting_spans(counts: Tensor, most: int) -> Iterator[tuple[int, int]]:
    """Consecutive spans (start, stop) whose counts [n] add up to at most `most`; one that has more is alone."""
    totals = counts.cumsum(0).cpu()
    start = done = 0
    while start < len(totals):
        within = int(torch.searchsorted(totals, done + most, right=True))
        stop = max(start + 1, within)
        yield start, stop
        start, done = stop, int(totals[stop - 1])


def floor_of(lower: Tensor, k: int) -> Tensor:
    """The k-th largest lower bound [n, 1] of lower [n, G]; -inf where there are fewer."""
    if k > lower.shape[1]:
        return torch.full((len(lower), 1), -torch.inf, dtype=lower.dtype, device=lower.device)
    return lower.topk(k, dim=1).values[:, -1:]


def group_rows(keys: Tensor, config: Config) -> Tensor:
    """Rows within a block [P, BM / ROW_GROUPS] of packed row groups [P]; the inverse of `kernel.column_keys`."""
    height = config["BM"] // config["ROW_GROUPS"]
    group = (keys.long() & GROUP - 1)[:, None]
    inner = torch.arange(height, dtype=torch.int64, device=keys.device)
    return group * 16 + inner // 16 * 16 * config["ROW_GROUPS"] + inner % 16
