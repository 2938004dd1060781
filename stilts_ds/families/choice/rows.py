"""Multiple choice to rows: each (prompt, candidate) on a row of its own, a question's rows together (paper, Inputs).

A row that is too long loses tokens at the front of its longer part (paper, Inputs), so the prompt's end stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError, counted
from stilts_ds.families.choice.record import Choice
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_pairs
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_choice(
    records: Iterable[Choice],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """Rows of one question stand together; every question of a task must have the same number of choices."""
    out = RowsWriter(folder, "label")
    width = 0
    for first, chunk in chunks(records):
        width = width or len(chunk[0].choices)
        # Logits are reshaped to [questions, width], which has no place for a question of another width.
        for record in chunk:
            if len(record.choices) != width:
                count = counted(len(record.choices), "choice")
                raise UserError(f"example {record.id} has {count}, the ones before it {width}")
        # A prompt is tokenised once and its pieces are taken for each of its candidates.
        question = np.repeat(np.arange(len(chunk)), width)
        prompts = tokenizer.slices([r.prompt for r in chunk]).take(question)
        choices = tokenizer.slices([choice for r in chunk for choice in r.choices])
        laid = lay_out_pairs(out, tokenizer.template, prompts, choices, setting.max_seq_length, "left")
        label = np.asarray([_label_index(record) for record in chunk], np.int32)
        out.append(laid.ids, laid.lengths, laid.inside(3), first + question, width, label=label)
    return out.rows()


def _label_index(record: Choice) -> int:
    return -1 if record.label is None else record.label


def rows_of_item(record: Choice) -> int:
    return len(record.choices)


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """Dense layer and a projection to one score, with biases."""
    return hidden * hidden + hidden + hidden + 1
