"""The Triton kernel of the fused search: product with running top k over groups of scores.

`group_topk_kernel`: each program owns BM queries and one split of the bank. It walks the split tile by tile (BM x BN
scores) and reduces a tile while it is in registers. Scores are never written to memory.

Rows: each tile becomes the maxima of groups of 16 columns, and the K best groups of every query are kept as a packed
32-bit key: the order-preserving integer of the maximum, its low GROUP_BITS bits replaced by the group's number within
the tile. The reshape in `row_keys` follows the wgmma register layout (column = 8 j + 2 lane + e), so these maxima need
no shuffles, and a tile without a score above the running threshold costs one compare.

Columns (TWO_WAY): the same tile becomes, for every column, the maxima of groups of queries (one warp's rows), of which
the best two of the block are written as packed keys: 8 bytes for BM = 128 scores, 1/64 of a float32 score matrix. The
best two are enough to be exact: a column's other groups in the block are no better than the second, so only blocks
whose second group may belong to the top k need all their rows looked at (`candidates.column_groups`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

GROUP = 16  # scores of one group, along a row or along a column
GROUP_BITS = 4
EMPTY = -(2**31)
KEY_TRUNCATION = 2.0**-19  # relative; 4 of 23 fraction bits hold the group number
LOWEST = tl.constexpr(-3.0e38)  # a score beyond the edge; finite, so that its truncated key is a number too
NO_KEY = tl.constexpr(EMPTY)
LEAST_KEPT, MAX_KEPT = 8, 64  # groups a split keeps of each query

Config = dict[str, int]


@triton.jit
def sortable_key(x: tl.tensor, group: tl.tensor, GROUP_BITS: tl.constexpr) -> tl.tensor:
    """int32 key ordered like float32 x, low bits replaced by the group number."""
    bits = x.to(tl.int32, bitcast=True)
    # Floats order like integers of sign and magnitude: the magnitude of negative ones is turned over.
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits & (-(1 << GROUP_BITS))) | group


@triton.jit
def row_keys(
    acc: tl.tensor, BM: tl.constexpr, BN: tl.constexpr, GROUPS: tl.constexpr, GROUP_BITS: tl.constexpr
) -> tl.tensor:
    """Keys [BM, GROUPS] of the group maxima of a tile of scores; all reductions stay inside a thread."""
    # A lane holds all 16 columns of a group (the wgmma layout above), so both maxima are over its own registers.
    split = tl.reshape(acc, [BM, GROUPS // 4, BN // (2 * GROUPS), 4, 2])
    maxima = tl.reshape(tl.max(tl.max(split, axis=4), axis=2), [BM, GROUPS])
    return sortable_key(maxima, tl.arange(0, GROUPS)[None, :], GROUP_BITS)


@triton.jit
def column_keys(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    acc,
    BM: tl.constexpr,
    BN: tl.constexpr,
    ROW_GROUPS: tl.constexpr,
    GROUP_BITS: tl.constexpr,
):
    """(best, second) int32 keys [BN] of the row groups of a tile of scores; `second` is empty for one group.

    One group is what one warp holds: 16 rows of every 16 ROW_GROUPS, so that maxima take shuffles but no exchange.
    """
    warps = tl.reshape(acc, [BM // (16 * ROW_GROUPS), ROW_GROUPS, 16, BN])
    # Over axis 0 first, which lies within a thread's own registers.
    maxima = tl.max(tl.max(warps, axis=0), axis=1)
    keys = sortable_key(maxima, tl.arange(0, ROW_GROUPS)[:, None], GROUP_BITS)
    best = tl.max(keys, axis=0)
    return best, tl.max(tl.where(keys == best[None, :], NO_KEY, keys), axis=0)


@triton.jit
def take_best(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    keys,
    top,
    best,
    where,
    floor,
    tile,
    K: tl.constexpr,
):
    """One turn of insertion: of every query whose best group of the tile is above its floor, that group replaces the
    weakest of its list.

    keys int32 [BM, GROUPS] of the tile and their maxima top [BM]; best, where int32 [BM, K] the lists; floor [BM].
    Returns (keys, best, where).
    """
    slots = tl.arange(0, K)
    better = top > floor
    # Equal keys may fill several slots; the first of them is given up.
    weakest = tl.min(tl.where(best == tl.min(best, axis=1)[:, None], slots[None, :], K), axis=1)
    put = better[:, None] & (slots[None, :] == weakest[:, None])
    best = tl.where(put, top[:, None], best)
    where = tl.where(put, tile, where)
    # The group that was taken is struck out, so that the next best of the tile comes up.
    return tl.where(better[:, None] & (keys == top[:, None]), NO_KEY, keys), best, where


@triton.jit
def group_topk_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    queries,
    bank,
    query_shifts,
    bank_shifts,
    floors,
    out_keys,
    out_tiles,
    out_best,
    out_second,
    query_count,
    bank_count,
    tiles_per_split,
    DIM: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    K: tl.constexpr,
    GROUPS: tl.constexpr,
    ROW_GROUPS: tl.constexpr,
    GROUP_BITS: tl.constexpr,
    STAGES: tl.constexpr,
    USE_TMA: tl.constexpr,
    TWO_WAY: tl.constexpr,
    SHIFTED: tl.constexpr,
    SHARED_FLOOR: tl.constexpr,
    SPECIALIZED: tl.constexpr,
):
    """out_keys, out_tiles int32 [splits, Q, K]: the K best groups of each query in this program's split, unsorted.

    floors int32 [Q], empty at the start: the largest of the weakest keys of a query's full lists. With TWO_WAY also
    out_best, out_second int32 [blocks of BM queries, N]: the two best row groups of each column. queries [Q, DIM] and
    bank [N, DIM] are tensor descriptors with USE_TMA, else pointers to contiguous rows. With SHIFTED scores begin at
    bank_shifts float32 [N], with TWO_WAY plus query_shifts float32 [Q].
    """
    block, split = tl.program_id(0), tl.program_id(1)
    rows = block * BM + tl.arange(0, BM)
    slots = tl.arange(0, K)
    best = tl.full([BM, K], NO_KEY, tl.int32)
    where = tl.full([BM, K], 0, tl.int32)
    floor = tl.full([BM], NO_KEY, tl.int32)
    first = split * tiles_per_split
    for tile in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(bank_count, BN))):
        columns = tile * BN + tl.arange(0, BN)
        acc = tl.zeros([BM, BN], tl.float32)
        if SHIFTED:
            # The sum begins at the shifts: no columns for them, and no step of its own after the product.
            acc += tl.load(bank_shifts + columns, mask=columns < bank_count, other=0.0)[None, :]
        if SHIFTED and TWO_WAY:
            acc += tl.load(query_shifts + rows, mask=rows < query_count, other=0.0)[:, None]
        for d in tl.range(0, DIM, BK, num_stages=STAGES, warp_specialize=SPECIALIZED):
            if USE_TMA:
                left = queries.load([block * BM, d])
                right = bank.load([tile * BN, d])
            else:
                depth = d + tl.arange(0, BK)
                left = tl.load(
                    queries + rows[:, None].to(tl.int64) * DIM + depth[None, :],
                    mask=(rows[:, None] < query_count) & (depth[None, :] < DIM),
                    other=0.0,
                )
                right = tl.load(
                    bank + columns[:, None].to(tl.int64) * DIM + depth[None, :],
                    mask=(columns[:, None] < bank_count) & (depth[None, :] < DIM),
                    other=0.0,
                )
            # Beyond the edge both loads give zeros, so a padded column scores 0: it is masked below.
            acc = tl.dot(left, right.T, acc)
        if (tile + 1) * BN > bank_count:  # a mask on every tile would double the cost of the filter
            acc = tl.where(columns[None, :] < bank_count, acc, LOWEST)
        keys = row_keys(acc, BM, BN, GROUPS, GROUP_BITS)
        if TWO_WAY:
            if (block + 1) * BM > query_count:
                acc = tl.where((rows < query_count)[:, None], acc, LOWEST)
            # Of the masked scores: a query beyond the edge must not be a column's best.
            strongest, second = column_keys(acc, BM, BN, ROW_GROUPS, GROUP_BITS)
            position = block.to(tl.int64) * bank_count + columns
            tl.store(out_best + position, strongest, mask=columns < bank_count)
            tl.store(out_second + position, second, mask=columns < bank_count)
        top = tl.max(keys, axis=1)
        hits = tl.max((top > floor).to(tl.int32), axis=0)
        if SHARED_FLOOR and hits > 0:
            # Only where something would be inserted. What other splits wrote since is missed, which is safe: floors
            # rise. So it depends on time which groups are kept, and never what is found: every group above the last
            # floor is, and a row is proven only if its k-th score is above that floor.
            shared = tl.load(floors + rows, mask=rows < query_count, other=NO_KEY, volatile=True)
            floor = tl.maximum(floor, shared)
            hits = tl.max((top > floor).to(tl.int32), axis=0)
        # Each turn takes at most one group of every query; most tiles bring none, and cost the one comparison above.
        while hits > 0:
            keys, best, where = take_best(keys, top, best, where, floor, tile, K)
            floor = tl.maximum(floor, tl.min(best, axis=1))
            top = tl.max(keys, axis=1)
            hits = tl.max((top > floor).to(tl.int32), axis=0)
            if SHARED_FLOOR:
                tl.atomic_max(floors + rows, floor, mask=rows < query_count, sem="relaxed")
    tl.atomic_max(floors + rows, tl.min(best, axis=1), mask=rows < query_count, sem="relaxed")
    at = (split * query_count + rows[:, None]).to(tl.int64) * K + slots[None, :]
    inside = rows[:, None] < query_count
    tl.store(out_keys + at, best, mask=inside)
    tl.store(out_tiles + at, where, mask=inside)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def kept_groups(k: int) -> int:
    """Groups a split keeps of each query: more than k where that is cheap, so that few rows lack proof."""
    return min(MAX_KEPT, max(LEAST_KEPT, triton.next_power_of_2(k)))


def kernel_constants(config: Config, dim: int, kept: int, shifted: bool, two_way: bool = False) -> dict[str, int]:
    """constexpr arguments of `group_topk_kernel` for one configuration."""
    return {
        "DIM": dim,
        "BM": config["BM"],
        "BN": config["BN"],
        "BK": config["BK"],
        "K": kept,
        "GROUPS": config["BN"] // GROUP,
        "ROW_GROUPS": config["ROW_GROUPS"],
        "GROUP_BITS": GROUP_BITS,
        "STAGES": config["STAGES"],
        # Hopper and later load tiles by tensor descriptors; older GPUs have no such unit.
        "USE_TMA": config["USE_TMA"],
        "TWO_WAY": two_way,
        "SHIFTED": shifted,
        "SHARED_FLOOR": config["SHARED_FLOOR"],
        # Triton takes a bool here, and nothing that counts as one.
        "SPECIALIZED": bool(config["SPECIALIZED"]),
    }


@dataclass(frozen=True)
class Side:
    """One side as the kernel reads it: rows [n, C], 16-bit, contiguous, C a multiple of 8 (tensor descriptors want rows
    of a multiple of 16 bytes), and what its scores begin at, float32 [n], or None."""

    rows: Tensor
    shifts: Tensor | None = None

    def tiles(self, height: int, config: Config) -> Tensor | TensorDescriptor:
        """A descriptor of tiles `height` x BK where TMA is used, else the rows."""
        return TensorDescriptor.from_tensor(self.rows, [height, config["BK"]]) if config["USE_TMA"] else self.rows


@dataclass(frozen=True)
class Keys:
    """What the kernel wrote, int32: of every query `rows` and `tiles` [splits, Q, kept] and `floors` [Q], the key that
    bounds all groups left out; of every column (best, second) [blocks, N], one unused element one way."""

    rows: Tensor
    tiles: Tensor
    floors: Tensor
    best: Tensor
    second: Tensor


def launch(queries: Side, bank: Side, kept: int, splits: int, config: Config, two_way: bool = False) -> Keys:
    """Starts the search kernel on queries [Q, C] and bank [N, C]; every element of the outputs is written by it."""
    query_count, dim = queries.rows.shape
    bank_count, device = len(bank.rows), bank.rows.device
    shifted = bank.shifts is not None
    constants = kernel_constants(config, dim, kept, shifted, two_way)
    blocks, tiles = triton.cdiv(query_count, config["BM"]), triton.cdiv(bank_count, config["BN"])
    floors = torch.full((query_count,), EMPTY, dtype=torch.int32, device=device)
    # Not zeroed: the kernel writes every element.
    keys, where = torch.empty(2, splits, query_count, kept, dtype=torch.int32, device=device)
    column_shape = (2, blocks, bank_count) if two_way else (2, 1, 1)
    best, second = torch.empty(column_shape, dtype=torch.int32, device=device)
    # A kernel takes a pointer for every argument, also for one that it does not read.
    unread = floors.view(torch.float32)
    group_topk_kernel[(blocks, splits)](
        queries.tiles(config["BM"], config),
        bank.tiles(config["BN"], config),
        unread if queries.shifts is None else queries.shifts,
        unread if bank.shifts is None else bank.shifts,
        floors,
        keys,
        where,
        best,
        second,
        query_count,
        bank_count,
        triton.cdiv(tiles, splits),
        **constants,
        num_warps=config["num_warps"],
        maxnreg=config["maxnreg"],
    )
    return Keys(keys, where, floors, best, second)


def key_bounds(keys: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """(lower, upper) float32 bounds on the exact group maxima behind keys [..., R, K], error [R]; empty slots -inf."""
    bits = keys & -(1 << GROUP_BITS)
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    # The key lost its low bits, so the bound widens by what they may have held.
    slack = error[:, None] + KEY_TRUNCATION * value.abs()
    empty = keys == EMPTY
    return torch.where(empty, -torch.inf, value - slack), torch.where(empty, -torch.inf, value + slack)


def group_columns(keys: Tensor, tiles: Tensor, tile_columns: int) -> Tensor:
    """Bank rows [P, 16] of packed groups [P]; the inverse of the reshape in `row_keys`."""
    group = keys & (1 << GROUP_BITS) - 1
    inner = torch.arange(GROUP, dtype=torch.int64, device=keys.device)
    # 64 columns hold four groups, two columns of each in every eight.
    start = tiles.long() * tile_columns + group // 4 * 64 + group % 4 * 2
    return start[:, None] + inner // 2 * 8 + inner % 2
