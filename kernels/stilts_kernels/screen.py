"""Exact top-k on a CPU: low-precision screen, proof, float64 finish.

1. Centre both sides, store them in bfloat16 where the processor multiplies it fast (AMX, avx512_bf16), else float32.
2. One blocked matrix product; each block of scores stays in cache and is dropped at once. A pair survives when its
   score's upper bound reaches the k-th best lower bound of its row (`shortlist`, bound in `panels`).
3. Survivors, about 2 k to 3 k a row, are scored in float64 (`rows.canonical_scores`) and the best k kept.

So every row is exact by construction (*certified*) unless it collects too many survivors, as among hundreds of equal
rows; such rows are searched again in float32 with a larger cap, and those that still fail are scored one pair at a
time. `last_report()` and the log say which path ran and how many rows needed more than the first pass.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from stilts_kernels.panels import UNIT_ROUNDOFF, Panel, PanelMaker, score_error
from stilts_kernels.reference import exhaustive
from stilts_kernels.rows import MAX_NORM, MAX_STEP, Rows, canonical_scores, check_matrix, check_pair
from stilts_kernels.shortlist import Shortlist, places

log = logging.getLogger("stilts_kernels")

BANK_ROWS = 4096  # of one product in bfloat16: 4096 x 1024 scores, 8 MB; see `fitting`
QUERY_ROWS = 1024
CAP_FIRST, CAP_SECOND = 256, 4096  # candidates a row may collect (or 16 k) before it is searched another way
REDO_ROWS = 512
TRIALS = 12  # products timed to choose a screen: some 30 ms, once
DEFAULT_MEMORY = 1 << 30
METRICS = ("inner", "cosine")


class TopK(NamedTuple):
    """Values float32 [Q, k], falling, and bank indices int64 [Q, k]; equal scores keep the lower index first."""

    values: Tensor
    indices: Tensor


@dataclass
class Report:
    """What the last search did: the path, rows searched, rows proven by the first pass, survivors scored per row."""

    path: str
    rows: int
    certified: int
    survivors_per_row: float

    def __str__(self) -> str:
        return (f"{self.path}: {self.certified} of {self.rows} rows certified, "
                f"{self.survivors_per_row:.1f} survivors a row scored in float64")


_reports: list[Report] = []


def last_report() -> Report | None:
    """The report of the last search of this process, or None."""
    return _reports[-1] if _reports else None


def record(report: Report) -> None:
    _reports[:] = [report]
    log.info("%s", report)


@lru_cache
def fastest_screen() -> str:
    """"bfloat16" where this processor has the instructions and they win a timed product, else "float32".

    Having them is not enough: avx512_bf16 without AMX multiplies slower than float32 on some processors.
    """
    if not any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")):
        return "float32"
    seconds: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    for _ in range(TRIALS):  # in turn, so that other work on the machine slows both alike
        for dtype, times in seconds.items():
            times.append(product_seconds(dtype))
    return "bfloat16" if min(seconds[torch.bfloat16]) < min(seconds[torch.float32]) else "float32"


def product_seconds(dtype: torch.dtype) -> float:
    """Time of one 256 x 1024 x 512 product: short, so that some of several run undisturbed."""
    left, right = (torch.ones(rows, 512, dtype=dtype, device="cpu") for rows in (256, 1024))
    start = time.perf_counter()
    torch.mm(left, right.T)
    return time.perf_counter() - start


def describe_path(screen: str) -> str:
    amx = screen == "bfloat16" and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    return f"cpu, {'amx ' if amx else ''}{screen} screen"


def centre_of(rows: Rows) -> Tensor:
    """Mean [D] of a sample; any centre is correct, so odd rows are cleared here and reported where they are read."""
    sample = torch.nan_to_num(rows.sample(), 0.0, 0.0, 0.0).clamp(-MAX_NORM, MAX_NORM)
    if rows.unit:
        sample = torch.nn.functional.normalize(sample, dim=1)
    return sample.mean(dim=0)


class Index:
    """A bank [N, D] with its screening copy kept (2 (D + 10) bytes a row), to be searched many times.

    Centres queries at the bank's mean, which it knows, instead of their own. Raises ValueError on bad rows.
    """

    @torch.no_grad()
    def __init__(self, bank: Tensor, metric: str = "inner", screen: str = "auto") -> None:
        self.rows, self.screen = Rows(bank, "bank", is_cosine(metric)), choose_screen(screen)
        dtype = getattr(torch, self.screen)
        if bank.device.type != "cpu":
            raise ValueError(f"bank is on {bank.device}; an Index is for CPU banks, pass the tensor itself to topk")
        self.centre = centre_of(self.rows)
        maker = PanelMaker(self.rows, self.centre, self.centre, 0, dtype)
        self.panels = list(make_panels(maker, fitting(BANK_ROWS, dtype)))


def is_cosine(metric: str) -> bool:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    return metric == "cosine"


def choose_screen(screen: str) -> str:
    if screen not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"screen {screen!r} is not one of auto, bfloat16, float32")
    return fastest_screen() if screen == "auto" else screen


def fitting(rows: int, dtype: torch.dtype) -> int:
    """As many rows as take the bytes of `rows` in bfloat16: blocks of scores are to stay in cache and in the budget."""
    return rows * torch.bfloat16.itemsize // dtype.itemsize


def make_panels(maker: PanelMaker, step: int) -> Iterator[Panel]:
    """Panels of all rows, `step` rows at a time."""
    for part in slices(maker.rows.count, step):
        yield maker(part.start, part.stop)
        maker.rows.release()


def queries_per_pass(queries: Rows, k: int, memory: int, screen: str) -> int:
    """How many queries one pass over the bank serves within `memory` bytes. Raises ValueError below the minimum."""
    screening = BANK_ROWS * (4 * QUERY_ROWS + 2 * queries.dim + 32)
    scratch = max(screening, 20 * queries.dim * scoring_step(queries.dim, memory))  # one is freed before the other
    each = getattr(torch, screen).itemsize * queries.dim + shortlist_bytes(k)
    if memory < scratch + QUERY_ROWS * each:
        raise ValueError(f"memory of {memory} bytes is below the {scratch + QUERY_ROWS * each} a search needs")
    return (memory - scratch) // each // QUERY_ROWS * QUERY_ROWS


def shortlist_bytes(k: int) -> int:
    """What a row's survivors, their scores and its results take, with room to spare."""
    return 4 * k + 16 * (64 + 6 * k)


