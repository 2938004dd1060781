"""Fused product and running top-k in Triton: scores live in registers and are never written to memory.

Each program owns BM queries and one split of the bank. It walks the split tile by tile (BM x BN scores), reduces each
tile to the maxima of groups of 16 columns, and keeps the K best groups of each query as a packed 32-bit key: the
order-preserving integer of the maximum, its low GROUP_BITS bits replaced by the group's number within the tile. The
reshape in `tile_keys` follows the wgmma register layout (column = 8 j + 2 lane + e), so group maxima need no shuffles,
and a tile without a score above the running threshold costs one compare.

The k best bank rows lie in the k best groups, so K = k groups a split suffice. `fused_topk` merges the splits, scores
the groups' columns in float64 like every other path, and proves each row: its k-th score must exceed the upper bound of
every group that was dropped. Rows without that proof are searched pair by pair. Groups in each split's list are exact
up to the product's accumulation error, which the bound of `panels` covers, plus the key's truncation.
"""

from __future__ import annotations

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from stilts_kernels.panels import Panel, PanelMaker, score_error
from stilts_kernels.reference import exhaustive
from stilts_kernels.rows import Rows, by_block, canonical_scores, check_pair
from stilts_kernels.screen import Report, centre_of, make_panels, record
from stilts_kernels.shortlist import places

COLUMNS_PER_GROUP = 16
EMPTY = -(2**31)
MAX_FUSED_K = 64
KEY_TRUNCATION = 2.0**-19  # relative; 4 of 23 fraction bits hold the group number


@triton.jit
def sortable_key(x: tl.tensor, group: tl.tensor, GROUP_BITS: tl.constexpr) -> tl.tensor:
    """int32 key ordered like float32 x, low bits replaced by the group number."""
    bits = x.to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (bits & (-(1 << GROUP_BITS))) | group


