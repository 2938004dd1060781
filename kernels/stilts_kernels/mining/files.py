"""Search in a bank of .npy files too large for memory; finished files are kept, so an interrupted run resumes.

The result is bit-equal to one search of all rows, for the reasons given in `ranks`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.collectives import collectives_of
from stilts_kernels.common.npy import open_npy
from stilts_kernels.common.progress import Progress, report_progress
from stilts_kernels.common.ranking import Ranked, TopK, merge_topk
from stilts_kernels.common.rows import Rows, is_cosine
from stilts_kernels.mining.layout import check_shard, no_neighbours, warn_of_unlike_processors
from stilts_kernels.mining.parts import content_hash, load_part, save_part
from stilts_kernels.topk.cpu import DEFAULT_MEMORY, topk_float64

PATIENCE, PAUSE = 60.0, 0.5  # seconds a shared file system may show another rank's file late, and between two looks


@dataclass(frozen=True)
class FilePart:
    """The rows start..stop of a .npy file, as a shard of its own."""

    path: str | Path
    start: int
    stop: int

    def open(self) -> tuple[Tensor, Callable[[], None]]:
        # The whole file is mapped, and only the rows that are read are ever loaded.
        rows, release = open_npy(self.path)
        if not 0 <= self.start <= self.stop <= len(rows):
            raise ValueError(f"{self.path} has {len(rows)} rows; there are none {self.start}..{self.stop}")
        return rows[self.start : self.stop], release

    def __str__(self) -> str:
        return f"{self.path} from row {self.start} on"


Shard = str | Path | FilePart


def open_shard(shard: Shard) -> tuple[Tensor, Callable[[], None]]:
    """The rows of a shard, memory-mapped, and what lets their pages go."""
    return shard.open() if isinstance(shard, FilePart) else open_npy(shard)


@dataclass(frozen=True)
class Question:
    """What is asked of every file: queries, k, whether rows are scaled. Parts of one question are merged, no others."""

    queries: Tensor
    k: int
    unit: bool
    hash: str

    @classmethod
    def of(cls, queries: Tensor, k: int, unit: bool) -> Question:
        # By content, not by name or time: a file that was written again with the same rows is not searched again.
        text = json.dumps([content_hash(queries), k, unit])
        return cls(queries, k, unit, hashlib.sha256(text.encode()).hexdigest())

    def path(self, folder: Path, number: int) -> Path:
        """Where the part of file `number` lies; another question's parts lie beside it under other names."""
        return folder / f"part-{number:05d}-{self.hash[:16]}.pt"

    def key(self, bank: Tensor, release: Callable[[], None]) -> str:
        """Names the question and the content of one file."""
        return hashlib.sha256(f"{self.hash} {content_hash(bank, release)}".encode()).hexdigest()


