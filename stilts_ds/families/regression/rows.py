"""Texts to rows: `<s> A </s></s> B </s>`, or `<s> A </s>` for a text alone, as pairs are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.families.regression.record import Rated
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_texts
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode(
    records: Iterable[Rated],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """One row a record."""
    out = RowsWriter(folder, "label")
    for first, chunk in chunks(records):
        texts = tokenizer.slices([record.text for record in chunk])
        pairs = tokenizer.slices([record.text_pair for record in chunk if record.text_pair is not None])
        laid, second = lay_out_texts(
            out, tokenizer.template, texts, pairs, setting.max_seq_length, setting.pair_truncation_side
        )
        example = np.arange(first, first + len(chunk))
        out.append(laid.ids, laid.lengths, second, example, label=_bits([record.score for record in chunk]))
    return out.rows()


def _bits(scores: Sequence[float | None]) -> np.ndarray:
    """Numbers as the int32 that rows keep for an item: the bits of their float32 (NaN where there is none), [R]."""
    # Rows and batches carry whole numbers for every family; the head turns these back without losing a digit.
    values = [np.nan if score is None else score for score in scores]
    return np.asarray(values, np.float32).view(np.int32)


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """Dense layer and projection to one number, with biases."""
    return hidden * hidden + hidden + hidden + 1
