"""Sentence pairs: MultiNLI and SNLI, ANLI, Quora question pairs, and XTREME's XNLI and PAWS-X files. Tables of other
tasks may hold one text in place of two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.columns import Columns, TableRow
from stilts_ds.sources.files import (
    check_label,
    filled_lines,
    id_field,
    read_json_lines,
    read_lines,
    text_field,
    unquote,
)
from stilts_ds.sources.hub import Converter, RowContext, row_by_row, row_id, row_label
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import label_cell, text_cell
from stilts_ds.tasks.spec import TABLE

NO_LABEL = "rows without a gold label (-)"
ANLI_LABELS = {"c": "contradiction", "e": "entailment", "n": "neutral"}
QQP_HEADER = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
# What the first line of a table with a header holds, whichever data set it is from.
HEADER_NAMES = {"sentence1", "sentence2", "premise", "hypothesis", "question1", "question2", "text_a", "text_b"}
# By the hub's class index, which is not the order of the head (NLI_LABELS of stilts_ds.tasks.intermediate).
HUB_NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts and the relation between them (NLI, paraphrase), or one text and its class (`text_b` is None).

    `label` is None in test files without labels.
    """

    id: str
    text_a: str
    text_b: str | None
    label: str | None


def texts(record: Pair) -> tuple[str, ...]:
    return (record.text_a,) if record.text_b is None else (record.text_a, record.text_b)


def attributes(records: Sequence[Pair]) -> dict[str, list[float]]:
    if any(record.text_b is None for record in records):
        return {"characters of the text": [float(len(record.text_a)) for record in records]}
    return {
        "characters of the first text": [float(len(record.text_a)) for record in records],
        "characters of the second text": [float(len(record.text_b or "")) for record in records],
    }


def is_labelled(record: Pair) -> bool:
    return record.label is not None


def fields(record: Pair, most: int) -> list[tuple[str, str]]:
    shown = [("text a", record.text_a), ("text b", record.text_b)]
    if record.text_b is None:
        shown = [("text", record.text_a)]
    return [*[(key, text) for key, text in shown if text is not None], ("label", record.label or "none")]


def cross(first: Pair, second: Pair) -> Pair | None:
    """The first text of one and the second of the other; None where the two have different labels."""
    # Labels are all that can be compared between languages; a test file without them is taken on trust.
    if None not in (first.label, second.label) and first.label != second.label:
        return None
    label = second.label if first.label is None else first.label
    return Pair(first.id, first.text_a, second.text_b, label)


def read_nli(split_file: Part) -> Iterator[Pair]:
    """MultiNLI 1.0 and SNLI 1.0 JSON lines; rows that the annotators disagreed on (`-`) are dropped."""
    for where, row in read_json_lines(split_file.path):
        label = text_field(row, "gold_label", where)
        if label == "-":
            split_file.tally[NO_LABEL] += 1
            continue
        first, second = text_field(row, "sentence1", where), text_field(row, "sentence2", where)
        check_label(label, split_file.task.labels, where)
        yield Pair(id_field(row, "pairID", where), first, second, label)


def read_anli(split_file: Part) -> Iterator[Pair]:
    """ANLI v1.0 JSON lines; its one-letter labels become NLI's words."""
    for where, row in read_json_lines(split_file.path):
        letter = text_field(row, "label", where)
        check_label(letter, tuple(ANLI_LABELS), where)
        texts = text_field(row, "context", where), text_field(row, "hypothesis", where)
        yield Pair(id_field(row, "uid", where), *texts, ANLI_LABELS[letter])


def read_qqp(split_file: Part) -> Iterator[Pair]:
    """GLUE's question pairs: id, qid1, qid2, question1, question2, is_duplicate. Shorter rows are dropped."""
    lines = read_lines(split_file.path)
    # Checked, because GLUE's test.tsv has other columns and no labels.
    number, header = next(lines)
    if tuple(unquote(cell) for cell in header.split("\t")) != QQP_HEADER:
        raise UserError(
            f"{split_file.path}:{number}: the header must be {' '.join(QQP_HEADER)}, with tabs between them; "
            "use GLUE's train.tsv and dev.tsv"
        )
    for number, line in lines:
        cells = [unquote(cell) for cell in line.split("\t")]
        where = f"{split_file.path}:{number}"
        if len(cells) > len(QQP_HEADER):
            raise UserError(
                f"{where}: {counted(len(cells), 'column')}, expected {len(QQP_HEADER)}; "
                "remove tabs inside the questions"
            )
        if len(cells) < len(QQP_HEADER):
            # GLUE's own train.tsv has a few rows that lack columns.
            split_file.tally["rows with missing columns"] += 1
            continue
        yield Pair(cells[0], cells[3], cells[4], check_label(cells[5], split_file.task.labels, where))