@triton.jit
def tile_keys(acc: tl.tensor, BM: tl.constexpr, BN: tl.constexpr, GROUPS: tl.constexpr,
              GROUP_BITS: tl.constexpr) -> tl.tensor:
    """Keys [BM, GROUPS] of the group maxima of a tile of scores; all reductions stay inside a thread."""
    split = tl.reshape(acc, [BM, GROUPS // 4, BN // (2 * GROUPS), 4, 2])
    maxima = tl.reshape(tl.max(tl.max(split, axis=4), axis=2), [BM, GROUPS])
    return sortable_key(maxima, tl.arange(0, GROUPS)[None, :], GROUP_BITS)


@triton.jit
def group_topk_kernel(  # type: ignore[no-untyped-def]  # Triton reads annotations as types
    queries, bank, out_keys, out_tiles, query_count, tile_count, tiles_per_split,
    DIM: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, K: tl.constexpr, GROUPS: tl.constexpr,
    GROUP_BITS: tl.constexpr, STAGES: tl.constexpr, USE_TMA: tl.constexpr,
):
    """out_keys, out_tiles int32 [splits, Q, K]: the K best groups of each query in this program's split, unsorted.

    queries [Q, DIM] and bank [N, DIM] are tensor descriptors with USE_TMA, else pointers to contiguous rows.
    """
    block, split = tl.program_id(0), tl.program_id(1)
    slots = tl.arange(0, K)
    best = tl.full([BM, K], -2147483648, tl.int32)
    where = tl.full([BM, K], 0, tl.int32)
    floor = tl.full([BM], -2147483648, tl.int32)
    first = split * tiles_per_split
    for tile in range(first, tl.minimum(first + tiles_per_split, tile_count)):
        acc = tl.zeros([BM, BN], tl.float32)
        for d in tl.range(0, DIM, BK, num_stages=STAGES):
            if USE_TMA:
                left = queries.load([block * BM, d])
                right = bank.load([tile * BN, d])
            else:
                depth = d + tl.arange(0, BK)
                row, column = block * BM + tl.arange(0, BM), tile * BN + tl.arange(0, BN)
                left = tl.load(queries + row[:, None].to(tl.int64) * DIM + depth[None, :],
                               mask=(row[:, None] < query_count) & (depth[None, :] < DIM), other=0.0)
                right = tl.load(bank + column[:, None].to(tl.int64) * DIM + depth[None, :],
                                mask=depth[None, :] < DIM, other=0.0)
            acc = tl.dot(left, right.T, acc)
        keys = tile_keys(acc, BM, BN, GROUPS, GROUP_BITS)
        top = tl.max(keys, axis=1)
        hits = tl.max((top > floor).to(tl.int32), axis=0)
        while hits > 0:
            better = top > floor
            weakest = tl.min(tl.where(best == floor[:, None], slots[None, :], K), axis=1)
            put = better[:, None] & (slots[None, :] == weakest[:, None])
            best = tl.where(put, top[:, None], best)
            where = tl.where(put, tile, where)
            floor = tl.min(best, axis=1)
            keys = tl.where(better[:, None] & (keys == top[:, None]), -2147483648, keys)
            top = tl.max(keys, axis=1)
            hits = tl.max((top > floor).to(tl.int32), axis=0)
    rows = block * BM + tl.arange(0, BM)
    at = (split * query_count + rows[:, None]).to(tl.int64) * K + slots[None, :]
    inside = rows[:, None] < query_count
    tl.store(out_keys + at, best, mask=inside)
    tl.store(out_tiles + at, where, mask=inside)


# Checked ahead of time by `compile_check`: no spills anywhere, at most 168 registers on sm_90 for k <= 16.
WIDE = {"BM": 128, "BN": 256, "BK": 64, "STAGES": 3, "num_warps": 8, "USE_TMA": True}
NARROW = {**WIDE, "BN": 128}
AMPERE = {"BM": 128, "BN": 128, "BK": 32, "STAGES": 3, "num_warps": 8, "USE_TMA": False}
AMPERE_NARROW = {**AMPERE, "BN": 64}
INTERPRETER = {"BM": 16, "BN": 64, "BK": 16, "STAGES": 1, "num_warps": 4, "USE_TMA": True}


def config_for(capability: int, k: int) -> dict[str, int]:
    """The kernel's configuration on sm_<capability> (0: the interpreter)."""
    if capability == 0:
        return INTERPRETER
    if capability >= 90:
        return WIDE if k <= 16 else NARROW
    return AMPERE if k <= 16 else AMPERE_NARROW


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def kernel_constants(config: dict[str, int], dim: int, k: int) -> dict[str, int]:
    """constexpr arguments of the kernel for one configuration."""
    groups = config["BN"] // COLUMNS_PER_GROUP
    return {"DIM": dim, "BM": config["BM"], "BN": config["BN"], "BK": config["BK"], "K": triton.next_power_of_2(k),
            "GROUPS": groups, "GROUP_BITS": 4, "STAGES": config["STAGES"], "USE_TMA": config["USE_TMA"]}


def best_groups(queries: Tensor, bank: Tensor, k: int, splits: int, config: dict[str, int]) -> tuple[Tensor, Tensor]:
    """(keys, tiles) int32 [splits, Q, K] of queries [Q, C] against the whole tiles of bank [N, C], both 16-bit.

    C must be a multiple of 8 (tensor descriptors want rows of a multiple of 16 bytes).
    """
    constants = kernel_constants(config, queries.shape[1], k)
    tiles = len(bank) // config["BN"]
    keys = torch.full((splits, len(queries), constants["K"]), EMPTY, dtype=torch.int32, device=queries.device)
    where = torch.zeros_like(keys)
    sides = [TensorDescriptor.from_tensor(side, [config[size], config["BK"]]) if config["USE_TMA"] else side
             for side, size in ((queries, "BM"), (bank, "BN"))]
    grid = (triton.cdiv(len(queries), config["BM"]), splits)
    group_topk_kernel[grid](*sides, keys, where, len(queries), tiles, triton.cdiv(tiles, splits), **constants,
                            num_warps=config["num_warps"])
    return keys, where


def key_bounds(keys: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """(lower, upper) float32 bounds on the exact group maxima behind keys [..., Q, K], error [Q]; empty slots -inf."""
    bits = keys & ~15
    value = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)
    slack = error[:, None] + KEY_TRUNCATION * value.abs()
    empty = keys == EMPTY
    return torch.where(empty, -torch.inf, value - slack), torch.where(empty, -torch.inf, value + slack)


def group_columns(keys: Tensor, tiles: Tensor, tile_columns: int) -> Tensor:
    """Bank rows [P, 16] of packed groups [P]; the inverse of the reshape in `tile_keys`."""
    group = keys & 15
    inner = torch.arange(COLUMNS_PER_GROUP, device=keys.device)
    start = tiles.long() * tile_columns + group // 4 * 64 + group % 4 * 2
    return start[:, None] + inner // 2 * 8 + inner % 2


def screened_sides(queries: Rows, bank: Rows) -> tuple[Panel, Panel, Tensor]:
    """Both sides as whole panels for the tensor cores: 16-bit inputs as they are, float32 centred and rounded.

    The third part is q.m [Q], float64: what one-way screening leaves out of each query's scores (0 when not centred).
    """
    exact = queries.data.dtype == bank.data.dtype and bank.data.dtype != torch.float32 and not bank.unit
    dtype = torch.float16 if interpreted() else bank.data.dtype if exact else torch.bfloat16
    zero = torch.zeros(queries.dim, device=bank.data.device)
    centres = (zero, zero) if exact else (centre_of(queries), centre_of(bank))
    left = PanelMaker(queries, centres[0], None, 2, dtype)
    right = PanelMaker(bank, centres[1], None if exact else centres[0], 0, dtype)
    dropped_term = queries.block(0, queries.count).double() @ centres[1].double()
    return next(make_panels(left, queries.count)), next(make_panels(right, bank.count)), dropped_term


def padded(rows: Tensor) -> Tensor:
    """Rows [n, C] with zero columns up to a multiple of 8."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % 8)).contiguous()


def fused_topk(queries: Rows, bank: Rows, k: int, splits: int = 8) -> tuple[Tensor, Tensor]:
    """Canonical top-k on a GPU, or under the interpreter: (values float64 [Q, k], indices int64 [Q, k]).

    Raises ValueError for bad input or k above 64; `screen.topk_float64` and chunked torch serve larger k.
    """
    check_pair(queries, bank, k)
    if k > MAX_FUSED_K:
        raise ValueError(f"k = {k} is above {MAX_FUSED_K}, the most the fused kernel keeps")
    left, right, dropped_term = screened_sides(queries, bank)
    config = config_for(0 if interpreted() else 10 * torch.cuda.get_device_capability(bank.data.device)[0], k)
    keys, tiles = best_groups(padded(left.rows), padded(right.rows), k, splits, config)
    query, row, bound = candidates(keys, tiles, score_error(left, right), k, config["BN"], bank.count)
    values, indices = merge(queries, bank, query, row, k)
    settle(queries, bank, dropped_term, values, indices, bound)
    return values, indices


def topk_cuda(queries: Rows, bank: Rows, k: int) -> tuple[Tensor, Tensor]:
    """`fused_topk`, or for k above 64 (or fewer whole tiles than the kernel needs) a blocked float64 product."""
    if k <= MAX_FUSED_K:
        return fused_topk(queries, bank, k)
    check_pair(queries, bank, k)
    record(Report("torch float64, cuda", queries.count, queries.count, float("nan")))
    return exhaustive(queries, torch.arange(queries.count, device=queries.data.device), bank, k)


def candidates(keys: Tensor, tiles: Tensor, error: Tensor, k: int, tile_columns: int,
               count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(query, row, bound): pairs [P] that may be among the k best, and the upper bound [Q] of all other groups."""
    lower, upper = key_bounds(keys, error)
    full = (keys != EMPTY).all(dim=2)
    dropped = torch.where(full, upper.min(dim=2).values, -torch.inf).max(dim=0).values
    splits, queries, kept = keys.shape
    flat_lower, flat_upper = (side.transpose(0, 1).reshape(queries, splits * kept) for side in (lower, upper))
    floor = flat_lower.topk(k, dim=1).values[:, -1:]
    query, slot = ((flat_upper >= floor) & (flat_upper > -torch.inf)).nonzero(as_tuple=True)
    at = (slot // kept, query, slot % kept)
    rows = group_columns(keys[at], tiles[at], tile_columns).reshape(-1)
    rest = torch.arange(count // tile_columns * tile_columns, count, device=keys.device)
    query = torch.cat([query.repeat_interleave(COLUMNS_PER_GROUP),
                       torch.arange(queries, device=keys.device).repeat_interleave(len(rest))])
    return query, torch.cat([rows, rest.repeat(queries)]), dropped


def merge(queries: Rows, bank: Rows, query: Tensor, row: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Best k of the candidate pairs by canonical score; missing places hold -inf."""
    order = by_block(query, row)
    query, row = query[order], row[order]
    score = canonical_scores(queries, bank, query, row)
    order, place = places(query, score)
    order, place = order[place < k], place[place < k]
    values = torch.full((queries.count, k), -torch.inf, dtype=torch.float64, device=query.device)
    indices = torch.full((queries.count, k), -1, device=query.device)
    values[query[order], place], indices[query[order], place] = score[order], row[order]
    return values, indices


def settle(queries: Rows, bank: Rows, dropped_term: Tensor, values: Tensor, indices: Tensor, bound: Tensor) -> None:
    """Searches the rows whose k-th score does not exceed the bound of what was dropped, pair by pair, in place."""
    which = (~(values[:, -1] - dropped_term > bound)).nonzero()[:, 0]
    if len(which):
        values[which], indices[which] = exhaustive(queries, which, bank, values.shape[1])
    path = "triton interpreter" if interpreted() else "triton fused, cuda"
    record(Report(path, queries.count, queries.count - len(which), float("nan")))
