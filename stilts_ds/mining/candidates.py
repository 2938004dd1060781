"""Neighbours by way of an approximate index: FAISS names candidates, our exact scores rank them.

A bank's vectors are divided among `nlist` lists by k-means (an inverted file, IVF; Jegou, Douze and Schmid 2011), with
8 bits a number. A query reads the `nprobe` lists nearest to it; the best of what it meets there, several times k, are
scored as the exact search scores them. So a neighbour may be missed, but no score is approximate.

Work on disk is cut by rows of the sides, never by ranks: index files of INDEX_ROWS vectors, answers to QUERY_ROWS
queries. Hence any number of ranks finds the same neighbours, and continues what others began.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.progress import Progress
from stilts_kernels.common.ranking import Ranked, merge_in_any_order, merge_topk, slices
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.layout import no_neighbours, padded_to
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.parts import load_part, save_part
from stilts_kernels.topk.cpu import topk_float64
from torch import Tensor

from stilts_ds.engine.preempt import stop_this_rank_if_requested
from stilts_ds.errors import UserError, counted
from stilts_ds.mining.job import on_all
from stilts_ds.mining.scale import (
    CANDIDATES,
    DEFAULT_NPROBE,
    INDEX_ROWS,
    ITERATIONS,
    QUERY_ROWS,
    TRAINING_ROWS,
    default_nlist,
)

log = logging.getLogger(__name__)
ADDED_ROWS = 1 << 14  # vectors put into an index between two looks at signals


@dataclass(frozen=True)
class IndexSettings:
    """`nlist` lists of vectors (None: `scale.default_nlist`), of which a query reads `nprobe`."""

    nlist: int | None = None
    nprobe: int = DEFAULT_NPROBE

    def check(self) -> None:
        """Raise UserError for values that none can be, and where FAISS is not installed."""
        for name, value in (("nlist", self.nlist), ("nprobe", self.nprobe)):
            if value is not None and value < 1:
                raise UserError(f"{name} {value}: give 1 or more")
        if find_spec("faiss") is None:
            raise UserError(
                "the approximate index needs FAISS, which is not installed here: pip install 'stilts-ds[index]', or "
                "take the exact search"
            )


@dataclass(frozen=True)
class SideRows:
    """The `rows` [N] of a side's mapped `vectors` that take part; everything here numbers them from 0 to N - 1."""

    name: str
    vectors: Tensor
    rows: np.ndarray

    @property
    def count(self) -> int:
        return len(self.rows)

    def unit(self, span: slice) -> Tensor:
        """Some rows, scaled to unit length, float32."""
        taken = self.vectors[torch.from_numpy(self.rows[span])]
        return Rows(taken, self.name, unit=True).block(0, len(taken))


@dataclass(frozen=True)
class CandidateSearch:
    """One search both ways: who does it, k, how the index is made, where finished work lies and what `key` it bears.
    `progress` hears of this rank's blocks of queries."""

    ranks: Collectives
    k: int
    settings: IndexSettings
    folder: Path
    key: str
    progress: Progress


def neighbours_by_index(search: CandidateSearch, source: SideRows, target: SideRows) -> tuple[Neighbours, Neighbours]:
    """k neighbours of this rank's share of the source among all targets, and of its share of the targets among all of
    the source; ranks have whole blocks of QUERY_ROWS rows, in rank order. A collective.

    Raises UserError for rows that have no direction.
    """
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it tells which of its builds it loads
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    forward = _one_way(search, source, target)
    return forward, _one_way(search, target, source)


