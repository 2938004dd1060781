"""Search over a bank split among ranks or files, bit-equal to one process holding all of it.

`topk_ranks` and `mine_ranks`: every rank holds a shard of each side, in rank order; queries travel in blocks, results
return to their owner (12 bytes per query, rank and neighbour). `topk_files`: the bank is a list of .npy files too large
for memory; finished files are kept, so an interrupted run resumes.

Equality holds because every path ranks the same canonical float64 scores (`rows`), and because shards are merged in
order of their rows by a stable sort, which keeps the lower index first.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.mining import MinedPairs, Neighbours, best_margin, check_choices, match, two_way
from stilts_kernels.ranks import Ranks, ranks_of
from stilts_kernels.rows import Rows, check_matrix, open_npy, raw_bytes
from stilts_kernels.screen import DEFAULT_MEMORY, TopK, is_cosine, merge_topk, topk_float64

Progress = Callable[[int, int], None]


def padded_to(values: Tensor, indices: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) with -inf and -1 up to k columns, for shards of fewer than k rows."""
    missing = k - values.shape[1]
    if missing == 0:
        return values, indices
    return (torch.nn.functional.pad(values, (0, missing), value=-torch.inf),
            torch.nn.functional.pad(indices, (0, missing), value=-1))


def nothing(rows: int, k: int) -> tuple[Tensor, Tensor]:
    """(values, indices) [rows, k] of no search, in CPU memory, where results of shards are exchanged."""
    values = torch.empty(rows, k, dtype=torch.float64, device="cpu")
    return values, torch.empty(rows, k, dtype=torch.int64, device="cpu")


class Layout:
    """How both sides lie over the ranks; made collectively, so a bad shard on one rank raises on all."""

    def __init__(self, ranks: Ranks, queries: Tensor, bank: Tensor, k: int, memory: int,
                 names: tuple[str, str]) -> None:
        ranks.agree(partial(check_shard, queries, names[0]))
        ranks.agree(partial(check_shard, bank, names[1]))
        shapes = ranks.gather((tuple(queries.shape), str(queries.dtype), tuple(bank.shape), k, memory))
        self.query_counts = [shape[0][0] for shape in shapes]
        self.bank_counts = [shape[2][0] for shape in shapes]
        self.dtypes = [getattr(torch, shape[1].removeprefix("torch.")) for shape in shapes]
        self.dim, self.k = queries.shape[1], k
        self.memory = min(shape[4] for shape in shapes)  # blocks must be cut alike on all ranks
        dims = {side[1] for shape in shapes for side in (shape[0], shape[2])}
        self.check(dims, {shape[3] for shape in shapes}, names)

    def check(self, dims: set[int], ks: set[int], names: tuple[str, str]) -> None:
        """Raises the same ValueError on every rank."""
        for what, found in (("D", dims), ("k", ks)):
            if len(found) > 1:
                raise ValueError(f"ranks differ in {what}: {sorted(found)}")
        k = self.k
        for counts, name in ((self.query_counts, names[0]), (self.bank_counts, names[1])):
            if sum(counts) == 0:
                raise ValueError(f"{name} is empty on all ranks")
        if not 1 <= k <= sum(self.bank_counts):
            raise ValueError(f"k = {k} is outside 1..{sum(self.bank_counts)}, the number of rows of {names[1]}")

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(owner, start, stop) of every block of queries, in order of their global rows; a quarter of the memory."""
        step = max(1, self.memory // 4 // (self.dim * 4 + 32 * self.k))
        for owner, count in enumerate(self.query_counts):
            for start in range(0, count, step):
                yield owner, start, min(count, start + step)

    def share(self, ranks: Ranks, queries: Tensor, owner: int, start: int, stop: int) -> Tensor:
        """The owner's block of queries, on every rank."""
        block = torch.empty(stop - start, self.dim, dtype=self.dtypes[owner], device="cpu")
        if ranks.rank == owner:
            block.copy_(queries[start:stop])
        return ranks.broadcast(block, owner)


def check_shard(side: Tensor, name: str) -> None:
    """Raises ValueError unless `side` is a readable CPU shard; it may be empty, but not missing."""
    if side is None:
        raise ValueError(f"the shard of {name} is missing")
    check_matrix(side, name)
    if side.device.type != "cpu":
        raise ValueError(f"{name} is on {side.device}; shards are exchanged in CPU memory")


