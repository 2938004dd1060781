"""Records to rows, and what an item has to learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_singles
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter

from .record import Labelled


def encode(
    records: Iterable[Labelled],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    out = RowsWriter(folder, "label")
    for first, chunk in chunks(records):
        texts = tokenizer.slices([record.text for record in chunk])
        room = setting.max_seq_length - tokenizer.template.single_cost
        laid = lay_out_singles(tokenizer.template, texts.up_to(room))
        label = np.array([labels.index(record.label) for record in chunk if record.label is not None], np.int32)
        out.append(laid.ids, laid.lengths, laid.lengths, np.arange(first, first + len(chunk)), label=label)
    return out.rows()


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    assert rows.label is not None
    return ItemTargets(np.asarray(starts), rows.label[item : item + 1])


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    return hidden * labels + labels
