"""Queries and candidates to rows: a training item is a query's row and its right candidate's, a searched text one row.

`max_query_length` cuts queries and `max_seq_length` candidates, special tokens included (LAReQA: 96 and 256).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.families.ranking.record import Candidate, Query
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_singles
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_ranking(
    records: Iterable[Query] | Iterable[Candidate],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """Two rows a query with its right candidate, or one row a text where texts alone are given."""
    out = RowsWriter(folder)
    for first, chunk in chunks(records):
        if isinstance(chunk[0], Query):
            shown = [text for query in chunk for text in (query.text, right_candidate(query).text)]
            limits = np.tile([setting.max_query_length, setting.max_seq_length], len(chunk))
        else:
            shown = [candidate.text for candidate in chunk]
            limits = np.full(len(chunk), setting.max_seq_length)
        width = len(shown) // len(chunk)  # rows of an item: 2 where it learns, 1 where it is only read
        texts = tokenizer.slices(shown)
        room = limits - tokenizer.template.single_cost
        out.tally["texts cut to their length"] += int(np.count_nonzero(texts.length > room))
        cut = texts.part(0, np.minimum(texts.length, room))
        laid = lay_out_singles(tokenizer.template, cut)
        example = np.repeat(np.arange(first, first + len(chunk)), width)
        out.append(laid.ids, laid.lengths, laid.lengths, example, width)
    return out.rows()


def right_candidate(query: Query) -> Candidate:
    """The first of a query's right candidates."""
    return next(candidate for candidate in query.pool if candidate.id == query.right[0])


def rows_of_item(record: Query) -> int:
    """The query's and its candidate's."""
    return 2


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """The first token of each row stands for its text; which candidate is right, the pool says."""
    # A value that the loss does not look at: an item has as many losses as gold values.
    return ItemTargets(np.asarray(starts), np.zeros(1, np.int64))


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """Dense layer with bias, and the scale."""
    return hidden * hidden + hidden + 1
