"""Sentences to rows, one each: a sentence vector needs one row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.families.bitext.record import Sentence
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_singles
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_bitext(
    records: Iterable[Sentence],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """The end of a sentence longer than a row is cut and counted."""
    return encode_texts((record.text for record in records), tokenizer, setting.max_seq_length, folder)


def encode_texts(texts_of_side: Iterable[str], tokenizer: Tokenizer, length: int, folder: Path | None = None) -> Rows:
    """A row of at most `length` tokens for each text."""
    out = RowsWriter(folder)
    room = length - tokenizer.template.single_cost  # tokens of the text beside the special ones
    for first, chunk in chunks(texts_of_side):
        texts = tokenizer.slices(chunk)
        out.tally["sentences cut to max_seq_length"] += int(np.count_nonzero(texts.length > room))
        laid = lay_out_singles(tokenizer.template, texts.up_to(room))
        out.append(laid.ids, laid.lengths, laid.lengths, np.arange(first, first + len(chunk)))
    return out.rows()