def read_pair_tsv(split_file: Part) -> Iterator[Pair]:
    """XTREME's `text TAB text [TAB label]`. Without that column, labels come from the labels file, if there is one.

    All rows have the column, or none has it: a row without it would leave its whole language unscored.
    """
    labels = _labels(split_file) if split_file.labels else None
    rows, columns = 0, 0
    for number, line in filled_lines(split_file.path):
        where = f"{split_file.path}:{number}"
        cells = [unquote(cell) for cell in line.split("\t")]
        columns = columns or len(cells)
        if len(cells) not in (2, 3):
            raise UserError(
                f"{where}: {counted(len(cells), 'column')}, expected text, text and perhaps a label; check the file"
            )
        if len(cells) != columns:
            raise UserError(
                f"{where}: {counted(len(cells), 'column')}, but {columns} on the lines before; "
                "give every row its label, or none"
            )
        # XTREME's files have no header; one that somebody has put there would be an example.
        if not rows and HEADER_NAMES.issuperset(cell.lower() for cell in cells[:2]):
            raise UserError(f"{where}: is a header, not a pair of texts; remove the line")
        # A label of the row itself wins over the labels file, which only test files without the column need.
        if columns == 3:
            label: str | None = check_label(cells[2].strip(" "), split_file.task.labels, where)
        else:
            label = _nth(labels, rows, split_file, where)
        rows += 1
        yield Pair(f"{split_file.path.stem}:{number}", cells[0], cells[1], label)
    # Labels too many: they belong to another file, and those before may be shifted.
    if labels is not None and rows != len(labels):
        given = counted(len(labels), "label")
        raise UserError(
            f"{split_file.labels}: {given} for the {counted(rows, 'row')} of {split_file.path}; use matching files"
        )


def _nth(labels: list[str | None] | None, index: int, split_file: Part, where: str) -> str | None:
    if labels is None:
        return None
    if index >= len(labels):
        raise UserError(f"{where}: {split_file.labels} has only {counted(len(labels), 'label')}; use matching files")
    return labels[index]


def _labels(split_file: Part) -> list[str | None]:
    """A label a line (XNLI), or a table with an id and a column per language (PAWS-X); `?` is an unknown label."""
    assert split_file.labels is not None
    rows = [(number, line.split("\t")) for number, line in filled_lines(split_file.labels)]
    if not rows:
        raise UserError(f"{split_file.labels} holds blank lines only; download the file again")
    column = 0
    # PAWS-X has one table for all languages, whose first line names them.
    if len(rows[0][1]) > 1:
        column = _column(rows.pop(0)[1], split_file.labels, split_file.language)
    labels: list[str | None] = []
    for number, cells in rows:
        where = f"{split_file.labels}:{number}"
        if column >= len(cells):
            raise UserError(f"{where}: only {counted(len(cells), 'column')}; download the file again")
        label = cells[column].strip(" ")
        labels.append(None if label == "?" else check_label(label, split_file.task.labels, where))
    return labels


def _column(header: list[str], path: Path, language: str) -> int:
    if language not in header:
        columns = ", ".join(header)[:200]
        raise UserError(f"{path}:1: no column {language!r} (found: {columns}); add the language's labels")
    return header.index(language)


def table_pair(row: TableRow) -> Pair:
    """One or two texts and a label from the columns that the task names."""
    text = text_cell(row.values, row.columns["text"], row.where)
    second = text_cell(row.values, row.columns["text_pair"], row.where) if "text_pair" in row.columns else None
    label = None
    if row.labelled:
        label = label_cell(row.values, row.columns["label"], row.where)
        check_label(label, row.task.labels, f"{row.where}: column {row.columns['label']!r}")
    return Pair(row.id, text, second, label)


COLUMNS = Columns(("text",), "label", ("accuracy",), table_pair, optional=("text_pair",))
READERS: dict[str, Callable[[Part], Iterator[Pair]]] = {
    "nli_jsonl": read_nli,
    "anli_jsonl": read_anli,
    "qqp_tsv": read_qqp,
    "pair_tsv": read_pair_tsv,
    TABLE: COLUMNS.read,
}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def nli(row: Mapping[str, Any], where: str, context: RowContext) -> Pair | None:
    label = row_label(row, HUB_NLI_LABELS, where)
    # SNLI's rows on whose label the annotators did not agree, which the local files mark by `-`.
    if label is None:
        context.tally[NO_LABEL] += 1
        return None
    texts = text_field(row, "premise", where), text_field(row, "hypothesis", where)
    return Pair(row_id(row, where, "uid", "idx"), *texts, label)


def _plain_pair(row: Mapping[str, Any], where: str, context: RowContext, first: str, second: str) -> Pair:
    texts = text_field(row, first, where), text_field(row, second, where)
    return Pair(row_id(row, where, "id", "idx"), *texts, row_label(row, context.task.labels, where))


def qqp(row: Mapping[str, Any], where: str, context: RowContext) -> Pair:
    return _plain_pair(row, where, context, "question1", "question2")


def paws(row: Mapping[str, Any], where: str, context: RowContext) -> Pair:
    return _plain_pair(row, where, context, "sentence1", "sentence2")


CONVERTERS: dict[str, Converter] = {
    "hub_nli": row_by_row(nli),
    "hub_qqp": row_by_row(qqp),
    "hub_paws": row_by_row(paws),
}