@torch.no_grad()
def topk_files(
    queries: Tensor,
    shards: Sequence[Shard],
    k: int,
    folder: str | Path,
    comm: Any = None,
    metric: str = "inner",
    memory: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> TopK:
    """Top-k of queries [Q, D] (the same on every rank) in a bank of .npy files or parts of them, split over the ranks.

    Files are memory-mapped and searched one by one; each result is kept in `folder`, a folder all ranks share, and
    reused when the queries, the file's content, k and the metric hash to the same value. Several searches may share the
    folder. Indices count rows over the files in the given order. Collective: a missing or bad file, or queries that
    differ between ranks, raise ValueError on every rank.
    """
    ranks = collectives_of(comm)
    unit = ranks.agree(lambda: is_cosine(metric))
    counts = ranks.agree(lambda: check_files(queries, shards, k))
    question = ranks.agree(lambda: Question.of(queries, k, unit))
    check_same_question(ranks.gather([question.hash, len(shards)]))
    warn_of_unlike_processors(ranks.gather(torch.backends.cpu.get_cpu_capability()))
    numbers = range(ranks.rank, len(shards), ranks.size)
    searched = ranks.agree(lambda: search_files(question, shards, Path(folder), numbers, memory, progress))
    # What each rank searched just now, and no other file of that name, is merged.
    keys = {int(number): key for of_rank in ranks.gather(searched) for number, key in of_rank.items()}
    parts = [(question.path(Path(folder), number), keys[number]) for number in range(len(shards))]
    return TopK(*ranks.agree(lambda: merge_files(parts, counts, k)))


def check_same_question(questions: Sequence[Sequence[Any]]) -> None:
    """Raises the same ValueError on every rank unless all ranks ask the same of as many files."""
    for rank, question in enumerate(questions):
        if question != questions[0]:
            raise ValueError(
                f"ranks 0 and {rank} search for different queries, k, metric or number of files: topk_files wants the "
                "same on every rank (topk_ranks takes queries that are split)"
            )


def check_files(queries: Tensor, shards: Sequence[Shard], k: int) -> list[int]:
    """Rows of every file. Raises ValueError naming a file that is missing or does not fit."""
    check_shard(queries, "queries")
    counts = []
    for path in shards:
        file = path.path if isinstance(path, FilePart) else path
        if not Path(file).is_file():
            raise ValueError(f"bank shard {path} is missing")
        # Maps the file and reads its header: a bad last file is refused before the first one is searched.
        tensor, _ = open_shard(path)
        if tensor.shape[1] != queries.shape[1]:
            raise ValueError(f"{path} has D = {tensor.shape[1]}, queries have D = {queries.shape[1]}")
        counts.append(len(tensor))
    if not 1 <= k <= sum(counts):
        raise ValueError(f"k = {k} is outside 1..{sum(counts)}, the number of rows of the bank")
    return counts


def search_files(
    question: Question,
    shards: Sequence[Shard],
    folder: Path,
    numbers: range,
    memory: int,
    progress: Progress | None,
) -> dict[str, str]:
    """Searches the files `numbers` and writes their parts, skipping those that are up to date: the key of each part."""
    keys = {}
    for done, number in enumerate(numbers, start=1):
        bank, release = open_shard(shards[number])
        key, path = question.key(bank, release), question.path(folder, number)
        if load_part(path, key) is None:
            values, indices = search_file(question, Rows(bank, str(shards[number]), question.unit, release), memory)
            save_part(path, {"key": key, "values": values, "indices": indices})
        keys[str(number)] = key
        report_progress(progress, done, len(numbers))
    return keys


def search_file(question: Question, bank: Rows, memory: int) -> Ranked:
    """The k best rows of one file, or all where it has fewer."""
    if bank.count == 0:
        return no_neighbours(len(question.queries), 0)
    # The float64 scores are kept, not the rounded ones: merging must rank what one search would have ranked.
    queries = Rows(question.queries, "queries", question.unit)
    return topk_float64(queries, bank, min(question.k, bank.count), memory=memory)


def merge_files(parts: Sequence[tuple[Path, str]], counts: Sequence[int], k: int) -> Ranked:
    """(values float32, indices) of the best k over all parts (path, key), one part in memory at a time."""
    merged: Ranked | None = None
    first_row = 0
    for (path, key), count in zip(parts, counts):
        saved = awaited_part(path, key)
        fresh = (saved["values"], saved["indices"] + first_row)
        merged = merge_topk([merged, fresh], k) if merged else fresh
        first_row += count
    assert merged is not None, "check_files refused an empty list"
    return merged[0].float(), merged[1]


def awaited_part(path: Path, key: str, patience: float = PATIENCE) -> dict[str, Any]:
    """The part of this key, which its rank has written; a shared file system may show it some seconds later.

    Raises ValueError where it does not appear.
    """
    give_up = time.monotonic() + patience
    while (saved := load_part(path, key)) is None:
        if time.monotonic() >= give_up:
            raise ValueError(f"{path} is missing, damaged or of another search: do all ranks share its folder?")
        time.sleep(PAUSE)
    return saved
