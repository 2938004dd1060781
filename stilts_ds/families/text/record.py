"""Running text for masked language modelling: files of one passage a line, or a column of a hub data set.

Every 50th passage of a language is its dev split and the others are its train split; blank ones drop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stilts_ds.config import TextHubPart
from stilts_ds.sources.files import read_lines, text_field
from stilts_ds.sources.hub import Converter, RowContext, load_text
from stilts_ds.sources.source import Part
from stilts_ds.tasks.languages import XTREME

HELD_OUT = 50  # by line number, so that the dev split stays the same as files are added
Passages = Iterable[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Text:
    """A passage of running text (masked language modelling); `language` is a code."""

    id: str
    text: str
    language: str = ""


def is_labelled(record: Text) -> bool:
    """Running text needs no labels: its own tokens are what is learnt."""
    return True


def gold(record: Text) -> None:
    return None


def fields(record: Text, most: int) -> list[tuple[str, str]]:
    return [("text", record.text)]


def read_text_lines(split_file: Part) -> Iterator[Text]:
    """The passages of one file, its lines."""
    return _passages(
        islice(read_lines(split_file.path), split_file.limit),
        split_file.path.stem,
        split_file.language,
        split_file.split,
        split_file.tally,
    )


def hub_streams(corpus: TextHubPart, limit: int | None, split: str, tally: Counter[str]) -> list[Iterator[Text]]:
    """A stream of passages for each language of a hub data set, at most `limit` of each."""
    return [_hub_stream(corpus, code, limit, split, tally) for code in hub_languages(corpus)]


def hub_languages(corpus: TextHubPart) -> tuple[str, ...]:
    return tuple(corpus.languages or XTREME)


def _hub_stream(corpus: TextHubPart, code: str, limit: int | None, split: str, tally: Counter[str]) -> Iterator[Text]:
    # A whole corpus is downloaded once and kept; of one that is only begun, no more is fetched than is read.
    rows = enumerate(islice(load_text(corpus, code, streaming=limit is not None), limit), start=1)
    named = ((number, text_field(row, corpus.column, f"{corpus.repo} {code} row {number}")) for number, row in rows)
    yield from _passages(named, f"{corpus.repo} {code}", code, split, tally)


def _passages(passages: Passages, name: str, language: str, split: str, tally: Counter[str]) -> Iterator[Text]:
    for number, passage in passages:
        # Before the blank ones drop: whether a line is dev depends on its number alone.
        if (number % HELD_OUT == 0) != (split == "dev"):
            continue
        if passage.strip():
            yield Text(f"{name}:{number}", passage, language)
        else:
            tally["blank passages"] += 1


READERS: dict[str, Callable[[Part], Iterator[Text]]] = {"lines": read_text_lines}

# CodeXGLUE's translations of methods, a language a column.
METHOD_COLUMNS = {"java": "java", "csharp": "cs"}


def methods(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> Iterator[Text]:
    """The methods of one programming language, divided as a file's lines are."""
    column = METHOD_COLUMNS[context.language]
    named = ((index + 1, text_field(row, column, f"{name}[{index}]")) for index, row in enumerate(rows))
    return _passages(named, f"{name} {column}", context.language, context.split, context.tally)


CONVERTERS: dict[str, Converter] = {"hub_methods": methods}
