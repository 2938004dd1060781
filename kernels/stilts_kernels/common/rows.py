"""Embeddings as rows: checked, and read in blocks as float32, whether they lie in memory or in a mapped file.

Everything else in this package reads embeddings through `Rows`, so the checks and the normalisation are the same on
every path, rank and shard.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_DIM = 8192
MAX_NORM = 1e15  # products of two such rows stay finite in float32
# Below this float32 squares of a row's numbers may underflow, so its length is computed in float64.
SMALL_NORM = 1e-9
LEAST_NORM = 2.0**-126  # of a row that is to be scaled: below it float32 itself runs out of digits
SAMPLE_RUNS, SAMPLE_RUN = 64, 16
LENGTH_CELLS = 1 << 23  # numbers widened to float64 at once while lengths are computed: 64 MB
METRICS = ("inner", "cosine")


class Rows:
    """Rows of a [N, D] tensor, optionally scaled to unit length as they are read.

    `lengths` float32 [N], where they are given, are what rows are divided by; else each read computes them. Raises
    ValueError when `data` is not a two-dimensional strided float32, bfloat16 or float16 tensor with D <= MAX_DIM.
    """

    def __init__(
        self,
        data: Tensor,
        name: str,
        unit: bool = False,
        release: Callable[[], None] | None = None,
        first: int = 0,
        lengths: Tensor | None = None,
    ) -> None:
        check_matrix(data, name)
        self.data, self.name, self.unit, self.lengths = data, name, unit, lengths
        self._release, self.first = release, first

    def part(self, start: int, stop: int) -> Rows:
        """Rows start..stop with their lengths; messages about them keep their numbers in the whole."""
        lengths = None if self.lengths is None else self.lengths[start:stop]
        return Rows(self.data[start:stop], self.name, self.unit, self._release, self.first + start, lengths)

    def measured(self) -> Rows:
        """The same rows with `lengths`, each summed in an order that depends on D alone (`fixed_order_lengths`).

        A reduction of torch on a GPU takes another order for another number of rows, so a row would differ from itself
        in a batch. Raises ValueError on rows that cannot be scaled.
        """
        if not self.unit or self.lengths is not None:
            return self
        lengths = fixed_order_lengths(self.data)
        check_lengths(lengths, self.name, self.first)
        return Rows(self.data, self.name, self.unit, self._release, self.first, lengths)

    def select(self, index: Tensor) -> Rows:
        """The rows `index` [P], numbered from 0, with their lengths."""
        lengths = None if self.lengths is None else self.lengths[index]
        return Rows(self.data[index], self.name, self.unit, lengths=lengths)

    def check_norms(self, norms: Tensor, start: int) -> None:
        """`check_norms` of the rows from `start` on, named by their numbers in the whole."""
        check_norms(norms, self.name, self.first + start)

    @property
    def count(self) -> int:
        return self.data.shape[0]

    @property
    def dim(self) -> int:
        return self.data.shape[1]

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start..stop as float32 [stop - start, D]; may share memory with `data`: do not write to it."""
        rows = self.data[start:stop].float()
        if not self.unit:
            # Products and hashes read rows one after the other; a view with strides is copied here once.
            return rows.contiguous()
        if self.lengths is not None:
            return rows / self.lengths[start:stop, None]
        return normalize(rows, self.name, self.first + start)

    def take(self, index: Tensor) -> Tensor:
        """Rows `index` [P] as float32 [P, D]."""
        # index_select copies whole rows; indexing with brackets goes number by number.
        rows = self.data.index_select(0, index).float()
        if not self.unit:
            return rows
        if self.lengths is not None:
            return rows / self.lengths[index, None]
        return normalize(rows, self.name)

    def sample(self) -> Tensor:
        """Up to 1024 rows in evenly spaced runs, float32; enough to place a centre (any centre is correct).

        Runs, because touching single rows all over a mapped file would map nearly all of it.
        """
        step = max(SAMPLE_RUN, -(-self.count // SAMPLE_RUNS))
        runs = []
        for start in range(0, self.count, step):
            runs.append(self.data[start : start + SAMPLE_RUN].float().clone())
            self.release()
        return torch.cat(runs)

    @property
    def mapped(self) -> bool:
        """Whether the rows come from a memory-mapped file."""
        return self._release is not None

    def release(self) -> None:
        """Lets the pages of a memory-mapped file go; they stay in the system's page cache."""
        if self._release is not None:
            self._release()


def check_matrix(data: Tensor, name: str) -> None:
    """Raises ValueError unless `data` is a [N, D] tensor this package can read."""
    if not isinstance(data, Tensor):
        raise ValueError(f"{name}: expected a torch tensor, got {type(data).__name__}")
    if data.layout != torch.strided or data.dim() != 2:
        raise ValueError(f"{name}: expected a dense [rows, D] tensor, got {data.layout} of shape {tuple(data.shape)}")
    if data.dtype not in DTYPES:
        raise ValueError(f"{name}: dtype {data.dtype} is not one of float32, bfloat16, float16")
    if data.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is on {data.device}; rows are searched on a CPU or a CUDA device")
    if not 1 <= data.shape[1] <= MAX_DIM:
        raise ValueError(f"{name}: D = {data.shape[1]} is outside 1..{MAX_DIM}")


def check_pair(queries: Rows, bank: Rows, k: int) -> None:
    """Raises ValueError when two sides do not fit together or k is out of range."""
    for side in (queries, bank):
        if side.count == 0:
            raise ValueError(f"{side.name} is empty")
    if queries.dim != bank.dim:
        raise ValueError(f"{queries.name} has D = {queries.dim}, {bank.name} has D = {bank.dim}")
    if queries.data.device != bank.data.device:
        raise ValueError(f"{queries.name} is on {queries.data.device}, {bank.name} on {bank.data.device}")
    if not 1 <= k <= bank.count:
        raise ValueError(f"k = {k} is outside 1..{bank.count}, the number of rows of {bank.name}")


def check_norms(norms: Tensor, name: str, start: int = 0) -> None:
    """Raises ValueError naming the first row whose norm [n] is NaN, infinite or too large to multiply."""
    # One comparison for all three faults.
    good = norms < MAX_NORM  # False for NaN
    if not bool(good.all()):
        row = start + int((~good).nonzero()[0, 0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity, or its norm is {MAX_NORM:g} or more")


def is_cosine(metric: str) -> bool:
    if metric not in METRICS:
        raise ValueError(f"metric {metric!r} is not one of {', '.join(METRICS)}")
    return metric == "cosine"


def normalize(rows: Tensor, name: str = "rows", start: int = 0) -> Tensor:
    """Rows [N, D] scaled to unit Euclidean length, float32.

    Raises ValueError for NaN, infinite or zero rows: a zero vector has no direction and would match anything.
    """
    rows = rows.float().contiguous()
    lengths = lengths_of(rows)
    check_lengths(lengths, name, start)
    return rows / lengths[:, None]


def lengths_of(rows: Tensor) -> Tensor:
    """Euclidean lengths float32 [N] of float32 rows [N, D], also where their squares underflow."""
    lengths = torch.linalg.vector_norm(rows, dim=1)
    small = lengths < SMALL_NORM
    if bool(small.any()):
        lengths[small] = torch.linalg.vector_norm(rows[small].double(), dim=1).float()
    return lengths


def check_lengths(lengths: Tensor, name: str, start: int = 0) -> None:
    """Raises ValueError naming the first row that cannot be scaled to unit length: not finite, zero or too short."""
    check_norms(lengths, name, start)
    short = lengths < LEAST_NORM
    if not bool(short.any()):
        return
    row = int(short.nonzero()[0, 0])
    if lengths[row] == 0:
        raise ValueError(f"{name}: row {start + row} is a zero vector and cannot be normalised")
    raise ValueError(
        f"{name}: row {start + row} is so short (length below {LEAST_NORM:.1e}) that float32 holds no direction of it; "
        "scale the rows up before they are stored"
    )


def fixed_order_lengths(data: Tensor) -> Tensor:
    """Euclidean lengths float32 [N] of rows [N, D]: float64 sums, in halves, rounded once.

    Squares of float32 are exact in float64, and the halves are added number by number, so neither the device nor the
    number of rows decides a bit.
    """
    lengths = torch.empty(len(data), dtype=torch.float32, device=data.device)
    step = max(1, LENGTH_CELLS // data.shape[1])
    for start in range(0, len(data), step):
        sums = data[start : start + step].double().square()
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            # The middle number of an odd row stays where it is until the next halving.
            odd = sums.shape[1] - half
            # Element by element, so no library chooses an order.
            sums[:, :half] += sums[:, odd:]
            sums = sums[:, :odd]
        lengths[start : start + step] = sums[:, 0].sqrt().float()
    return lengths


def mean_pool_packed(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over each sequence of packed tokens [T, D], boundaries cu_seqlens [B + 1] -> float32 [B, D].

    Sums in float64, so the result does not depend on how sequences were packed. Raises ValueError when the boundaries
    do not start at 0, end at T and rise strictly (an empty sequence has no mean).
    """
    lengths = cu_seqlens.diff()
    ends_fit = cu_seqlens.numel() > 1 and cu_seqlens[[0, -1]].tolist() == [0, tokens.shape[0]]
    if not ends_fit or bool((lengths < 1).any()):
        raise ValueError(f"cu_seqlens must rise strictly from 0 to {tokens.shape[0]}, the number of tokens")
    sequence = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int64, device=tokens.device), lengths)
    sums = torch.zeros(len(lengths), tokens.shape[1], dtype=torch.float64, device=tokens.device)
    # Not by differences of a running sum, which lose digits of the later sequences.
    sums.index_add_(0, sequence, tokens.double())
    return (sums / lengths[:, None]).float()
