"""Treebanks of Universal Dependencies, as CoNLL-U files and as rows of the hub, read as XTREME reads them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.tag.record import Tagged, sentences, tag_names
from stilts_ds.sources.files import check_label, shorten, text_field, texts_field
from stilts_ds.sources.hub import Converter, RowContext, row_by_row
from stilts_ds.sources.source import Part

CONLLU_COLUMNS = 10
ZERO_WIDTH_NON_JOINER = "\u200c"
WITHHELD = "sentences whose words are withheld"

# Which part of a multiword token gives the fused form its tag: the one with the fewest ancestors in the dependency
# graph and, of several such parts, the one whose tag comes first in these orders. XTREME's own files were made so (by
# the converter in coastalcph/ud-conversion-tools).
PRECEDENCE: Mapping[str, tuple[str, ...]] = {
    language: tuple(order.split())
    for language, order in {
        "es": "VERB AUX PRON ADP DET",
        "fr": "VERB AUX PRON NOUN ADJ ADV ADP DET PART SCONJ CONJ",
        "it": "VERB AUX ADV PRON ADP DET INTJ",
        "": "VERB NOUN PROPN PRON ADJ NUM ADV INTJ AUX ADP DET PART CCONJ SCONJ X PUNCT",
    }.items()
}


def read_conllu(split_file: Part) -> Iterator[Tagged]:
    """CoNLL-U with the conventions of XTREME's POS files.

    A multiword token is one word, its fused form; empty nodes (8.1) are left out; spaces and zero-width non-joiners
    inside words are removed; sentences whose words are withheld (`_`) are dropped.
    """
    for lines in sentences(split_file):
        rows = [_conllu_row(line, f"{split_file.path}:{number}") for number, line in lines if not line.startswith("#")]
        words, tags = _fuse(rows, split_file)
        if not words:
            continue
        if _are_withheld(words):
            split_file.tally[WITHHELD] += 1
            continue
        yield Tagged(f"{split_file.path.stem}:{lines[0][0]}", words, tags)


def _are_withheld(words: Sequence[str]) -> bool:
    """Whether a treebank's licence keeps the sentence's words back: they are `_`.

    One word may be left: XTREME's preparation keeps a sentence only where two are not withheld.
    """
    withheld = words.count("_")
    return withheld > 0 and withheld >= len(words) - 1


def _conllu_row(line: str, where: str) -> tuple[str, list[str]]:
    cells = line.split("\t")
    if len(cells) != CONLLU_COLUMNS:
        raise UserError(
            f"{where}: {counted(len(cells), 'column')}, CoNLL-U has {CONLLU_COLUMNS}; download the treebank again"
        )
    return where, cells


@dataclass(frozen=True)
class _Word:
    """One syntactic word of a sentence: its number, form, tag and heads, basic and enhanced (0 is the root)."""

    number: int
    form: str
    tag: str
    heads: tuple[int, ...]


def _fuse(rows: Sequence[tuple[str, list[str]]], split_file: Part) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words and tags, one for each multiword token and each word outside of them."""
    forms: dict[int, str] = {}  # by the number of the first word
    last_of: dict[int, int] = {}  # first word of a multiword token -> its last
    words: dict[int, _Word] = {}
    for where, cells in rows:
        if "." in cells[0]:
            continue  # an empty node, which stands in no text
        first, _, end = cells[0].partition("-")
        if not (first.isascii() and first.isdigit() and (not end or end.isascii() and end.isdigit())):
            raise UserError(f"{where}: {cells[0][:20]!r} is no CoNLL-U word number; download the treebank again")
        if end:
            forms[_number(first)] = _clean(cells[1], where)
            last_of[_number(first)] = _range_end(first, end, where)
        else:
            word = _word(cells, where, split_file)
            words[word.number] = word
    return _surface(forms, last_of, words, rows[-1][0] if rows else str(split_file.path), split_file.language)


def _word(cells: list[str], where: str, split_file: Part) -> _Word:
    tag = check_label(cells[3], split_file.task.labels, where)
    heads = [cells[6]] + [edge.split(":")[0] for edge in cells[8].split("|")]
    # A head may be unknown (`_`) or an empty node (8.1), which no surface word hangs on.
    known = (_number(head) for head in heads if head.isascii() and head.isdigit())
    return _Word(_number(cells[0]), _clean(cells[1], where), tag, tuple(known))


