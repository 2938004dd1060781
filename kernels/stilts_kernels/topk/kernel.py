"""The Triton kernels of the fused search: product with running top k over groups of scores, and exact pair scores.

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

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from stilts_kernels.common.rows import Rows

GROUP = 16  # scores of one group, along a row or along a column
GROUP_BITS = 4
EMPTY = -(2**31)
KEY_TRUNCATION = 2.0**-19  # relative; 4 of 23 fraction bits hold the group number
LOWEST = tl.constexpr(-3.0e38)  # a score beyond the edge; finite, so that its truncated key is a number too
NO_KEY = tl.constexpr(EMPTY)
LEAST_KEPT, MAX_KEPT = 8, 64  # groups a split keeps of each query
PAIR_BLOCK, PAIR_DEPTH = 8, 128  # larger blocks spill
INTERPRETED_PAIRS = 512

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
def group_topk_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    queries,
    bank,
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
):
    """out_keys, out_tiles int32 [splits, Q, K]: the K best groups of each query in this program's split, unsorted.

    With TWO_WAY also out_best, out_second int32 [blocks of BM queries, N]: the two best row groups of each column.
    queries [Q, DIM] and bank [N, DIM] are tensor descriptors with USE_TMA, else pointers to contiguous rows.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    slots = tl.arange(0, K)
    best = tl.full([BM, K], NO_KEY, tl.int32)
    where = tl.full([BM, K], 0, tl.int32)
    floor = tl.full([BM], NO_KEY, tl.int32)
    first = split * tiles_per_split
    for tile in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(bank_count, BN))):
        acc = tl.zeros([BM, BN], tl.float32)
        for d in tl.range(0, DIM, BK, num_stages=STAGES):
            if USE_TMA:
                left = queries.load([block * BM, d])
                right = bank.load([tile * BN, d])
            else:
                depth = d + tl.arange(0, BK)
                row, column = block * BM + tl.arange(0, BM), tile * BN + tl.arange(0, BN)
                left = tl.load(
                    queries + row[:, None].to(tl.int64) * DIM + depth[None, :],
                    mask=(row[:, None] < query_count) & (depth[None, :] < DIM),
                    other=0.0,
                )
                right = tl.load(
                    bank + column[:, None].to(tl.int64) * DIM + depth[None, :],
                    mask=(column[:, None] < bank_count) & (depth[None, :] < DIM),
                    other=0.0,
                )
            # Beyond the edge both loads give zeros, so a padded column scores 0: it is masked below.
            acc = tl.dot(left, right.T, acc)
        columns = tile * BN + tl.arange(0, BN)
        if (tile + 1) * BN > bank_count:  # a mask on every tile would double the cost of the filter
            acc = tl.where(columns[None, :] < bank_count, acc, LOWEST)
        keys = row_keys(acc, BM, BN, GROUPS, GROUP_BITS)
        if TWO_WAY:
            if (block + 1) * BM > query_count:
                inside = block * BM + tl.arange(0, BM) < query_count
                acc = tl.where(inside[:, None], acc, LOWEST)
            # Of the masked scores: a query beyond the edge must not be a column's best.
            strongest, second = column_keys(acc, BM, BN, ROW_GROUPS, GROUP_BITS)
            position = block.to(tl.int64) * bank_count + columns
            tl.store(out_best + position, strongest, mask=columns < bank_count)
            tl.store(out_second + position, second, mask=columns < bank_count)
        top = tl.max(keys, axis=1)
        hits = tl.max((top > floor).to(tl.int32), axis=0)
        # Each turn takes at most one group of every query; most tiles bring none, and cost the one comparison above.
        while hits > 0:
            better = top > floor
            # Equal keys may fill several slots; the first of them is given up.
            weakest = tl.min(tl.where(best == floor[:, None], slots[None, :], K), axis=1)
            put = better[:, None] & (slots[None, :] == weakest[:, None])
            best = tl.where(put, top[:, None], best)
            where = tl.where(put, tile, where)
            floor = tl.min(best, axis=1)
            # The group that was taken is struck out, and the next best of the tile is looked at.
            keys = tl.where(better[:, None] & (keys == top[:, None]), NO_KEY, keys)
            top = tl.max(keys, axis=1)
            hits = tl.max((top > floor).to(tl.int32), axis=0)
    rows = block * BM + tl.arange(0, BM)
    at = (split * query_count + rows[:, None]).to(tl.int64) * K + slots[None, :]
    inside = rows[:, None] < query_count
    tl.store(out_keys + at, best, mask=inside)
    tl.store(out_tiles + at, where, mask=inside)


