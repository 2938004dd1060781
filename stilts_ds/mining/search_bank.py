"""Nearest neighbours from files to a file: the k best rows of a bank for every query, exact."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.common.collectives import collectives_of
from stilts_kernels.common.ranking import TopK
from stilts_kernels.common.rows import METRICS, is_cosine
from stilts_kernels.mining.files import FilePart, topk_files

from stilts_ds.errors import UserError, counted, did_you_mean, is_full_disk
from stilts_ds.mining.job import MiningWork, on_first, progress_log, refuse_existing, stop_together
from stilts_ds.mining.models import Encoder
from stilts_ds.mining.pairs_file import TAB_FAULT, check_name, write_table
from stilts_ds.mining.sides import Side, check_widths, describe, files_of, find_sides, with_vectors
from stilts_ds.mining.texts import Texts

CPU = torch.device("cpu")
PART_ROWS = 1 << 20  # of the bank: what is searched, kept and, after a stop, not searched again


def search(
    queries: str | Path | Texts,
    bank: str | Path | Texts,
    output: str | Path,
    *,
    k: int = 16,
    metric: str = "cosine",
    model: str | Path | Encoder | None = None,
    memory: int = 1 << 30,
    comm: Any = None,
    device: torch.device = CPU,
) -> int:
    """Write the `k` nearest rows of `bank` for every row of `queries`, by `metric` "cosine" or "inner", to `output`:
    .tsv, .jsonl or .parquet with the columns score, query, rank (from 1), neighbour and, of texts, query_text,
    neighbour_text. Equal scores stand in the order of the bank.

    Sides are text files or vectors (.npy), as for `mine`. On many ranks a collective over `comm`: every rank reads all
    queries and its share of the bank. `memory`: scratch bytes of a rank. Returns how many lines were written. Raises
    UserError as `mine` does.
    """
    ranks, path = collectives_of(comm), Path(output)
    encoder = Encoder(model) if isinstance(model, (str, Path)) else model

    def check() -> None:
        if metric not in METRICS:
            raise UserError(f"unknown metric {metric!r}{did_you_mean(metric, METRICS)}")
        if k < 1:
            raise UserError(f"k {k}: give 1 neighbour or more")
        check_name(path)
        refuse_existing(path)

    on_first(ranks, check)
    with MiningWork(ranks, path) as job:
        fault = TAB_FAULT if path.suffix == ".tsv" else ""
        sides = find_sides(ranks, (queries, bank), encoder, fault)
        check_widths(*sides)  # before texts are embedded
        check_count(sides[1], k)
        named = {"queries": sides[0], "bank": sides[1]}
        job.begin({**describe(**named), "k": k, "metric": metric}, files_of(**named))
        left, right = (
            with_vectors(ranks, side, job.work / f"{name}.npy", device, is_cosine(metric))
            for name, side in zip(("queries", "bank"), sides)
        )
        check_widths(left, right)
        progress = progress_log(ranks, "searching", "parts")
        try:
            nearest = topk_files(
                left.open(), parts_of(right, ranks.size), k, job.work / "parts", ranks, metric, memory, progress
            )
        except ValueError as error:
            # The search tells a failure of one rank to all of them, in words; a full disk is no mistake of the user's.
            if is_full_disk(error):
                raise OSError(errno.ENOSPC, str(error)) from error
            raise UserError(f"cannot search: {error}") from error
        # In the work folder, so that a table that was cut short never has the output's name.
        draft = job.work / f"neighbours{path.suffix}"
        count = on_first(ranks, partial(_write, draft, path.suffix, left, right, nearest))
        # Asked before the output gets its name: a stop leaves the parts, and the same call goes on from them.
        stop_together(ranks)
        job.publish(draft)
    return count


def check_count(bank: Side, k: int) -> None:
    """Raise UserError where a bank has fewer than `k` rows."""
    count = bank.texts.lines if bank.texts is not None else len(bank.open())
    if k > count:
        raise UserError(f"k {k}: {bank.path} has {counted(count, 'row')}; give 1 to {count:,} neighbours")


def parts_of(bank: Side, ranks: int) -> list[FilePart]:
    """The bank's file in parts that are searched one by one, at least one for each rank where there are rows enough."""
    assert bank.vectors is not None
    count = len(bank.open())
    # Smaller parts where the bank has few rows, so that no rank is idle.
    rows = max(1, min(PART_ROWS, -(-count // ranks)))
    return [FilePart(bank.vectors, start, min(count, start + rows)) for start in range(0, count, rows)]


def _write(draft: Path, suffix: str, queries: Side, bank: Side, nearest: TopK) -> int:
    columns = ["score", "query", "rank", "neighbour"]
    texts = [None if side.texts is None else list(side.texts.all_texts()) for side in (queries, bank)]
    columns += [name for name, side in zip(("query_text", "neighbour_text"), texts) if side is not None]
    return write_table(draft, suffix, columns, _rows(nearest, queries.ids, bank.ids, texts))


def _rows(
    nearest: TopK, query_ids: Sequence[str], bank_ids: Sequence[str], texts: Sequence[list[str] | None]
) -> Iterator[list[Any]]:
    for query, (values, indices) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist())):
        for rank, (score, row) in enumerate(zip(values, indices), start=1):
            cells: list[Any] = [score, query_ids[query], rank, bank_ids[row]]
            cells += [side[number] for side, number in zip(texts, (query, row)) if side is not None]
            yield cells
