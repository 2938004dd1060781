"""`stilts tasks TASK --show N --model MODEL`: examples as the model reads them, decoded from the token rows."""

from __future__ import annotations

from collections.abc import Sequence

from stilts_ds.batches.encode import Encoder, encode
from stilts_ds.batches.rows import Rows
from stilts_ds.config import TrainingPart
from stilts_ds.examples.records import Record, Tagged
from stilts_ds.tasks.spec import Task


def show_rows(task: Task, record: Record, encoder: Encoder) -> str:
    """A line for each row (choice) or window of one record: its tokens, then what is to be learned from it."""
    labels = task.labels
    if isinstance(record, Tagged) and not labels:
        labels = tuple(sorted(set(record.tags or ())))
    rows = encode(task, [record], encoder, labels, TrainingPart(**task.training))
    return "\n".join(f"  reads     {_row(rows, row, encoder, labels)}" for row in range(len(rows.starts) - 1))


def _row(rows: Rows, row: int, encoder: Encoder, labels: Sequence[str]) -> str:
    first, last = int(rows.starts[row]), int(rows.starts[row + 1])
    tokens = encoder.tokenizer.convert_ids_to_tokens(rows.input_ids[first:last].tolist())
    if rows.token_label is not None:
        tagged = zip(tokens, rows.token_label[first:last].tolist())
        return " ".join(f"{token}/{labels[tag]}" if tag >= 0 else token for token, tag in tagged)
    text = " ".join(tokens)
    if rows.span is not None:
        start, end = rows.span[row].tolist()
        return f"{text}  => " + (" ".join(tokens[start : end + 1]) if (start, end) != (0, 0) else "no answer here")
    if rows.label is not None and len(rows.items) == len(rows.starts) and rows.label[row] >= 0:
        return f"{text}  => {labels[int(rows.label[row])]}"
    return text
