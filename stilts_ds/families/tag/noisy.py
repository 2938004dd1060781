"""Tagged sentences with noise inside their words: as many words as before, and none empty."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from stilts_ds.errors import UserError
from stilts_ds.families.base import Writer
from stilts_ds.families.files import write_lines
from stilts_ds.families.tag.record import Tagged
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task

IN_ENTITY = ("B-", "I-")
EXCHANGES_WORDS = ("switch", "synonym")  # kinds of noise that put another word in a word's place


def noisy(records: Sequence[Tagged], noise: TextNoise, task: Task) -> list[Tagged]:
    """Edits stay inside a word. No other word takes the place of a named entity's."""
    return [
        dataclasses.replace(record, words=noise.tokens(record.words, record.id, _protected(record, noise, task)))
        for record in records
    ]


def _protected(record: Tagged, noise: TextNoise, task: Task) -> list[bool]:
    """Which words must stay what they are."""
    if noise.spec.kind not in EXCHANGES_WORDS:
        return [False] * len(record.words)
    # Parts of speech have no entities, so nothing of them is protected.
    marks_entities = any(label.startswith(IN_ENTITY) for label in task.labels)
    if record.tags is None:
        if marks_entities:
            raise UserError(f"{task.name}: example {record.id} has no tags, so its entities are not known; use labels")
        return [False] * len(record.words)
    return [tag.startswith(IN_ENTITY) for tag in record.tags]


def write_tags(split_file: Part, records: Sequence[Tagged]) -> None:
    """`word TAB tag`, or words alone, and a blank line after each sentence."""
    lines: list[str] = []
    for record in records:
        if record.tags is None:
            lines += record.words
        else:
            lines += [f"{word}\t{tag}" for word, tag in zip(record.words, record.tags)]
        lines.append("")
    write_lines(split_file.path, lines)


WRITERS: dict[str, Writer] = {"tag_tsv": write_tags}
