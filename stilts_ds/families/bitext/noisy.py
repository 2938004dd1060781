"""Bitext with noise on the side that is not English; ids and gold pairs stay."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stilts_ds.families.base import Writer
from stilts_ds.families.bitext.record import Bitext, Sentence
from stilts_ds.families.files import write_lines
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Bitext], noise: TextNoise, task: Task) -> list[Bitext]:
    """The source side gets noise, the English side stays what everything is compared with."""
    return [dataclasses.replace(record, source=_noisy_side(record.source, noise)) for record in records]


def _noisy_side(side: Sequence[Sentence], noise: TextNoise) -> list[Sentence]:
    # Keyed by the sentence's id, since a sentence of a side is an example of its own.
    return [Sentence(sentence.id, noise.text(sentence.text, sentence.id, "source").text) for sentence in side]


def write_lines_of_sides(split_file: Part, records: Sequence[Bitext]) -> None:
    """A sentence a line, in a file for each side (Tatoeba)."""
    assert split_file.pivot is not None
    for record in records:
        write_lines(split_file.path, [sentence.text for sentence in record.source])
        write_lines(split_file.pivot, [sentence.text for sentence in record.pivot])


def write_bucc(split_file: Part, records: Sequence[Bitext]) -> None:
    """`id TAB text` on both sides; the file of gold pairs is copied."""
    assert split_file.pivot is not None
    for record in records:
        write_lines(split_file.path, [f"{sentence.id}\t{sentence.text}" for sentence in record.source])
        write_lines(split_file.pivot, [f"{sentence.id}\t{sentence.text}" for sentence in record.pivot])


WRITERS: dict[str, Writer] = {
    "aligned_lines": write_lines_of_sides,
    "unaligned_lines": write_lines_of_sides,
    "bucc": write_bucc,
}
