"""Embeddings as rows: checked, read in blocks as float32, from memory or from a memory-mapped .npy file.

Everything else in this package reads embeddings through `Rows`, so the checks, the normalisation and the canonical
score below are the same on every path, rank and shard.

Canonical score: the float64 dot product of the two float32 rows, summed over D in an order that depends on D alone
(one row, one reduction). Equal rows therefore score equal to the last bit wherever they stand, ties fall to the lower
index, and splitting the bank over shards or ranks cannot change a result.
"""

from __future__ import annotations

import ast
import ctypes
import mmap
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
NPY_DTYPES = {"<f4": torch.float32, "<f2": torch.float16}
MAX_DIM = 4096
MAX_NORM = 1e15  # products of two such rows stay finite in float32
MAX_STEP = 4096  # rows of each side held in float64 while pairs are scored: 32 MB each at D = 1024
MAPPED_ROWS = 4096  # stretch of a mapped file that one step touches: 8 MB of float16 at D = 1024
SAMPLE_RUNS, SAMPLE_RUN = 64, 16


class Rows:
    """Rows of a [N, D] tensor, optionally scaled to unit length as they are read.

    Raises ValueError when `data` is not a two-dimensional strided float32, bfloat16 or float16 tensor with D <= 4096.
    """

    def __init__(self, data: Tensor, name: str, unit: bool = False, release: Callable[[], None] | None = None,
                 first: int = 0) -> None:
        check_matrix(data, name)
        self.data, self.name, self.unit = data, name, unit
        self._release, self._first = release, first

    def part(self, start: int, stop: int) -> Rows:
        """Rows start..stop; messages about them keep their numbers in the whole."""
        return Rows(self.data[start:stop], self.name, self.unit, self._release, self._first + start)

    def check_norms(self, norms: Tensor, start: int) -> None:
        """`check_norms` of the rows from `start` on, named by their numbers in the whole."""
        check_norms(norms, self.name, self._first + start)

    @property
    def count(self) -> int:
        return self.data.shape[0]

    @property
    def dim(self) -> int:
        return self.data.shape[1]

    def block(self, start: int, stop: int) -> Tensor:
        """Rows start..stop as float32 [stop - start, D]; may share memory with `data`: do not write to it."""
        rows = self.data[start:stop].float()
        return normalize(rows, self.name, self._first + start) if self.unit else rows.contiguous()

    def take(self, index: Tensor) -> Tensor:
        """Rows `index` [P] as float32 [P, D]."""
        rows = self.data[index].float()
        return normalize(rows, self.name) if self.unit else rows

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
    good = norms < MAX_NORM  # False for NaN
    if not bool(good.all()):
        row = start + int((~good).nonzero()[0, 0])
        raise ValueError(f"{name}: row {row} holds NaN or infinity, or its norm is {MAX_NORM:g} or more")


def normalize(rows: Tensor, name: str = "rows", start: int = 0) -> Tensor:
    """Rows [N, D] scaled to unit Euclidean length, float32.

    Raises ValueError for NaN, infinite or zero rows: a zero vector has no direction and would match anything.
    """
    rows = rows.float().contiguous()
    norms = torch.linalg.vector_norm(rows, dim=1)
    check_norms(norms, name, start)
    if not bool((norms > 0).all()):
        row = start + int((norms == 0).nonzero()[0, 0])
        raise ValueError(f"{name}: row {row} is a zero vector and cannot be normalised")
    return rows / norms[:, None]


