"""Rows prepared for the int8 screen: bytes, scales, and the norms and measured errors that bound every score.

The proof, in docs/int8-screen.md, needs of a query q and a bank row x, with q' = q - c and x' = x - m,

    q.x = q'.x' + c.x' + q.m <= Q.X + |q'-Q| |X| + |q'| |x'-X| + shift + level

where Q and X are what the bytes stand for, `shift` is c.x' of the row and `level` is q.m of the query, both enlarged by
what computing them loses. That page has the same in ten lines of numpy.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from stilts_kernels.common.rows import Rows, lengths_of
from stilts_kernels.topk.bounds import centre_of
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.int8.library import address

# As in screen.h: queries of a panel, those whose bytes lie together, and the numbers that rows are padded to.
PANEL, GROUP, SEGMENT = 32, 16, 64
OFFSET = 128  # of the bank's unsigned bytes
CHUNK_ROWS = 6144  # of a bank that are prepared and searched at a time: 32 blocks
QUANTISE_ROWS = 1024  # of queries that are read at a time
# The AVX2 tile adds in int16: rows of this root mean square rarely meet its caps (docs/int8-screen.md).
CAPPED_RMS, MOST_RMS = 23.0, 127.0
NORM_SLACK = 2.0**-55  # what underflow can take from a length
# A row is rotated where its largest number, or a lane of the AVX2 tile, is so many times what is usual.
HIGH_PEAK, HIGH_LANE, LEAST_ROTATED = 6.0, 1.6, 32


def in_threads(calls: list[Callable[[], None]]) -> None:
    """All calls side by side; the extension lets go of Python's lock."""
    if len(calls) == 1:
        return calls[0]()
    with ThreadPoolExecutor(len(calls)) as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


@dataclass
class Frame:
    """What both sides of a search share: instruction set, centres m (bank) and c (queries), signs of the rotation."""

    isa: int
    centre: Tensor
    query_centre: Tensor
    signs: Tensor | None

    @property
    def dim(self) -> int:
        return len(self.centre)

    @property
    def wide(self) -> int:
        """Bytes of a row."""
        return padded(self.dim, SEGMENT)

    @property
    def query_norm(self) -> float:
        """At least |c|, with room for the roundings of those who compute it in float32."""
        return 1.002 * float(torch.linalg.vector_norm(self.query_centre.double())) + NORM_SLACK

    @property
    def capped(self) -> bool:
        return self.isa == library.AVX2

    @classmethod
    def of(cls, isa: int, bank: Rows, queries: Rows | None = None) -> Frame:
        """Both centres, the bank's twice without queries; a rotation where the bank's sample asks for it."""
        # Its address goes to the extension, which knows no strides.
        centre = centre_of(bank).contiguous()
        query_centre = centre if queries is None else centre_of(queries).contiguous()
        signs = None
        if needs_rotation(bank, centre, isa == library.AVX2):
            # A fixed seed: any signs are right, and with the same ones a search leaves the same survivors again.
            generator = torch.Generator(device="cpu").manual_seed(0)
            coins = torch.randint(0, 2, (bank.dim,), generator=generator, dtype=torch.int64, device="cpu")
            signs = (2 * coins - 1).float()
        return cls(isa, centre, query_centre, signs)


