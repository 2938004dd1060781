"""Tagged sentences, and `word TAB tag` files of them (PAN-X, POS, CCG). Treebanks are read by treebank.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.columns import Columns, TableRow
from stilts_ds.sources.files import check_label, check_text, list_field, read_lines, shorten, texts_field
from stilts_ds.sources.hub import Converter, RowContext, row_by_row
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import cell

Lines = list[tuple[int, str]]


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
    prefixes = (LANGUAGE_PREFIX.match(word) for word in words)
    codes = {prefix and prefix[1] for prefix in prefixes}  # None among them: a word without a prefix
    if codes == {language}:
        return True
    if len(words) > 1 and len(codes) == 1 and codes != {None}:
        raise UserError(
            f"{where}: words begin with {codes.pop()!r} and a colon in a file for {language!r}; "
            "give this language's file, or take the prefix off"
        )
    return False


READERS: dict[str, Callable[[Part], Iterator[Tagged]]] = {"tag_tsv": read_tag_tsv}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def tags(row: Mapping[str, Any], where: str, context: RowContext) -> Tagged:
    column = "ner_tags" if "ner_tags" in row else "pos_tags"
    words, tagged = texts_field(row, "tokens", where), tag_names(row, column, where, context)
    if not words or len(words) != len(tagged):
        raise UserError(
            f"{where}: {counted(len(words), 'token')} but {counted(len(tagged), 'tag')}; check the data set's revision"
        )
    return Tagged(where, tuple(words), tuple(check_label(tag, context.task.labels, where) for tag in tagged))


def tag_names(row: Mapping[str, Any], column: str, where: str, context: RowContext) -> list[str]:
    """The tags of a column by name."""
    # Class labels are numbers whose names stand in the data set's features; other data sets have the tags as texts.
    names = getattr(getattr(context.features[column], "feature", None), "names", None)
    if not names:
        return texts_field(row, column, where)
    return [_tag(value, names, where) for value in list_field(row, column, where)]


def _tag(value: Any, names: list[str], where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
        problem = f"{where}: tag {shorten(value)} is none of 0 to {len(names) - 1}"
        raise UserError(f"{problem}; check the data set's revision")
    return names[value]


# --- tables -----------------------------------------------------------------------------------------------------------


def table_tagged(row: TableRow) -> Tagged:
    """Words and their tags: lists, or texts with spaces between them where the table has no lists (csv, tsv)."""
    words = _list_cell(row, "words")
    if not words:
        raise UserError(f"{row.where}: column {row.columns['words']!r} holds no word; remove the row")
    if not row.labelled:
        return Tagged(row.id, tuple(words), None)
    tags = _list_cell(row, "tags")
    if len(tags) != len(words):
        raise UserError(
            f"{row.where}: {counted(len(words), 'word')} and {counted(len(tags), 'tag')}; give each word one"
        )
    known = row.task.labels
    return Tagged(row.id, tuple(words), tuple(check_label(tag, known, row.where) for tag in tags))


def _list_cell(row: TableRow, role: str) -> list[str]:
    column = row.columns[role]
    value = cell(row.values, column, row.where)
    values = value.split() if isinstance(value, str) else value
    # A word with a space inside would be two words in every file of predictions.
    whole = isinstance(values, list) and all(isinstance(word, str) and word and not word.isspace() for word in values)
    if not whole:
        raise UserError(f"{row.where}: column {column!r} must hold a list of texts, or a text with spaces between them")
    return [check_text(word, f"{row.where}: column {column!r}") for word in values]


COLUMNS = Columns(("words",), "tags", ("f1", "precision", "recall"), table_tagged)
CONVERTERS: dict[str, Converter] = {"hub_tags": row_by_row(tags)}
