"""Search in a bank of .npy files too large for memory; finished files are kept, so an interrupted run resumes.

The result is bit-equal to one search of all rows, for the reasons given in `ranks`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.collectives import collectives_of
from stilts_kernels.common.npy import open_npy, raw_bytes
from stilts_kernels.common.progress import Progress, report_progress
from stilts_kernels.common.ranking import Ranked, TopK, merge_topk
from stilts_kernels.common.rows import Rows, is_cosine
from stilts_kernels.mining.ranks import check_shard, no_neighbours
from stilts_kernels.topk.cpu import DEFAULT_MEMORY, topk_float64


@torch.no_grad()
def topk_files(
    queries: Tensor,
    shards: Sequence[str | Path],
    k: int,
    folder: str | Path,
    comm: Any = None,
    metric: str = "inner",
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> TopK:
    """Top-k of queries [Q, D] (the same on every rank) in a bank of .npy files, split over the ranks.

    Files are memory-mapped and searched one by one; each result is kept in `folder`, a folder all ranks share, and
    reused when the queries, the file's content, k and the metric hash to the same value. Indices count rows over the
    files in the given order. Collective: a missing or bad file raises ValueError on every rank.
    """
    ranks = collectives_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    counts = ranks.agree(lambda: check_files(queries, shards, k))
    parts = [Path(folder) / f"part-{number:05d}.pt" for number in range(len(shards))]
    numbers = range(ranks.rank, len(shards), ranks.size)
    ranks.agree(lambda: search_files(queries, shards, parts, numbers, k, unit, memory, progress))
    return TopK(*ranks.agree(lambda: merge_files(parts, counts, k)))


def check_files(queries: Tensor, shards: Sequence[str | Path], k: int) -> list[int]:
    """Rows of every file. Raises ValueError naming a file that is missing or does not fit."""
    check_shard(queries, "queries")
    counts = []
    for path in shards:
        if not Path(path).is_file():
            raise ValueError(f"bank shard {path} is missing")
        tensor, _ = open_npy(path)
        if tensor.shape[1] != queries.shape[1]:
            raise ValueError(f"{path} has D = {tensor.shape[1]}, queries have D = {queries.shape[1]}")
        counts.append(len(tensor))
    if not 1 <= k <= sum(counts):
        raise ValueError(f"k = {k} is outside 1..{sum(counts)}, the number of rows of the bank")
    return counts


def search_files(
    queries: Tensor,
    shards: Sequence[str | Path],
    parts: Sequence[Path],
    numbers: range,
    k: int,
    unit: bool,
    memory: int,
    progress: Progress | None,
) -> None:
    """Searches the files `numbers` and writes their parts, skipping those that are up to date."""
    queries_hash = content_hash(queries)
    for done, number in enumerate(numbers, start=1):
        bank, release = open_npy(shards[number])
        question = json.dumps([queries_hash, content_hash(bank, release), k, unit])
        key = hashlib.sha256(question.encode()).hexdigest()
        if load_part(parts[number], key) is None:
            rows = Rows(bank, str(shards[number]), unit, release)
            if len(bank):
                query_rows = Rows(queries, "queries", unit)
                values, indices = topk_float64(query_rows, rows, min(k, len(bank)), memory=memory)
            else:
                values, indices = no_neighbours(len(queries), 0)
            save_part(parts[number], {"key": key, "values": values, "indices": indices})
        report_progress(progress, done, len(numbers))


def merge_files(parts: Sequence[Path], counts: Sequence[int], k: int) -> Ranked:
    """(values float32, indices) of the best k over all parts, one part in memory at a time."""
    merged: Ranked | None = None
    first_row = 0
    for path, count in zip(parts, counts):
        part = load_part(path, None)
        if part is None:
            raise ValueError(f"{path} is missing or damaged: do all ranks share its folder?")
        fresh = (part["values"], part["indices"] + first_row)
        merged = merge_topk([merged, fresh], k) if merged else fresh
        first_row += count
    assert merged is not None, "check_files refused an empty list"
    return merged[0].float(), merged[1]


def load_part(path: Path, key: str | None) -> dict[str, Any] | None:
    """A finished part, or None when there is none for this key (None: any)."""
    if not path.is_file():
        return None
    try:
        part = torch.load(path, map_location="cpu", weights_only=True)
        whole = part["sum"] == part_sum(part)
    except MemoryError:
        raise
    except Exception:  # torn, damaged, or pickled code, which is refused: the file is searched again
        return None
    return part if whole and key in (None, part["key"]) else None


def save_part(path: Path, part: dict[str, Any]) -> None:
    """Writes a part whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({**part, "sum": part_sum(part)}, draft)
    os.replace(draft, path)


def part_sum(part: dict[str, Any]) -> str:
    """Hash of a part's numbers, which tells a damaged file."""
    return content_hash(part["values"]) + content_hash(part["indices"])


def content_hash(rows: Tensor, release: Callable[[], None] = lambda: None, step: int = 1 << 14) -> str:
    """SHA-256 of shape, dtype and content, read in blocks."""
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    for start in range(0, len(rows), step):
        block = rows[start : start + step].contiguous()
        digest.update(raw_bytes(block))
        release()
    return digest.hexdigest()
