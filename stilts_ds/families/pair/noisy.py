"""Pairs with noise in both texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stilts_ds.families.base import Writer
from stilts_ds.families.files import write_lines
from stilts_ds.families.pair.attempts import Attempt
from stilts_ds.families.pair.record import Pair
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.sources.files import quote_cell
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Pair], noise: TextNoise, task: Task) -> list[Pair]:
    """Both texts get noise, but for programs. A premise that several pairs stand on stays one text for all of them."""
    noisy_records = []
    for record in records:
        first = noise.text(record.text_a, _first_key(record, task), "text_a").text
        second = record.text_b
        # A program with another letter is another program.
        if second is not None and not isinstance(record, Attempt):
            second = noise.text(second, record.id, "text_b").text
        noisy_records.append(dataclasses.replace(record, text_a=first, text_b=second))
    return noisy_records


def _first_key(record: Pair, task: Task) -> str:
    # The noise is drawn from the key: a shared premise is its own, so that all its pairs get the same edits.
    return record.text_a if task.shared_text == "text_a" else record.id


def write_pairs(split_file: Part, records: Sequence[Pair]) -> None:
    """`text TAB text TAB label`; where labels stand in a file of their own, that file is copied."""
    lines = []
    for record in records:
        # Files in this schema have two texts.
        cells = [quote_cell(text, record.id) for text in (record.text_a, record.text_b) if text is not None]
        # A third column here would be a second, unchecked source of labels beside the labels file.
        if split_file.labels is None and record.label is not None:
            cells.append(record.label)
        lines.append("\t".join(cells))
    write_lines(split_file.path, lines)


WRITERS: dict[str, Writer] = {"pair_tsv": write_pairs}
