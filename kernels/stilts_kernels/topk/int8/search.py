"""Searches with the int8 screen: which pairs may be among the k best, of one direction or of both.

Work is split into independent searches, a range of panels and a share of every chunk's rows each, side by side in
threads. A pair that a worker drops has k better ones in that worker's share, so the union of what they keep is complete
whatever the split, and the highest floor of all workers holds for all.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from stilts_kernels.common.products import cpu_seconds
from stilts_kernels.common.ranking import rounded_down
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.int8.library import address
from stilts_kernels.topk.int8.sides import (
    CHUNK_ROWS,
    PANEL,
    Chunk,
    Frame,
    PreparedBank,
    PreparedQueries,
    in_threads,
    padded,
    prepare_bank,
    prepare_queries,
)

MOST_SKETCHED = 32  # as in screen.h
# Float32 rows that stay in a processor's last cache. Of a larger bank, hits are scored while their block is there.
CACHED_BYTES = 16 << 20
INDEXED_ROWS = 1 << 17  # of a prepared bank searched at a time: some seconds, after which a program can be interrupted


@dataclass
class Survivors:
    """Pairs of one direction that must be scored exactly, and the rows that were given up. As `shortlist.Shortlist`."""

    rows: int
    k: int
    failed: Tensor
    row: Tensor
    column: Tensor

    def finish(self) -> tuple[Tensor, Tensor]:
        """(row, column) int64 of all pairs, columns rising."""
        column, order = torch.sort(self.column)
        return self.row[order].long(), column.long()


@dataclass
class Direction:
    """Of which k best are kept for each of `rows`; more than `cap` survivors give a row up. k 0: not asked for.

    `known` float64 [rows, k], falling: scores of pairs that are searched elsewhere. Survivors reach the k-th best of
    these and their own.
    """

    rows: int
    k: int
    cap: int
    known: Tensor | None = None


class PanelWorker:
    """One search of some panels in a share of the bank, with floors of its own."""

    def __init__(
        self,
        frame: Frame,
        queries: PreparedQueries,
        panels: range,
        ahead: Direction,
        back: Direction,
        sketched: bool = False,
    ) -> None:
        # Set before anything can fail, so that __del__ finds it.
        self._library, self._handle = library.loaded(), None  # a handle when all that it needs is there
        self.frame, self.panels = frame, panels
        # Pointers into `queries`: whoever made this worker keeps it alive.
        self.queries = queries.part(frame, panels.start, panels.stop)
        self.ahead, self._keep_ahead = self._best(panels.start * PANEL, len(panels) * PANEL, ahead)
        self.back, self._keep_back = self._best(0, padded(back.rows, PANEL) if back.k else 0, back)
        self._handle = self._library.screen_new(
            ctypes.byref(self.ahead),
            ctypes.byref(self.back),
            ctypes.c_long(len(panels) * PANEL),
            ctypes.c_long(len(self._keep_back[1])),
            ctypes.c_long(frame.dim),
            int(sketched),
        )

    # The tensors are returned with the struct, which only points into them.
    def _best(self, first: int, rows: int, direction: Direction) -> tuple[library.TopRows, tuple[Tensor, Tensor]]:
        top = torch.full((rows, max(1, direction.k)), -torch.inf, dtype=torch.float32, device="cpu")
        if direction.known is not None:
            known = direction.known[first : first + rows]
            top[: len(known)] = rounded_down(known)
        floor = top[:, -1].clone()
        return library.TopRows(address(top), address(floor), direction.k, direction.cap), (top, floor)

    def search(self, chunk: Chunk, share: int, shares: int) -> None:
        """Searches its share of the chunk's rows, in whole panels."""
        # In whole panels, the extension's unit: a share may then be empty, but is never a part of one.
        step = padded(-(-chunk.rows // shares), PANEL)
        first, last = min(chunk.rows, share * step), min(chunk.rows, (share + 1) * step)
        self._library.screen_search(
            ctypes.c_void_p(self._handle),
            self.frame.isa,
            ctypes.byref(chunk.bank),
            ctypes.byref(self.queries),
            *(ctypes.c_long(size) for size in (self.frame.dim, self.frame.wide, first, last)),
        )

    def __del__(self) -> None:
        if self._handle is not None:
            self._library.screen_free(self._handle)
            self._handle = None

    def floors(self) -> tuple[Tensor, Tensor]:
        return self._keep_ahead[1], self._keep_back[1]

    def hits(self) -> tuple[Tensor, Tensor, Tensor]:
        """(query, row, upper bound) of the pairs left."""
        count = self._library.screen_finish(self._handle)
        # The upper bound travels in the third integer's bits.
        packed = torch.empty(count, 3, dtype=torch.int32, device="cpu")
        self._library.screen_hits(self._handle, address(packed))
        query = packed[:, 0] + self.panels.start * PANEL
        return query, packed[:, 1].contiguous(), packed[:, 2].contiguous().view(torch.float32)


class ScreenedSearch:
    """Workers over all panels; feed it chunks of the bank, then ask for the survivors."""

    def __init__(
        self,
        frame: Frame,
        queries: PreparedQueries,
        ahead: Direction,
        back: Direction,
        threads: int,
        sketched: bool = False,
    ) -> None:
        self.queries, self.ahead, self.back = queries, ahead, back
        groups = min(threads, queries.panels)
        # With fewer panels than threads, several workers share a panel and split the bank's rows.
        self.shares = max(1, threads // groups)
        step = -(-queries.panels // groups)
        ranges = [range(at, min(queries.panels, at + step)) for at in range(0, queries.panels, step)]
        self.workers = [
            PanelWorker(frame, queries, panels, ahead, back, sketched) for panels in ranges for _ in range(self.shares)
        ]

    def feed(self, chunk: Chunk) -> None:
        workers = enumerate(self.workers)
        in_threads([partial(worker.search, chunk, number % self.shares, self.shares) for number, worker in workers])

    def finish(self) -> tuple[Survivors, Survivors]:
        """What is left ahead (of queries) and back (of bank rows)."""
        gathered = [worker.hits() for worker in self.workers]
        query, row, upper = (torch.cat(arrays) for arrays in zip(*gathered))
        # The highest floor of all workers: each has seen k scores as good in its own share.
        ahead_floor = torch.full((len(self.queries.scale),), -torch.inf, dtype=torch.float32, device="cpu")
        back_floor = torch.full((padded(self.back.rows, PANEL),), -torch.inf, dtype=torch.float32, device="cpu")
        for worker in self.workers:
            ahead, back = worker.floors()
            some = ahead_floor[worker.panels.start * PANEL : worker.panels.stop * PANEL]
            torch.maximum(some, ahead, out=some)
            if self.back.k:
                torch.maximum(back_floor, back, out=back_floor)
        return (
            survivors(self.ahead, query, row, upper, ahead_floor),
            survivors(self.back, row, query, upper, back_floor),
        )


def survivors(direction: Direction, row: Tensor, column: Tensor, upper: Tensor, floor: Tensor) -> Survivors:
    """The pairs that reach the floor of their row; workers together may hold more of a row than one may."""
    if direction.k == 0:
        row, column, upper = row[:0], column[:0], upper[:0]
    alive = upper >= floor[row] if len(row) else torch.zeros(0, dtype=torch.bool, device="cpu")
    if not bool(alive.all()):  # one way and with one worker all are
        row, column = row[alive], column[alive]
    # The extension gives a row up by setting its floor to infinity, which no score reaches.
    failed = floor[: direction.rows] == torch.inf
    return Survivors(direction.rows, direction.k, failed, row, column)


def chunks(rows: Rows, frame: Frame, threads: int, prepared: PreparedBank | None, step: int) -> Iterator[Chunk]:
    """The bank in chunks of `step` rows; without a prepared bank each is prepared when its turn comes."""
    # Float32 rows are scored where they lie. Few and long chunks then: what waits to be scored meets higher floors.
    if prepared is not None and rows.data.dtype == torch.float32 and rows.data.stride(1) == 1:
        step = max(step, INDEXED_ROWS)
    for start in range(0, rows.count, step):
        stop = min(rows.count, start + step)
        if prepared is not None:
            # Hits are scored with float32 rows. `.float()` of float32 rows is no copy, and may have strides of a view.
            values = rows.data[start:stop].float()
            if values.stride(1) != 1:
                values = values.contiguous()
            yield prepared.chunk(frame, start, stop, values, start)
            continue
        some = rows.part(start, stop)
        values = some.block(0, some.count)
        fresh = prepare_bank(Rows(values, some.name, first=some.first), frame, threads)
        yield fresh.chunk(frame, 0, some.count, values, start)
        rows.release()


def collect(
    queries: Rows | PreparedQueries,
    bank: Rows,
    frame: Frame,
    ahead: Direction,
    back: Direction,
    prepared: PreparedBank | None = None,
    step: int = CHUNK_ROWS,
) -> tuple[Survivors, Survivors]:
    """Pairs that may be among the k best of the queries (`ahead`) and of the bank rows (`back`)."""
    threads = torch.get_num_threads()
    prepared_queries = prepare_queries(queries, frame, threads) if isinstance(queries, Rows) else queries
    cached = 4 * bank.count * bank.dim <= CACHED_BYTES
    sketched = cached and back.k == 0 and ahead.k <= MOST_SKETCHED
    search = ScreenedSearch(frame, prepared_queries, ahead, back, threads, sketched)
    for chunk in chunks(bank, frame, threads, prepared, step):
        search.feed(chunk)
    return search.finish()


class ProductTrial:
    """A product of random rows whose scores reach no floor, on one thread: what the screen is chosen by."""

    def __init__(self, isa: int, queries: int, rows: int, dim: int) -> None:
        generator = torch.Generator(device="cpu").manual_seed(1)
        left, right = (
            Rows(torch.randn(count, dim, generator=generator, dtype=torch.float32, device="cpu"), "rows")
            for count in (queries, rows)
        )
        frame = Frame.of(isa, right)
        self.prepared, self.queries = prepare_bank(right, frame, 1), prepare_queries(left, frame, 1)
        self.worker = PanelWorker(
            frame, self.queries, range(self.queries.panels), Direction(queries, 1, 1), Direction(0, 0, 1)
        )
        # No score is kept: what is timed is the product.
        self.worker.floors()[0].fill_(torch.inf)
        [self.chunk] = chunks(right, frame, 1, self.prepared, rows)

    def seconds(self) -> float:
        """CPU seconds of the product, made once more."""
        return cpu_seconds(lambda: self.worker.search(self.chunk, 0, 1))
