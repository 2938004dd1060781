"""Reader of running text for masked language modelling: one passage a line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from stilts_ds.examples.files import read_lines
from stilts_ds.examples.records import Text
from stilts_ds.examples.source import Part

HELD_OUT = 50


def read_text_lines(part: Part) -> Iterator[Text]:
    """The lines of a file. Every 50th line is the dev split and the others are the train split; blank ones drop."""
    for number, line in read_lines(part.path):
        if (number % HELD_OUT == 0) != (part.split == "dev"):
            continue
        if line.strip():
            yield Text(f"{part.path.stem}:{number}", line)
        else:
            part.tally["blank lines"] += 1


READERS: dict[str, Callable[[Part], Iterator[Text]]] = {"lines": read_text_lines}