def _surface(
    forms: dict[int, str], last_of: dict[int, int], words: dict[int, _Word], where: str, language: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Words and tags as they stand in the text: a multiword token in place of its parts."""
    surface: list[str] = []
    tags: list[str] = []
    covered = 0  # the last word of the multiword tokens so far
    for number in sorted({*words, *last_of}):
        if number in last_of:
            covered = last_of[number]
            parts = [words[n] for n in range(number, covered + 1) if n in words]
            if not parts or parts[-1].number != covered:
                raise UserError(f"{where}: a multiword token lacks its last part; download the treebank again")
            surface.append(forms[number])
            tags.append(_fused_tag(parts, words, language))
        elif number > covered:
            surface.append(words[number].form)
            tags.append(words[number].tag)
    return tuple(surface), tuple(tags)


def _number(digits: str) -> int:
    return int(digits[:9])  # no sentence has a billion words, and int() refuses endless digits


def _range_end(first: str, end: str, where: str) -> int:
    if _number(end) < _number(first):
        raise UserError(f"{where}: the word range {first[:9]}-{end[:9]} runs backwards; download the treebank again")
    return _number(end)


def _clean(form: str, where: str) -> str:
    word = form.replace(ZERO_WIDTH_NON_JOINER, "").replace(" ", "")
    if not form:
        raise UserError(f"{where}: the word is missing; download the treebank again")
    return word


def _fused_tag(parts: Sequence[_Word], words: Mapping[int, _Word], language: str) -> str:
    """The tag of the part with the fewest ancestors; the language's order of tags breaks ties."""
    counts = [len(_ancestors(word, words)) for word in parts]
    highest = [word.tag for word, count in zip(parts, counts) if count == min(counts)]
    order = PRECEDENCE.get(language, PRECEDENCE[""])
    return next((tag for tag in order if tag in highest), highest[0])


def _ancestors(word: _Word, words: Mapping[int, _Word]) -> set[int]:
    """Every word (and the root, 0) from which `word` is reached over heads; enhanced edges may make circles."""
    reached: set[int] = set()
    waiting = [*word.heads]
    while waiting:
        head = waiting.pop()
        if head not in reached and head != word.number:
            reached.add(head)
            waiting += words[head].heads if head in words else ()
    return reached


READERS: dict[str, Callable[[Part], Iterator[Tagged]]] = {"conllu": read_conllu}
# 2: multiword tokens take the tag of the part with the fewest ancestors.
READER_VERSIONS = {"conllu": 2}


# --- hub rows ---------------------------------------------------------------------------------------------------------

NONE = "None"  # how a row writes what a line of CoNLL-U has not
ENHANCED_HEAD = re.compile(r"""\((?:'[^']*'|"[^"]*"), (\d+)\)""")  # [('nsubj', 3), ('conj', (8, '.', 1))]


def treebank_row(row: Mapping[str, Any], where: str, context: RowContext) -> Tagged | None:
    """A sentence of the hub's `universal_dependencies`; None where its words are withheld.

    A row has the lines of a sentence in CoNLL-U, without their numbers. Words count up from 1. A multiword token is a
    line without tag and head in front of its parts; how many they are follows from the sentence's text, in which it
    stands and they do not. Raises UserError where the text leaves that open.
    """
    tokens, heads, enhanced = (texts_field(row, column, where) for column in ("tokens", "head", "deps"))
    tags = tag_names(row, "upos", where, context)
    if not len(tokens) == len(tags) == len(heads) == len(enhanced):
        raise UserError(f"{where}: its columns have different lengths; check the data set's revision")

    words: dict[int, _Word] = {}
    forms: dict[int, str] = {}  # of multiword tokens, by the number of their first part
    lines: list[tuple[str, bool]] = []  # form, and whether it is a multiword token
    for form, tag, head, edges in zip(tokens, tags, heads, enhanced):
        if head == NONE and edges != NONE:
            continue  # an empty node
        is_multiword = (tag, head) == ("_", NONE)
        lines.append((form, is_multiword))
        if is_multiword:
            forms[len(words) + 1] = _clean(form, where)
            continue
        check_label(tag, context.task.labels, where)
        known_heads = [head] * head.isdecimal() + ENHANCED_HEAD.findall(edges)
        words[len(words) + 1] = _Word(len(words) + 1, _clean(form, where), tag, tuple(map(_number, known_heads)))

    counts = _part_counts(lines, text_field(row, "text", where), where)
    last_of = {first: first + count - 1 for first, count in zip(forms, counts)}
    surface, surface_tags = _surface(forms, last_of, words, where, context.language)
    if _are_withheld(surface):
        context.tally[WITHHELD] += 1
        return None
    return Tagged(where, surface, surface_tags)


def _part_counts(lines: Sequence[tuple[str, bool]], text: str, where: str) -> tuple[int, ...]:
    """How many parts each multiword token of a sentence has: those with which its lines spell its text."""
    spelled = [("".join(form.split()), is_multiword) for form, is_multiword in lines]
    letters = "".join(text.split())

    @functools.cache
    def ways(index: int, start: int) -> tuple[tuple[int, ...], ...]:
        """At most two ways to spell the letters from `start` on with the lines from `index` on."""
        while index < len(spelled):
            form, is_multiword = spelled[index]
            if not letters.startswith(form, start):
                return ()
            index, start = index + 1, start + len(form)
            if is_multiword:
                # Two are enough to know that the text leaves it open.
                spellings: list[tuple[int, ...]] = []
                for end in range(index + 1, len(spelled) + 1):
                    if spelled[end - 1][1] or len(spellings) > 1:
                        break
                    spellings += [(end - index, *following) for following in ways(end, start)]
                return tuple(spellings[:2])
        return ((),) if start == len(letters) else ()

    spellings = ways(0, 0)
    if len(spellings) != 1:
        why = "more than one way" if spellings else "no way"
        raise UserError(f"{where}: its words spell its text in {why}: {shorten(text)}; use the treebank's file")
    return spellings[0]


CONVERTERS: dict[str, Converter] = {"hub_treebank": row_by_row(treebank_row)}