@triton.jit
def pair_score_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    queries,
    bank,
    query_norms,
    bank_norms,
    query,
    row,
    out,
    pair_count,
    query_stride,
    query_step,
    bank_stride,
    bank_step,
    DIM: tl.constexpr,
    UNIT: tl.constexpr,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    """out float64 [P]: dot products of queries[query[p]] and bank[row[p]], float32 rows, of unit length with UNIT.

    One order of summation for every pair, whatever stands beside it: equal rows score equal to the last bit.
    """
    pair = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)
    inside = pair < pair_count
    i, j = tl.load(query + pair, mask=inside, other=0), tl.load(row + pair, mask=inside, other=0)
    # BD sums side by side, added up at the end: one order, whatever D is divided into.
    acc = tl.zeros([BP, BD], tl.float64)
    for d in range(0, DIM, BD):
        depth = d + tl.arange(0, BD).to(tl.int64)
        inside_row = inside[:, None] & (depth[None, :] < DIM)
        x = tl.load(queries + i[:, None] * query_stride + depth[None, :] * query_step, mask=inside_row, other=0.0)
        y = tl.load(bank + j[:, None] * bank_stride + depth[None, :] * bank_step, mask=inside_row, other=0.0)
        x, y = x.to(tl.float32), y.to(tl.float32)
        if UNIT:
            # Rounded as IEEE division is; Triton's `/` is an approximation, and would not equal the CPU's.
            x = tl.div_rn(x, tl.load(query_norms + i, mask=inside, other=1.0)[:, None])
            y = tl.div_rn(y, tl.load(bank_norms + j, mask=inside, other=1.0)[:, None])
        acc += x.to(tl.float64) * y.to(tl.float64)
    tl.store(out + pair, tl.sum(acc, axis=1), mask=inside)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def kept_groups(k: int) -> int:
    """Groups a split keeps of each query: more than k where that is cheap, so that few rows lack proof."""
    return min(MAX_KEPT, max(LEAST_KEPT, triton.next_power_of_2(k)))


def kernel_constants(config: Config, dim: int, kept: int, two_way: bool = False) -> dict[str, int]:
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
    }


def launch(
    queries: Tensor, bank: Tensor, kept: int, splits: int, config: Config, two_way: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row keys and tiles int32 [splits, Q, kept], column keys (best, second) int32 [blocks, N] (one unused element
    without two_way).

    queries [Q, C] and bank [N, C] are 16-bit and contiguous; C must be a multiple of 8 (tensor descriptors want rows of
    a multiple of 16 bytes). Every element of the outputs is written by the kernel.
    """
    constants = kernel_constants(config, queries.shape[1], kept, two_way)
    blocks, tiles = triton.cdiv(len(queries), config["BM"]), triton.cdiv(len(bank), config["BN"])
    # Not zeroed: the kernel writes every element.
    keys, where = torch.empty(2, splits, len(queries), kept, dtype=torch.int32, device=queries.device)
    column_shape = (2, blocks, len(bank)) if two_way else (2, 1, 1)
    best, second = torch.empty(column_shape, dtype=torch.int32, device=queries.device)
    group_topk_kernel[(blocks, splits)](
        kernel_side(queries, config["BM"], config),
        kernel_side(bank, config["BN"], config),
        keys,
        where,
        best,
        second,
        len(queries),
        len(bank),
        triton.cdiv(tiles, splits),
        **constants,
        num_warps=config["num_warps"],
        maxnreg=config["maxnreg"],
    )
    return keys, where, best, second


def kernel_side(rows: Tensor, height: int, config: Config) -> Tensor | TensorDescriptor:
    """What the kernel reads a side by: a descriptor of tiles `height` x BK where TMA is used, else the rows."""
    return TensorDescriptor.from_tensor(rows, [height, config["BK"]]) if config["USE_TMA"] else rows


def pair_scores(queries: Rows, bank: Rows, query: Tensor, row: Tensor) -> Tensor:
    """Canonical scores float64 [P] of the pairs (query[p], row[p]), int64, on a GPU or under the interpreter.

    Under cosine both sides are `measured`: lengths belong to the rows, so a part of a side brings its own.
    """
    out = torch.empty(len(query), dtype=torch.float64, device=query.device)
    if len(query) == 0:
        return out
    strides = (*queries.data.stride(), *bank.data.stride())
    size = INTERPRETED_PAIRS if interpreted() else PAIR_BLOCK
    pair_score_kernel[(triton.cdiv(len(query), size),)](
        queries.data,
        bank.data,
        divisors(queries),
        divisors(bank),
        query.contiguous(),
        row.contiguous(),
        out,
        len(query),
        *strides,
        DIM=queries.dim,
        UNIT=queries.unit,
        BP=size,
        BD=PAIR_DEPTH,
    )
    return out


def divisors(rows: Rows) -> Tensor:
    """The lengths float32 [N] that unit rows are divided by; one unused element where rows are not scaled."""
    if not rows.unit:
        # A kernel takes a pointer for every argument, also for one that it does not read.
        return torch.ones(1, dtype=torch.float32, device=rows.data.device)
    assert rows.lengths is not None, "unit rows must be measured before their pairs are scored"
    return rows.lengths


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