def scoring_step(dim: int, memory: int) -> int:
    """Rows of each side scored at a time, 8 + 12 bytes a number: float64 queries, float32 and float64 bank rows."""
    return max(1, min(MAX_STEP, memory // (64 * dim)))


def sweep(queries: list[Panel], bank: Iterable[Panel], forward: Shortlist, backward: Shortlist | None = None) -> None:
    """Multiplies every bank panel with every query panel; both directions read each block of scores while it is hot."""
    buffer: Tensor | None = None
    for bank_panel in bank:
        if buffer is None:
            dtype = bank_panel.rows.dtype
            buffer = bank_panel.rows.new_empty(len(bank_panel) * max(map(len, queries)))
        for query_panel in queries:
            scores = buffer[: len(bank_panel) * len(query_panel)].view(len(bank_panel), len(query_panel))
            torch.mm(bank_panel.rows, query_panel.rows.T, out=scores)
            forward.collect(scores, score_error(query_panel, bank_panel), UNIT_ROUNDOFF[dtype], query_panel.start,
                            bank_panel.start)
            if backward is not None:
                backward.collect(scores.T, score_error(bank_panel, query_panel), UNIT_ROUNDOFF[dtype],
                                 bank_panel.start, query_panel.start)


def best_pairs(shortlist: Shortlist, row: Tensor, column: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """The k best of each row's survivors: (values float64 [Q, k], indices); failed rows hold NaN and -1."""
    order, place = places(row, score)
    keep = place < shortlist.k
    order, place = order[keep], place[keep]
    shape = shortlist.rows, shortlist.k
    values = torch.full(shape, float("nan"), dtype=torch.float64, device=row.device)
    indices = torch.full(shape, -1, device=row.device)
    values[row[order], place], indices[row[order], place] = score[order], column[order]
    return values, indices


def merge_topk(parts: Sequence[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Best k of several (values [Q, *], indices [Q, *]) whose index ranges rise from part to part."""
    width = min(k, sum(values.shape[1] for values, _ in parts))
    merged = tuple(side.new_empty(len(side), width) for side in parts[0])
    for block in slices(len(merged[0])):
        values, indices = (torch.cat([side[block] for side in sides], dim=1) for sides in zip(*parts))
        order = torch.sort(values, dim=1, descending=True, stable=True).indices[:, :k]
        merged[0][block], merged[1][block] = values.gather(1, order), indices.gather(1, order)
    return merged[0], merged[1]


def slices(count: int, size: int = 1 << 16) -> Iterator[slice]:
    """Slices of at most `size` rows; the default keeps temporary copies of a result small beside it."""
    return (slice(start, min(count, start + size)) for start in range(0, count, size))


def redo(queries: Rows, bank: Rows, shortlist: Shortlist, values: Tensor, indices: Tensor, screen: str) -> None:
    """Searches the failed rows again, in float32 or, after that, pair by pair; fills values and indices in place."""
    for which in shortlist.failed.nonzero()[:, 0].split(REDO_ROWS):
        if len(which) == 0:  # an empty tensor splits into one empty part
            break
        if screen == "bfloat16":
            part = Rows(queries.data[which], queries.name, queries.unit)
            values[which], indices[which], _ = one_pass(part, bank, shortlist.k, "float32", CAP_SECOND, REDO_ROWS)
        else:
            values[which], indices[which] = exhaustive(queries, which, bank, shortlist.k)


def one_pass(queries: Rows, bank: Rows, k: int, screen: str, cap: int, step: int,
             index: Index | None = None) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Top-k of every query: (values float64, indices, (rows certified, survivors scored))."""
    dtype = getattr(torch, screen)
    centre, bank_centre = (index.centre, index.centre) if index else (centre_of(queries), centre_of(bank))
    panels = list(make_panels(PanelMaker(queries, centre, None, 2, dtype), QUERY_ROWS))
    height = fitting(BANK_ROWS, dtype)
    tiles = index.panels if index else make_panels(PanelMaker(bank, bank_centre, centre, 0, dtype), height)
    shortlist = Shortlist(queries.count, k, max(cap, 16 * k), queries.data.device)
    sweep(panels, tiles, shortlist)
    row, column = shortlist.finish()
    values, indices = best_pairs(shortlist, row, column, canonical_scores(queries, bank, row, column, step))
    redo(queries, bank, shortlist, values, indices, screen)
    return values, indices, (queries.count - int(shortlist.failed.sum()), len(row))


def topk_float64(queries: Rows, bank: Rows, k: int, screen: str = "auto", memory: int = DEFAULT_MEMORY,
                 index: Index | None = None) -> tuple[Tensor, Tensor]:
    """Canonical top-k of every query: (values float64 [Q, k], indices int64 [Q, k]); ranks and shards merge these."""
    check_pair(queries, bank, k)
    screen = index.screen if index else choose_screen(screen)
    size, step = queries_per_pass(queries, k, memory, screen), scoring_step(queries.dim, memory)
    device = queries.data.device
    values = torch.empty(queries.count, k, dtype=torch.float64, device=device)
    indices = torch.empty(queries.count, k, dtype=torch.int64, device=device)
    certified = scored = 0
    for first in range(0, queries.count, size):
        part = slice(first, first + size)
        values[part], indices[part], (proven, pairs) = one_pass(queries.part(first, first + size), bank, k, screen,
                                                                CAP_FIRST, step, index)
        certified, scored = certified + proven, scored + pairs
    record(Report(describe_path(screen), queries.count, certified, scored / queries.count))
    return values, indices


def topk_cpu(queries: Tensor, bank: Tensor | Index, k: int, metric: str = "inner", screen: str = "auto",
             memory: int = DEFAULT_MEMORY) -> TopK:
    """The k best bank rows of every query; see `stilts_kernels.topk`."""
    check_matrix(queries, "queries")
    index = bank if isinstance(bank, Index) else None
    rows = index.rows if index else Rows(bank, "bank", is_cosine(metric))  # type: ignore[arg-type]
    values, indices = topk_float64(Rows(queries, "queries", rows.unit), rows, k, screen, memory, index)
    return TopK(values.float(), indices)