def needs_rotation(rows: Rows, centre: Tensor, capped: bool) -> bool:
    """Whether a few numbers of a typical row are so large that the others would get few of the 127 steps."""
    if rows.dim < LEAST_ROTATED:
        return False
    sample = torch.nan_to_num(rows.sample(), 0.0, 0.0, 0.0)
    if rows.unit:
        sample = torch.nn.functional.normalize(sample, dim=1)
    centred = sample - centre
    rms = centred.square().mean(dim=1).sqrt().clamp_min(1e-30)
    peak = centred.abs().amax(dim=1) / rms
    if float(peak.median()) > HIGH_PEAK:
        return True
    if not capped:
        return False
    padded_rows = torch.nn.functional.pad(centred, (0, -rows.dim % SEGMENT))
    # A lane of the AVX2 tile adds every second pair of numbers of a segment.
    lanes = padded_rows.view(len(centred), -1, SEGMENT // 4, 2, 2)
    lane_rms = lanes.square().mean(dim=(2, 4)).amax(dim=(1, 2)).sqrt()
    return float((lane_rms / rms).median()) > HIGH_LANE


def padded(count: int, step: int) -> int:
    return -(-count // step) * step


@dataclass
class PreparedBank:
    """Bank rows as bytes [n, wide] and their float32 [n] arrays, n padded to whole panels; padding never compares."""

    count: int
    bytes: Tensor
    scale: Tensor
    norm: Tensor
    error: Tensor
    shift: Tensor
    length: Tensor
    factor: Tensor

    def chunk(self, frame: Frame, start: int, stop: int, values: Tensor, first: int) -> Chunk:
        """Rows start..stop for the extension. `values` are their float32 rows, `first` their number in the search."""
        arrays = (self.scale, self.norm, self.error, self.shift, self.length)
        bank = library.Bank(
            address(self.bytes, start * frame.wide),
            *(address(array, start) for array in arrays),
            address(values),
            address(self.factor, start),
            first,
            values.stride(0),
            frame.query_norm,
        )
        return Chunk(bank, padded(stop - start, PANEL), values)


@dataclass
class Chunk:
    """Some bank rows as the extension reads them; holds what it points to beside the prepared bank."""

    bank: library.Bank
    rows: int
    values: Tensor


def prepare_bank(rows: Rows, frame: Frame, threads: int) -> PreparedBank:
    """All of `rows` as the screen reads them: wide + 28 bytes a row. Raises ValueError on rows that cannot be read."""
    count = padded(rows.count, PANEL)
    floats = torch.zeros(6, count, dtype=torch.float32, device="cpu")
    floats[3].fill_(float("nan"))
    stored = torch.empty(count, frame.wide, dtype=torch.uint8, device="cpu")
    stored[rows.count :] = OFFSET  # the bytes of 0; `quantise` writes all others
    bank = PreparedBank(rows.count, stored, *floats)
    for start in range(0, rows.count, QUANTISE_ROWS):
        stop = min(rows.count, start + QUANTISE_ROWS)
        block = rows.block(start, stop)
        quantise(block, frame, start, threads, bank=bank)
        rows.check_norms(bank.length[start:stop], start)
        # `values` of a chunk may be rows that were not scaled: then this is what scales their scores.
        bank.factor[start:stop] = 1 / lengths_of(rows.data[start:stop].float()) if rows.unit else 1.0
        rows.release()
    return bank


@dataclass
class PreparedQueries:
    """Queries as panels of bytes, their float32 arrays, and their rows as float32 [n, D]."""

    count: int
    bytes: Tensor
    sums: Tensor
    lanes: Tensor
    values: Tensor
    scale: Tensor
    norm: Tensor
    error: Tensor
    level: Tensor
    length: Tensor

    @property
    def panels(self) -> int:
        return len(self.scale) // PANEL

    def part(self, frame: Frame, first: int, last: int) -> library.Queries:
        """Panels first..last for the extension."""
        slot = first * PANEL
        arrays = (self.scale, self.norm, self.error, self.level, self.length)
        return library.Queries(
            address(self.bytes, slot * frame.wide),
            address(self.sums, slot),
            address(self.lanes, slot * 2 * (frame.wide // SEGMENT)),
            *(address(array, slot) for array in arrays),
            address(self.values, slot * frame.dim),
            last - first,
            min(self.count, last * PANEL) - slot,
        )


def prepare_queries(rows: Rows, frame: Frame, threads: int) -> PreparedQueries:
    """All of `rows` as the screen reads them. Raises ValueError on rows that cannot be read."""
    count = padded(rows.count, PANEL)
    floats = torch.zeros(5, count, dtype=torch.float32, device="cpu")
    floats[3].fill_(float("nan"))
    queries = PreparedQueries(
        rows.count,
        torch.zeros(count * frame.wide, dtype=torch.int8, device="cpu"),
        torch.zeros(count, dtype=torch.int32, device="cpu"),
        torch.zeros(count * 2 * (frame.wide // SEGMENT), dtype=torch.int16, device="cpu"),
        rows.block(0, rows.count),
        *floats,
    )
    for start in range(0, rows.count, QUANTISE_ROWS):
        stop = min(rows.count, start + QUANTISE_ROWS)
        block = queries.values[start:stop]
        quantise(block, frame, start, threads, queries=queries)
        rows.check_norms(queries.length[start:stop], start)
    return queries


def quantise(
    block: Tensor,
    frame: Frame,
    first: int,
    threads: int,
    bank: PreparedBank | None = None,
    queries: PreparedQueries | None = None,
) -> None:
    """Writes the rows of a float32 block, from row `first` on, into a prepared side."""
    side = bank if bank is not None else queries
    assert side is not None
    # Bank rows lose m and are multiplied with c for their shift; queries lose c and are multiplied with m for their
    # level.
    centre, other = frame.centre, frame.query_centre
    if queries is not None:
        centre, other = other, centre
    outputs = (
        address(side.bytes),
        address(queries.sums) if queries is not None else None,
        address(queries.lanes) if queries is not None else None,
        *(address(array) for array in (side.scale, side.norm, side.error)),
        address(side.shift if isinstance(side, PreparedBank) else side.level),
        address(side.length),
    )

    def some_rows(start: int, stop: int) -> None:
        task = library.Quantised(
            address(block, start * block.stride(0)),
            *(address(vector) for vector in (centre, other, frame.signs)),
            stop - start,
            block.stride(0),
            first + start,
            frame.dim,
            frame.wide,
            int(queries is not None),
            CAPPED_RMS if frame.capped else MOST_RMS,
            int(frame.capped),
            *outputs,
        )
        library.loaded().quantise_rows(frame.isa, ctypes.byref(task))

    step = padded(-(-len(block) // threads), PANEL)
    in_threads([partial(some_rows, at, min(len(block), at + step)) for at in range(0, len(block), step)])
