"""`stilts tasks TASK --show N --model MODEL`: examples as the model reads them, decoded from the token rows."""

from __future__ import annotations

from collections.abc import Sequence

from stilts_ds.config import TrainingPart
from stilts_ds.families.base import Record
from stilts_ds.families.registry import family_of
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.tasks.spec import Task


def show_rows(task: Task, record: Record, tokenizer: Tokenizer) -> str:
    """A line for each row (choice) or window of one record: its tokens, then what is to be learned from it."""
    family, labels = family_of(task), task.labels
    if not labels and family.labels_in is not None:
        # A task that lists no labels has those of its train split; to show one record, its own tags do.
        labels = tuple(sorted(set(family.labels_in(record))))
    rows = family.encode([record], tokenizer, labels, TrainingPart(**task.training), None)
    return "\n".join(f"  reads     {_row(rows, row, tokenizer, labels)}" for row in range(len(rows.starts) - 1))


def _tagged(token: str, tag: int, labels: Sequence[str]) -> str:
    # -1: a special token, or a piece of a word behind its first. No tag is learned from it.
    return f"{token}/{labels[tag]}" if tag >= 0 else token


def _row(rows: Rows, row: int, tokenizer: Tokenizer, labels: Sequence[str]) -> str:
    first, last = int(rows.starts[row]), int(rows.starts[row + 1])
    tokens = tokenizer.tokenizer.convert_ids_to_tokens(rows.input_ids[first:last].tolist())
    if rows.token_label is not None:
        tags = rows.token_label[first:last].tolist()
        return " ".join(_tagged(token, tag, labels) for token, tag in zip(tokens, tags))
    text = " ".join(tokens)
    if rows.span is not None:
        # A window that lacks the answer has the span (0, 0), its first token, as in SQuAD 2.0.
        start, end = rows.span[row].tolist()
        return f"{text}  => " + (" ".join(tokens[start : end + 1]) if (start, end) != (0, 0) else "no answer here")
    # One row an item. The label of an item of several rows (choice) counts rows, and is no name.
    if rows.label is not None and len(rows.items) == len(rows.starts) and rows.label[row] >= 0:
        return f"{text}  => {labels[int(rows.label[row])]}"
    return text