@torch.no_grad()
def topk_ranks(queries: Tensor, bank: Tensor, k: int, comm: Any, metric: str = "inner",
               memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> TopK:
    """Top-k of this rank's queries [Q, D] in the whole bank, of which this rank holds `bank` [N, D].

    Indices count the bank over all ranks in rank order. `memory` bounds scratch bytes per rank. Collective: raises the
    same ValueError on every rank when any rank's input is bad.
    """
    ranks = ranks_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    layout = Layout(ranks, queries, bank, k, memory, ("queries", "bank"))
    found = [nothing(0, k)]
    done, total = 0, sum(layout.query_counts)
    for owner, start, stop in layout.blocks():
        block = layout.share(ranks, queries, owner, start, stop)
        part = ranks.agree(partial(local_topk, block, bank, k, unit, layout.memory * 3 // 4))
        found += collect_parts(ranks, layout, part, owner, k)
        done = report(progress, done + stop - start, total)
    values, indices = (torch.cat(side) for side in zip(*found))
    return TopK(values.float(), indices)


def local_topk(block: Tensor, bank: Tensor, k: int, unit: bool, memory: int) -> tuple[Tensor, Tensor]:
    """Top-k of a block in this rank's shard alone, padded to k; indices count within the shard."""
    if len(bank) == 0:
        return padded_to(*nothing(len(block), 0), k)
    sides = Rows(block, "queries", unit), Rows(bank, "bank", unit)
    return padded_to(*topk_float64(*sides, min(k, len(bank)), memory=memory), k)


def collect_parts(ranks: Ranks, layout: Layout, part: tuple[Tensor, Tensor], owner: int,
                  k: int) -> list[tuple[Tensor, Tensor]]:
    """On the owner, the merged top-k with global indices, as a list of one; elsewhere an empty list."""
    values = ranks.collect(part[0].contiguous(), owner)
    indices = ranks.collect(part[1].int(), owner)
    offsets = [sum(layout.bank_counts[:rank]) for rank in range(ranks.size)]
    parts = [(value, index.long() + offset) for value, index, offset in zip(values, indices, offsets)]
    return [merge_topk(parts, k)] if parts else []


@torch.no_grad()
def mine_ranks(source: Tensor, target: Tensor, k: int, comm: Any, margin: str = "ratio", retrieval: str = "max",
               metric: str = "cosine", memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> MinedPairs:
    """`stilts_kernels.mine` over sides split among ranks: all pairs, with global indices, on every rank.

    Every score is computed once, by the rank that holds the target row. Collective, raises as `topk_ranks`.
    """
    ranks = ranks_of(comm)
    ranks.agree(lambda: check_choices(margin, retrieval))
    unit = ranks.agree(lambda: is_cosine(metric))
    layout = Layout(ranks, source, target, k, memory, ("source", "target"))
    if k > sum(layout.query_counts):
        raise ValueError(f"k = {k} is outside 1..{sum(layout.query_counts)}, the number of rows of source")
    forward, backward = neighbours_ranks(ranks, layout, source, target, k, unit, progress)
    own_mean, other_mean = forward.values.mean(dim=1), backward.values.mean(dim=1)
    all_own, all_other = (torch.cat(ranks.gather(mean)) for mean in (own_mean, other_mean))
    ahead = best_margin(forward, own_mean, all_other, margin)
    back = best_margin(backward, other_mean, all_own, margin)
    return match(joined(ranks, ahead), joined(ranks, back), retrieval)


def joined(ranks: Ranks, best: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Every rank's (margin, index) one after the other."""
    margin, index = zip(*ranks.gather(best))
    return torch.cat(margin), torch.cat(index)


def neighbours_ranks(ranks: Ranks, layout: Layout, source: Tensor, target: Tensor, k: int, unit: bool,
                     progress: Progress | None) -> tuple[Neighbours, Neighbours]:
    """Neighbours, with global indices, of this rank's source rows and of its target rows."""
    forward = [nothing(0, k)]
    backward = padded_to(*nothing(len(target), 0), k)
    done, total = 0, sum(layout.query_counts)
    for owner, start, stop in layout.blocks():
        block = layout.share(ranks, source, owner, start, stop)
        ahead, back = ranks.agree(partial(local_two_way, block, target, k, unit, layout.memory * 3 // 4))
        forward += collect_parts(ranks, layout, ahead, owner, k)
        backward = merge_topk([backward, (back[0], back[1].add_(done))], k)
        done = report(progress, done + stop - start, total)
    return Neighbours(*(torch.cat(side) for side in zip(*forward))), Neighbours(*backward)


def local_two_way(block: Tensor, target: Tensor, k: int, unit: bool,
                  memory: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Neighbours of a source block in this rank's targets and of the targets in the block, padded to k."""
    if len(target) == 0:
        return local_topk(block, target, k, unit, memory), nothing(0, k)
    sides = Rows(block, "source", unit), Rows(target, "target", unit)
    ahead, back = two_way(*sides, min(k, len(target)), min(k, len(block)), memory=memory)
    return padded_to(*ahead, k), padded_to(*back, k)


@torch.no_grad()
def topk_files(queries: Tensor, shards: Sequence[str | Path], k: int, folder: str | Path, comm: Any = None,
               metric: str = "inner", memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> TopK:
    """Top-k of queries [Q, D] (the same on every rank) in a bank of .npy files, split over the ranks.

    Files are memory-mapped and searched one by one; each result is kept in `folder`, a folder all ranks share, and
    reused when the queries, the file's content, k and the metric hash to the same value. Indices count rows over the
    files in the given order. Collective: a missing or bad file raises ValueError on every rank.
    """
    ranks = ranks_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    counts = ranks.agree(lambda: check_files(queries, shards, k))
    parts = [Path(folder) / f"part-{number:05d}.pt" for number in range(len(shards))]
    mine = range(ranks.rank, len(shards), ranks.size)
    ranks.agree(lambda: search_files(queries, shards, parts, mine, k, unit, memory, progress))
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


def search_files(queries: Tensor, shards: Sequence[str | Path], parts: Sequence[Path], numbers: range, k: int,
                 unit: bool, memory: int, progress: Progress | None) -> None:
    """Searches the files `numbers` and writes their parts, skipping those that are up to date."""
    question = content_hash(queries)
    for done, number in enumerate(numbers, start=1):
        bank, release = open_npy(shards[number])
        key = hashlib.sha256(json.dumps([question, content_hash(bank, release), k, unit]).encode()).hexdigest()
        if load_part(parts[number], key) is None:
            rows = Rows(bank, str(shards[number]), unit, release)
            values, indices = (topk_float64(Rows(queries, "queries", unit), rows, min(k, len(bank)), memory=memory)
                               if len(bank) else nothing(len(queries), 0))
            save_part(parts[number], {"key": key, "values": values, "indices": indices})
        report(progress, done, len(numbers))


def content_hash(rows: Tensor, release: Callable[[], None] = lambda: None, step: int = 1 << 14) -> str:
    """SHA-256 of shape, dtype and content, read in blocks."""
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    for start in range(0, len(rows), step):
        block = rows[start : start + step].contiguous()
        digest.update(raw_bytes(block))
        release()
    return digest.hexdigest()


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


def part_sum(part: dict[str, Any]) -> str:
    """Hash of a part's numbers, which tells a damaged file."""
    return content_hash(part["values"]) + content_hash(part["indices"])


def save_part(path: Path, part: dict[str, Any]) -> None:
    """Writes a part whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save({**part, "sum": part_sum(part)}, draft)
    os.replace(draft, path)


def merge_files(parts: Sequence[Path], counts: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
    """(values float32, indices) of the best k over all parts, one part in memory at a time."""
    merged: tuple[Tensor, Tensor] | None = None
    offset = 0
    for path, count in zip(parts, counts):
        part = load_part(path, None)
        if part is None:
            raise ValueError(f"{path} is missing or damaged: do all ranks share its folder?")
        fresh = (part["values"], part["indices"] + offset)
        merged = merge_topk([merged, fresh], k) if merged else fresh
        offset += count
    assert merged is not None, "check_files refused an empty list"
    return merged[0].float(), merged[1]


def report(progress: Progress | None, done: int, total: int) -> int:
    """Calls progress(done, total) where one is given; returns done."""
    if progress is not None:
        progress(done, total)
    return done


def bar(done: int, total: int, width: int = 40) -> None:
    """A progress bar on standard error, for rank 0 to pass as `progress`."""
    filled = width * done // total
    print(f"\r[{'#' * filled}{'.' * (width - filled)}] {done}/{total}", end="\n" if done == total else "",
          file=sys.stderr, flush=True)
