"""Mewsli-X: mentions in news and encyclopedia text, and the entities that they may mean, by their descriptions.

The texts are those of XTREME-R's baseline (utils_mewslix.py): a mention is written in front of the one sentence that
it stands in and marked in it with braces; an entity is the sentences of its description.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.families.ranking.record import Candidate, Query
from stilts_ds.sources.files import id_field, int_field, list_field, read_json_lines, shorten, text_field
from stilts_ds.sources.source import Part

_BRACED = re.compile(r"\{(.*?)\}")
_MARKED = re.compile(r"\{ ?(.*?) ?\}")  # in a query's text; noise may have taken a space
ORIGINAL = "use the original file"


def read_pairs(split_file: Part) -> Iterator[Query]:
    """English mentions, each with the entity that it means: what trains and selects."""
    for where, row in read_json_lines(split_file.path):
        mention = _part(row, "contextual_mention", where)
        context = _part(mention, "context", where)
        entity = entity_of(_part(row, "entity", where), where)
        yield _query(context, _part(mention, "mention", where), (entity.id,), (entity,), where)


def read_mentions(split_file: Part) -> Iterator[Query]:
    """One language's mentions of a file that holds all languages; they search every entity of the candidate set.

    Raises UserError for a gold entity that is no candidate, a mention that its sentence does not hold, and an id that
    two mentions have: predictions go by ids.
    """
    [(_, pool)] = split_file.pool
    candidates, known = entities_of(pool)
    seen: set[str] = set()
    for where, row in read_json_lines(split_file.path):
        context = _part(row, "context", where)
        if text_field(context, "language", where) != split_file.language:
            continue
        mentions = list_field(row, "mentions", where) if "mentions" in row else [_part(row, "mention", where)]
        for mention in mentions:
            gold = text_field(mention, "entity_id", where).strip()
            if gold and gold not in known:
                raise UserError(f"{where}: the entity {shorten(gold)} is no candidate of {pool}; use the files of one "
                                "release")  # fmt: skip
            query = _query(context, mention, (gold,) if gold else (), candidates, where)
            if query.id in seen:
                raise UserError(f"{where}: example id {shorten(query.id)} occurs twice; make ids unique")
            seen.add(query.id)
            yield query


def entities_of(path: Path) -> tuple[tuple[Candidate, ...], frozenset[str]]:
    """The candidate set and its ids. Every language asks for it, so the last one is kept."""
    state = path.stat()
    return _read_entities(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=1)
def _read_entities(path: Path, changed: int, size: int) -> tuple[tuple[Candidate, ...], frozenset[str]]:
    candidates: dict[str, Candidate] = {}
    for where, row in read_json_lines(path):
        entity = entity_of(row, where)
        if entity.id in candidates:
            raise UserError(f"{where}: entity {shorten(entity.id)} occurs twice; make ids unique")
        candidates[entity.id] = entity
    return tuple(candidates.values()), frozenset(candidates)


def entity_of(row: Mapping[str, Any], where: str) -> Candidate:
    """An entity by its description's sentences. Raises UserError for one without a description."""
    id = text_field(row, "entity_id", where)
    description = text_field(row, "description", where)
    spans = _spans(row, "sentence_spans", description, where)
    text = plain(" ".join(description[start:end] for start, end in spans))
    if not text:
        raise UserError(f"{where}: entity {shorten(id)} has no description to be found by; leave it out, or {ORIGINAL}")
    return Candidate(id, text)


def mention_text(sentence: str, start: int, end: int, where: str) -> str:
    """`{mention}: {left} { {mention} } {right}` of the sentence that holds a mention at [start, end).

    Braces of the sentence's own become parentheses. Raises UserError for a brace without its partner, which would look
    like the end or the beginning of a mention.
    """
    parts = [sentence[:start], sentence[start:end], sentence[end:]]
    left, mention, right = (_BRACED.sub(r"(\1)", text_around) for text_around in parts)
    if any(brace in text_around for text_around in (left, mention, right) for brace in "{}"):
        problem = f"{where}: a brace in {shorten(sentence)} has no partner beside the mention"
        raise UserError(f"{problem}; braces mark mentions, so remove it")
    return plain(f"{mention}: {left} {{ {mention} }} {right}")


def mention_of(text: str) -> str | None:
    """The mention that a text of `mention_text`, or the sentence of one, marks; None where braces mark none."""
    marked = _MARKED.search(text)
    return None if marked is None else marked.group(1)


def plain(text: str) -> str:
    """Without newlines and double spaces, as the baseline collapses them: once, so that four spaces become two."""
    return " ".join(text.splitlines()).replace("  ", " ").strip()


def _query(context: Any, mention: Any, right: tuple[str, ...], pool: tuple[Candidate, ...], where: str) -> Query:
    id = id_field(mention, "example_id", where)
    text = text_field(context, "text", where)
    marked = _part(mention, "mention_span", where)
    start, end = _span(marked, text, where)
    given = text_field(marked, "text", where)
    if text[start:end] != given:
        problem = f"{where}: the mention {shorten(given)} is not at [{start}, {end}), which reads"
        raise UserError(f"{problem} {shorten(text[start:end])}; {ORIGINAL}")
    for first, last in _spans(context, "sentence_spans", text, where):
        if first <= start and end <= last:
            shown = mention_text(text[first:last], start - first, end - first, where)
            return Query(id, shown, right, text_field(context, "document_id", where), pool)
    raise UserError(f"{where}: no sentence holds the whole mention {shorten(given)}; {ORIGINAL}")


def _part(row: Any, key: str, where: str) -> Mapping[str, Any]:
    value = row.get(key) if isinstance(row, Mapping) else None
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: `{key}` must be a JSON object; check the file's schema")
    return value


def _spans(row: Any, key: str, text: str, where: str) -> list[tuple[int, int]]:
    """The [start, end) ranges of a text's sentences. Raises UserError where one begins in the one before."""
    spans = [_span(span, text, where) for span in list_field(row, key, where)]
    for (_, end), (start, last) in zip(spans, spans[1:]):
        if start < end:
            raise UserError(f"{where}: the sentence [{start}, {last}) begins before the one in front ends, at {end}; "
                            f"{ORIGINAL}")  # fmt: skip
    return spans


def _span(span: Any, text: str, where: str) -> tuple[int, int]:
    """A [start, end) range of `text`. Raises UserError where it is none."""
    start, end = int_field(span, "start", where), int_field(span, "end", where)
    if not 0 <= start < end <= len(text):
        raise UserError(f"{where}: [{start}, {end}) is no range of a text of {len(text)} characters; {ORIGINAL}")
    return start, end


READERS: dict[str, Callable[[Part], Iterator[Query]]] = {
    "mewslix_pairs": read_pairs,
    "mewslix_mentions": read_mentions,
}