def _one_way(search: CandidateSearch, queries: SideRows, bank: SideRows) -> Neighbours:
    files = build_index(search, bank)
    blocks = -(-queries.count // QUERY_ROWS)
    first, stop = (blocks * number // search.ranks.size for number in (search.ranks.rank, search.ranks.rank + 1))

    def answers() -> list[Ranked]:
        # Opened by each rank for itself: mapped pages are shared by the ranks of a machine.
        index = OpenIndex(files, search.settings.nprobe)
        answered = []
        search.progress(0, stop - first)
        for block in range(first, stop):
            stop_this_rank_if_requested()
            answered.append(_kept_answer(search, index, queries, bank, block))
            search.progress(block + 1 - first, stop - first)
        return answered

    answered = [no_neighbours(0, search.k), *on_all(search.ranks, answers)]
    values, indices = (torch.cat(side) for side in zip(*answered))
    return Neighbours(values, indices)


# --- the index -------------------------------------------------------------------------------------------------------


def build_index(search: CandidateSearch, bank: SideRows) -> list[Path]:
    """The files of a bank's index, made where they are not there yet: rank 0 chooses the lists, all ranks fill them.
    A collective."""
    ranks, folder = search.ranks, search.folder
    nlist = search.settings.nlist or default_nlist(bank.count)
    if nlist > bank.count:
        raise UserError(f"nlist {nlist}: {bank.name} has {counted(bank.count, 'sentence')}; give no more lists")
    empty = folder / f"index-{bank.name}.faiss"

    def choose_lists() -> None:
        if ranks.rank == 0 and not empty.exists():
            log.info("index of the %s: k-means chooses %s", bank.name, counted(nlist, "list"))
            write_index(trained_index(bank, nlist), empty)

    on_all(ranks, choose_lists)
    parts = list(slices(bank.count, INDEX_ROWS))
    files = [empty.with_name(f"index-{bank.name}-{number:05d}.faiss") for number in range(len(parts))]

    def fill() -> None:
        for number in range(ranks.rank, len(parts), ranks.size):
            if not files[number].exists():
                write_index(filled_index(empty, bank, parts[number]), files[number])

    on_all(ranks, fill)
    return files


def trained_index(bank: SideRows, nlist: int) -> Any:
    """An empty index whose lists are chosen on an even sample of the bank."""
    import faiss

    # Among unit rows Euclidean neighbours are those by cosine, and k-means finds lists also where all rows share a
    # large mean, as those of XLM-R do.
    index: Any = faiss.index_factory(bank.vectors.shape[1], f"IVF{nlist},SQ8", faiss.METRIC_L2)
    index.cp.niter = ITERATIONS
    index.cp.min_points_per_centroid = 1  # it would warn of lists that a small side makes short
    # Evenly over the rows: the first ones of a file that is sorted by topic would stand for one topic.
    sample = np.linspace(0, bank.count - 1, min(bank.count, TRAINING_ROWS * nlist)).astype(np.int64)
    chosen = SideRows(bank.name, bank.vectors, bank.rows[sample])
    index.train(chosen.unit(slice(None)).numpy())
    return index


def filled_index(empty: Path, bank: SideRows, span: slice) -> Any:
    """The index `empty` with the rows `part` of a bank."""
    import faiss

    index = faiss.read_index(str(empty))
    for some in slices(span.stop - span.start, ADDED_ROWS):
        stop_this_rank_if_requested()
        rows = slice(span.start + some.start, span.start + some.stop)
        index.add_with_ids(bank.unit(rows).numpy(), np.arange(rows.start, rows.stop))
    return index


def write_index(index: Any, path: Path) -> None:
    """Write an index whole or not at all."""
    import faiss

    draft = path.with_suffix(f".{os.getpid()}.tmp")
    faiss.write_index(index, str(draft))
    os.replace(draft, path)


class OpenIndex:
    """The memory-mapped files of an index, searched as one."""

    def __init__(self, files: list[Path], nprobe: int) -> None:
        import faiss

        self.files: list[Any] = [
            faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY) for path in files
        ]
        self.nprobe = min(nprobe, self.files[0].nlist)
        for file in self.files:
            file.nprobe = self.nprobe

    def candidates(self, queries: Tensor, count: int) -> Tensor:
        """Up to `count` candidates of each of queries [n, D], int64 [n, count]; -1 where there are fewer."""
        rows = queries.numpy()
        distances, lists = self.files[0].quantizer.search(rows, self.nprobe)  # all files have the same lists
        best: Ranked | None = None
        for file in self.files:
            far, ids = (torch.from_numpy(side) for side in file.search_preassigned(rows, count, lists, distances))
            fresh = torch.where(ids < 0, -torch.inf, -far), ids
            best = fresh if best is None else merge_in_any_order(best, fresh, count)
        assert best is not None, "a side has at least one row"
        return best[1]


# --- its answers -----------------------------------------------------------------------------------------------------


def _kept_answer(search: CandidateSearch, index: OpenIndex, queries: SideRows, bank: SideRows, block: int) -> Ranked:
    """The neighbours of a block of queries, from the folder or found now and kept there."""
    path = search.folder / f"near-{queries.name}-{block:08d}.pt"
    saved = load_part(path, search.key)
    if saved is not None:
        return saved["values"], saved["indices"]
    rows = queries.unit(slice(block * QUERY_ROWS, (block + 1) * QUERY_ROWS))
    try:
        values, indices = nearest(index, rows, bank, search.k)
    except ValueError as error:
        raise UserError(f"cannot search: {error}") from error
    save_part(path, {"key": search.key, "values": values, "indices": indices})
    return values, indices


def nearest(index: OpenIndex, queries: Tensor, bank: SideRows, k: int) -> Ranked:
    """The k best of each query's candidates by canonical score; equal scores keep the lower row first.

    A query that finds fewer than k candidates is searched exactly: its mean needs k neighbours.
    """
    candidates = index.candidates(queries, min(CANDIDATES * k, bank.count))
    query, slot = torch.nonzero(candidates >= 0, as_tuple=True)
    row = candidates[query, slot]
    scores = torch.full(candidates.shape, -torch.inf, dtype=torch.float64)
    # The queries are unit rows already; scaled once more they would differ in a bit from those of the exact search.
    left, right = Rows(queries, "queries"), Rows(bank.vectors, bank.name, unit=True)
    scores[query, slot] = canonical_scores(left, right, query, torch.from_numpy(bank.rows)[row])
    values, indices = merge_in_any_order((scores, candidates), (scores[:, :0], candidates[:, :0]), k)
    short = torch.nonzero((indices < 0).any(dim=1))[:, 0]
    if len(short):
        log.info("%s met fewer than %d candidates and searched exactly", counted(len(short), "query", "queries"), k)
        values[short], indices[short] = exact_neighbours(queries[short], bank, k)
    return values, indices


def exact_neighbours(queries: Tensor, bank: SideRows, k: int) -> Ranked:
    """The k nearest of unit queries [n, D] in the whole bank, a part of it in memory at a time."""
    best: Ranked | None = None
    for span in slices(bank.count, INDEX_ROWS):
        rows = Rows(bank.unit(span), bank.name)
        values, indices = topk_float64(Rows(queries, "queries"), rows, min(k, rows.count))
        fresh = padded_to((values, indices + span.start), k)
        best = fresh if best is None else merge_topk([best, fresh], k)
    assert best is not None, "a side has at least one row"
    return best
