"""The typed record, and the reader of the task's files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stilts_ds.sources.files import check_label, read_lines
from stilts_ds.sources.source import Part


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text and its label."""

    id: str
    text: str
    label: str | None


def is_labelled(record: Labelled) -> bool:
    return record.label is not None


def gold(record: Labelled) -> str | None:
    return record.label


def fields(record: Labelled, most: int) -> list[tuple[str, str]]:
    return [("text", record.text), ("label", record.label or "none")]


def read_label_tsv(part: Part) -> Iterator[Labelled]:
    """`label TAB text`."""
    for number, line in read_lines(part.path):
        label, _, text = line.partition("\t")
        yield Labelled(str(number), text, check_label(label, part.task.labels, f"{part.path}:{number}"))
