"""Records to token rows, a chunk of records at a time.

Input formats follow PAPER protocol: pairs as `<s> A </s></s> B </s>`, over-long pairs cut from the front of the longer
part; each (prompt, choice) on its own row; question-answering windows (windows.py) that share `doc_stride` tokens; the
first piece of a word carries its tag (words.py), and sentences longer than a row are cut between words, so that no
word is lost. Rows are put together with numpy for a whole chunk, so that the time goes into the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.batches.chunks import CHUNK, chunks
from stilts_ds.batches.rows import Rows
from stilts_ds.batches.slices import Laid, Slices, lay_out
from stilts_ds.batches.tokenizer import Encoder, Template
from stilts_ds.batches.windows import encode_span
from stilts_ds.batches.words import encode_tag
from stilts_ds.batches.writer import RowsWriter
from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.examples.records import Bitext, Choice, Pair, Text
from stilts_ds.tasks.spec import Task

__all__ = ["CHUNK", "ENCODE", "Encoder", "Template", "encode"]


def pair_cuts(a: np.ndarray, b: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens parts of lengths `a` and `b` [R] lose at their front until both fit in `room`.

    As if the longer one (the first on a tie) lost one token after the other.
    """
    extra, difference = np.maximum(a + b - room, 0), a - b
    only = np.minimum(extra, np.abs(difference))
    rest = extra - only
    return np.where(difference > 0, only, 0) + (rest + 1) // 2, np.where(difference < 0, only, 0) + rest // 2


def _lay_out_pairs(out: RowsWriter, template: Template, a: Slices, b: Slices, limit: int) -> Laid:
    """Rows of two segments; cut rows are counted."""
    cut_a, cut_b = pair_cuts(a.length, b.length, limit - template.pair_cost)
    cut = int(np.count_nonzero(cut_a + cut_b))
    if cut:
        out.tally["rows cut to max_seq_length"] += cut
        a, b = a.part(cut_a, a.length - cut_a), b.part(cut_b, b.length - cut_b)
    return lay_out([template.prefix, a, template.middle, b, template.suffix], len(a.length))


def _label_indices(records: Sequence[Pair], known: dict[str, int]) -> np.ndarray:
    try:
        found = [-1 if record.label is None else known[record.label] for record in records]
    except KeyError:
        wrong = next(record for record in records if record.label is not None and record.label not in known)
        some = ", ".join(list(known)[:20])
        raise UserError(f"example {wrong.id}: unknown label {wrong.label!r}; known: {some}") from None
    return np.asarray(found, np.int32)


def encode_pair(
    records: Iterable[Pair], encoder: Encoder, labels: Sequence[str], setting: TrainingPart, folder: Path | None = None
) -> Rows:
    out = RowsWriter(folder, "label")
    known = {label: index for index, label in enumerate(labels)}
    for index, chunk in chunks(records):
        a, b = encoder.slices([r.text_a for r in chunk]), encoder.slices([r.text_b for r in chunk])
        laid = _lay_out_pairs(out, encoder.template, a, b, setting.max_seq_length)
        example = np.arange(index, index + len(chunk))
        out.append(laid.ids, laid.lengths, laid.inside(3), example, label=_label_indices(chunk, known))
    return out.rows()


def encode_choice(
    records: Iterable[Choice], encoder: Encoder, labels: Sequence[str], setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """Rows of one question stand together; every question of a task must have the same number of choices."""
    out = RowsWriter(folder, "label")
    width = 0
    for index, chunk in chunks(records):
        width = width or len(chunk[0].choices)
        for record in chunk:
            if len(record.choices) != width:
                raise UserError(f"example {record.id} has {len(record.choices)} choices, the ones before it {width}")
        question = np.repeat(np.arange(len(chunk)), width)
        prompts = encoder.slices([r.prompt for r in chunk]).take(question)
        choices = encoder.slices([choice for r in chunk for choice in r.choices])
        laid = _lay_out_pairs(out, encoder.template, prompts, choices, setting.max_seq_length)
        label = np.asarray([-1 if r.label is None else r.label for r in chunk], np.int32)
        out.append(laid.ids, laid.lengths, laid.inside(3), index + question, width, label=label)
    return out.rows()


def encode_text(
    records: Iterable[Text], encoder: Encoder, labels: Sequence[str], setting: TrainingPart, folder: Path | None = None
) -> Rows:
    """Plain texts. A text longer than a row becomes several rows, so that nothing is dropped (bitext: see below).

    `labels` are languages: a row's label is its language, by which the mixture draws.
    """
    out = RowsWriter(folder, "label")
    room = setting.max_seq_length - encoder.template.single_cost
    known = {label: index for index, label in enumerate(labels)}
    for index, chunk in chunks(records):
        texts = encoder.slices([r.text for r in chunk])
        rows = np.maximum(-(-texts.length // room), 1)
        text = np.repeat(np.arange(len(chunk)), rows)
        begin = room * (np.arange(len(text)) - np.repeat(np.cumsum(rows) - rows, rows))
        parts = texts.take(text).part(begin, np.minimum(texts.length[text] - begin, room))
        label = np.asarray([known[r.language] if known else 0 for r in chunk], np.int32)
        laid = _lay_out_singles(encoder.template, parts)
        out.append(laid.ids, laid.lengths, laid.lengths, index + text, label=label[text])
    return out.rows()


def encode_bitext(
    records: Iterable[Bitext], encoder: Encoder, labels: Sequence[str], setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """One row a sentence: a sentence vector needs one row, so the end of a longer sentence is cut and counted."""
    out = RowsWriter(folder)
    room = setting.max_seq_length - encoder.template.single_cost
    for index, chunk in chunks(records):
        texts = encoder.slices([r.text for r in chunk])
        out.tally["sentences cut to max_seq_length"] += int(np.count_nonzero(texts.length > room))
        laid = _lay_out_singles(encoder.template, texts.up_to(room))
        out.append(laid.ids, laid.lengths, laid.lengths, np.arange(index, index + len(chunk)))
    return out.rows()


def _lay_out_singles(template: Template, parts: Slices) -> Laid:
    """Rows of one segment."""
    return lay_out([template.prefix, parts, template.single_suffix], len(parts.length))


ENCODE: dict[str, Callable[..., Rows]] = {
    "pair": encode_pair,
    "choice": encode_choice,
    "span": encode_span,
    "tag": encode_tag,
    "text": encode_text,
    "bitext": encode_bitext,
}


def encode(
    task: Task,
    records: Iterable[Any],
    encoder: Encoder,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """Encode records of `task`. `labels` is the label list of its head; settings used: lengths and stride.

    With `folder`, the arrays grow in files there and come back mapped; memory then does not depend on the data's size.
    """
    return ENCODE[task.family](records, encoder, labels, setting, folder)
