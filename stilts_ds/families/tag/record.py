"""Tagged sentences: `word TAB tag` files (PAN-X, POS, CCG) and CoNLL-U treebanks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.sources.files import check_label, list_field, read_lines, shorten, texts_field
from stilts_ds.sources.hub import Converter, RowContext, row_by_row
from stilts_ds.sources.source import Part

Lines = list[tuple[int, str]]
CONLLU_COLUMNS = 10
ZERO_WIDTH_NON_JOINER = "\u200c"


@dataclass(frozen=True, slots=True)
class Tagged:
    """A sentence as words, and one tag for each word (None without labels)."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...] | None


def texts(record: Tagged) -> tuple[str, ...]:
    return (" ".join(record.words),)


def attributes(records: Sequence[Tagged]) -> dict[str, list[float]]:
    """A sentence's words and, where tags name entities, the words that stand in one, in a hundred."""
    values = {"words": [float(len(record.words)) for record in records]}
    inside = [sum(tag.startswith(("B-", "I-")) for tag in record.tags or ()) for record in records]
    # Parts of speech have no entities: a column of zeros would be a bucket of its own in the report.
    if any(inside):
        shares = (100 * count / len(record.words) for count, record in zip(inside, records))
        values["words in entities, in 100"] = [round(share, 3) for share in shares]
    return values


def is_labelled(record: Tagged) -> bool:
    return record.tags is not None


def gold(record: Tagged) -> tuple[str, ...] | None:
    return record.tags


def fields(record: Tagged, most: int) -> list[tuple[str, str]]:
    tagged = zip(record.words, record.tags) if record.tags is not None else ((word,) for word in record.words)
    return [("words", " ".join("/".join(pair) for pair in tagged))]


def tags_in(record: Tagged) -> tuple[str, ...]:
    return record.tags or ()


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


def sentences(split_file: Part) -> Iterator[Lines]:
    """Yield the non-blank lines of each sentence, with their numbers; blank lines stand between sentences."""
    lines: Lines = []
    for number, line in read_lines(split_file.path):
        if line.strip():
            lines.append((number, line))
        elif lines:
            yield lines
            lines = []
    if lines:
        yield lines


def read_tag_tsv(split_file: Part) -> Iterator[Tagged]:
    """`word TAB tag`, or only words (XTREME's test files); one file has either one column or two throughout.

    Words may begin with their language (`de:Haus`, as in PAN-X's archives): XTREME takes that off. Lines that begin a
    document (`-DOCSTART-`) are no words. Columns that are separated by spaces are refused.
    """
    columns, prefixed = 0, None
    for lines in sentences(split_file):
        rows = [(number, [cell.strip(" ") for cell in line.split("\t")]) for number, line in lines]
        words_of_text = [(number, cells) for number, cells in rows if cells[0].split(" ")[0] != DOCUMENT]
        if len(words_of_text) < len(rows):
            split_file.tally[f"lines of {DOCUMENT}"] += len(rows) - len(words_of_text)
        if not words_of_text:
            continue
        columns = columns or len(words_of_text[0][1])  # the first sentence says how many the file has
        for number, cells in words_of_text:
            _check_columns(cells, columns, f"{split_file.path}:{number}")
        first, where = words_of_text[0][0], f"{split_file.path}:{words_of_text[0][0]}"
        words = [cells[0] for _, cells in words_of_text]
        has_prefix = _has_prefix(words, split_file.language, where)
        if prefixed is None:
            prefixed = has_prefix
        elif prefixed != has_prefix and (prefixed or len(words) > 1):
            # A lone word such as `de:` may stand in a file without prefixes.
            raise UserError(
                f"{where}: words of this sentence {'begin' if has_prefix else 'do not begin'} with "
                f"{split_file.language!r} and a colon, unlike those before; make all words of the file alike"
            )
        if prefixed:
            words = [word.partition(":")[2] for word in words]
        tags = None
        if columns == 2:
            tags = tuple(
                check_label(cells[1], split_file.task.labels, f"{split_file.path}:{number}")
                for number, cells in words_of_text
            )
        yield Tagged(f"{split_file.path.stem}:{first}", tuple(words), tags)


DOCUMENT = "-DOCSTART-"  # CoNLL's line before each document
LANGUAGE_PREFIX = re.compile(r"([a-z]{2,3}(?:-[a-z]+)*):")


def _check_columns(cells: list[str], columns: int, where: str) -> None:
    if columns > 2:
        raise UserError(
            f"{where}: {counted(columns, 'column')}, expected word TAB tag; keep these two (`cut -f` and their numbers)"
        )
    if len(cells) != columns or not cells[-1]:
        wanted = "a word" if columns == 1 else "word TAB tag"
        raise UserError(
            f"{where}: {counted(len(cells), 'column')}, expected {wanted} as on the first line; repair the line"
        )
    if columns == 1 and " " in cells[0]:
        # Taken for a word, it would hold its own gold tag.
        raise UserError(
            f"{where}: white space inside the only column ({shorten(cells[0])}); "
            "separate word and tag by one tab, and remove spaces inside words"
        )


def _has_prefix(words: Sequence[str], language: str, where: str) -> bool:
    """Whether all words of a sentence begin with the file's language. Raises UserError if it is another language."""
    matches = [LANGUAGE_PREFIX.match(word) for word in words]
    codes = {match[1] if match else "" for match in matches}
    if codes == {language}:
        return True
    if len(words) > 1 and len(codes) == 1 and codes != {""}:
        raise UserError(
            f"{where}: words begin with {codes.pop()!r} and a colon in a file for {language!r}; "
            "give this language's file, or take the prefix off"
        )
    return False


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
        # One word may be left: XTREME's preparation keeps a sentence only where two are not withheld.
        withheld = words.count("_")
        if withheld and withheld >= len(words) - 1:
            split_file.tally["sentences whose words are withheld"] += 1
            continue
        yield Tagged(f"{split_file.path.stem}:{lines[0][0]}", words, tags)


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


READERS: dict[str, Callable[[Part], Iterator[Tagged]]] = {"tag_tsv": read_tag_tsv, "conllu": read_conllu}
# 2: multiword tokens take the tag of the part with the fewest ancestors.
READER_VERSIONS = {"conllu": 2}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def tags(row: Mapping[str, Any], where: str, context: RowContext) -> Tagged:
    column = "ner_tags" if "ner_tags" in row else "pos_tags"
    words, values = texts_field(row, "tokens", where), list_field(row, column, where)
    # Class labels are numbers whose names stand in the data set's features; other data sets have the tags as texts.
    names = getattr(getattr(context.features[column], "feature", None), "names", None)
    tagged = [_tag(value, names, where) for value in values] if names else texts_field(row, column, where)
    if not words or len(words) != len(tagged):
        raise UserError(
            f"{where}: {counted(len(words), 'token')} but {counted(len(tagged), 'tag')}; check the data set's revision"
        )
    return Tagged(where, tuple(words), tuple(check_label(tag, context.task.labels, where) for tag in tagged))


def _tag(value: Any, names: list[str], where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
        problem = f"{where}: tag {shorten(value)} is none of 0 to {len(names) - 1}"
        raise UserError(f"{problem}; check the data set's revision")
    return names[value]


CONVERTERS: dict[str, Converter] = {"hub_tags": row_by_row(tags)}