def mean_pool_packed(tokens: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Mean over each sequence of packed tokens [T, D], boundaries cu_seqlens [B + 1] -> float32 [B, D].

    Sums in float64, so the result does not depend on how sequences were packed. Raises ValueError when the boundaries
    do not start at 0, end at T and rise strictly (an empty sequence has no mean).
    """
    lengths = cu_seqlens.diff()
    ends_fit = cu_seqlens.numel() > 1 and int(cu_seqlens[0]) == 0 and int(cu_seqlens[-1]) == tokens.shape[0]
    if not ends_fit or bool((lengths < 1).any()):
        raise ValueError(f"cu_seqlens must rise strictly from 0 to {tokens.shape[0]}, the number of tokens")
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=tokens.device), lengths)
    sums = torch.zeros(len(lengths), tokens.shape[1], dtype=torch.float64, device=tokens.device)
    sums.index_add_(0, sequence, tokens.double())
    return (sums / lengths[:, None]).float()


def canonical_scores(queries: Rows, bank: Rows, query: Tensor, row: Tensor, step: int = MAX_STEP) -> Tensor:
    """Canonical float64 scores [P] of the distinct pairs (query[p], row[p]), in any order.

    `step` bounds the rows of either side that are held in float64.
    """
    scores = torch.empty(len(query), dtype=torch.float64, device=query.device)
    order, start = by_block(query, row, step), 0
    for number, count in enumerate(torch.bincount(query // step).tolist()):
        if count:
            first, part = number * step, order[start : start + count]
            block = queries.block(first, min(queries.count, first + step)).double()
            scores[part] = block_scores(block, bank, query[part] - first, row[part], step)
            start += count
    return scores


def by_block(query: Tensor, row: Tensor, step: int = MAX_STEP) -> Tensor:
    """Order of pairs [P] for exact scoring: by block of queries, then by bank row, so the bank is read in order."""
    return torch.argsort((query // step << 40) + row)


def block_scores(block: Tensor, bank: Rows, query: Tensor, row: Tensor, step: int) -> Tensor:
    """Canonical scores [P] of pairs (row of the float64 block [B, D], bank row), the bank's rows rising."""
    parts, stretch = [], MAPPED_ROWS if bank.mapped else bank.count
    counts = torch.bincount(row // stretch).tolist()
    sizes = [min(step, count - done) for count in counts for done in range(0, count, step)]
    for own, other in zip(query.split(sizes), row.split(sizes)):
        which, counts = torch.unique_consecutive(other, return_counts=True)
        parts.append(sampled_dots(bank.take(which).double(), counts, block, own))
        bank.release()
    return torch.cat(parts)


def sampled_dots(left: Tensor, counts: Tensor, right: Tensor, column: Tensor) -> Tensor:
    """Dot products [P] of left [L, D] with the rows of right [R, D] listed in `column` [P], counts[l] of them per l.

    On a CPU sampled_addmm forms each product straight from the two rows, one reduction over D per pair, without
    gathering either; its order does not depend on the other pairs (tested). On a GPU one reduction over gathered rows.
    """
    if left.is_cuda:
        return (left.repeat_interleave(counts, dim=0) * right[column]).sum(dim=1)
    bounds = torch.zeros(len(counts) + 1, dtype=torch.int64, device=left.device)
    torch.cumsum(counts, dim=0, out=bounds[1:])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        pattern = torch.sparse_csr_tensor(bounds, column, left.new_zeros(len(column)), (len(left), len(right)),
                                          device=left.device, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left, right.T, beta=0.0).values()


def open_npy(path: str | Path) -> tuple[Tensor, Callable[[], None]]:
    """Memory-maps a C-ordered float32 or float16 .npy matrix: (tensor [N, D], release its pages).

    Format: numpy.lib.format, versions 1 to 3. Raises ValueError naming the file for anything else.
    """
    with open(path, "rb") as file:
        header, offset = read_npy_header(file.read(4096), path)  # refuses an empty file, which cannot be mapped
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    shape, dtype = header.get("shape"), NPY_DTYPES.get(str(header.get("descr")))
    matrix = isinstance(shape, tuple) and len(shape) == 2 and all(type(size) is int and size >= 0 for size in shape)
    if dtype is None or shape is None or header.get("fortran_order") is not False or not matrix:
        raise ValueError(f"{path}: needs a C-ordered [N, D] array of float32 or float16, got {header}")
    count = shape[0] * shape[1]
    if len(mapped) < offset + count * dtype.itemsize:
        raise ValueError(f"{path}: cut short: {len(mapped)} bytes for shape {shape} of {dtype}")
    if count == 0:
        return torch.empty(shape, dtype=dtype, device="cpu"), lambda: None
    tensor = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset).view(shape)
    return tensor, lambda: mapped.madvise(mmap.MADV_DONTNEED)


def raw_bytes(rows: Tensor) -> ctypes.Array[ctypes.c_char]:
    """The memory of a contiguous, non-empty CPU tensor as a buffer; valid while the tensor lives."""
    return (ctypes.c_char * rows.nbytes).from_address(rows.data_ptr())


def read_npy_header(head: bytes, path: str | Path) -> tuple[dict, int]:
    """The header of a .npy file's first bytes and the offset of its data."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise ValueError(f"{path}: not a .npy file")
    width, form = (2, "<H") if head[6] == 1 else (4, "<I")
    length = struct.unpack(form, head[8 : 8 + width])[0]
    offset = 8 + width + length
    try:
        header = ast.literal_eval(head[8 + width : offset].decode("latin-1"))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its header is damaged; write the file again")
    return header, offset
