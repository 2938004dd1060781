"""Pairs to rows: `<s> A </s></s> B </s>`; the longer part of an over-long one is cut at `pair_truncation_side`. A text
that stands alone is `<s> A </s>`, cut there, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.pair.record import Pair
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_texts
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_pair(
    records: Iterable[Pair],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """One row a pair. `labels` is the label list of the head, in index order."""
    out = RowsWriter(folder, "label")
    index_of = {label: index for index, label in enumerate(labels)}
    for first, chunk in chunks(records):
        texts = tokenizer.slices([r.text_a for r in chunk])
        pairs = tokenizer.slices([r.text_b for r in chunk if r.text_b is not None])
        laid, second = lay_out_texts(
            out, tokenizer.template, texts, pairs, setting.max_seq_length, setting.pair_truncation_side
        )
        example = np.arange(first, first + len(chunk))
        out.append(laid.ids, laid.lengths, second, example, label=_label_indices(chunk, index_of))
    return out.rows()


def _label_indices(records: Sequence[Pair], index_of: dict[str, int]) -> np.ndarray:
    indices = []
    for record in records:
        # -1 stands for no label: what is only predicted needs none.
        index = -1 if record.label is None else index_of.get(record.label)
        if index is None:
            known = ", ".join(list(index_of)[:20])
            raise UserError(f"example {record.id}: unknown label {record.label!r}; known: {known}")
        indices.append(index)
    return np.asarray(indices, np.int32)


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """Dense layer and projection, with biases."""
    return hidden * hidden + hidden + hidden * labels + labels
