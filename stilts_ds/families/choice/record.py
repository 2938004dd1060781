"""Multiple choice: HellaSwag, Cosmos QA, CommonsenseQA, Social IQa, COPA and XCOPA."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.columns import Columns, TableRow
from stilts_ds.sources.files import (
    AGAIN,
    check_text,
    id_field,
    int_field,
    list_field,
    read_json_lines,
    read_lines,
    text_field,
    texts_field,
)
from stilts_ds.sources.hub import Converter, RowContext, row_by_row
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import cell, label_cell, text_cell
from stilts_ds.tasks.spec import TABLE

COPA_QUESTIONS = {"cause": "What was the cause?", "effect": "What was the effect?"}  # XTREME-R's run_xcopa.py
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # how people number choices
SIQA_ANSWERS = "ABC"  # the letters of the answers, in index order
COSMOS_COLUMNS = ("context", "question", "answer0", "answer1", "answer2", "answer3")


@dataclass(frozen=True, slots=True)
class Choice:
    """A prompt and its candidate continuations or answers; `label` is the index of the right one (None: unlabelled)."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    label: int | None


def texts(record: Choice) -> tuple[str, ...]:
    return (record.prompt, *record.choices)


def attributes(records: Sequence[Choice]) -> dict[str, list[float]]:
    return {
        "characters of the prompt": [float(len(record.prompt)) for record in records],
        "characters of the choices": [float(sum(map(len, record.choices))) for record in records],
    }


def is_labelled(record: Choice) -> bool:
    return record.label is not None


def gold(record: Choice) -> int | None:
    return record.label


def fields(record: Choice, most: int) -> list[tuple[str, str]]:
    shown = [("prompt", record.prompt)]
    for index, text in enumerate(record.choices):
        mark = "*" if index == record.label else " "
        shown.append((f"choice {mark}", text))
    return shown


def make_choice(id: str, prompt: str, choices: tuple[str, ...], label: int | None, where: str) -> Choice:
    """A record whose label is checked. Raises UserError for fewer than two choices or a label out of range."""
    if len(choices) < 2:
        raise UserError(f"{where}: {counted(len(choices), 'choice')}, expected at least 2; check the file's schema")
    if label is not None and not 0 <= label < len(choices):
        count = counted(len(choices), "choice")
        raise UserError(f"{where}: label {label} is out of range for {count}, counted from 0; repair the row")
    return Choice(id, prompt, choices, label)


def hellaswag_row(row: dict[str, Any], where: str) -> Choice:
    """`ctx_a` is the prompt, and `ctx_b` begins every ending."""
    begin = text_field(row, "ctx_b", where)
    endings = list_field(row, "endings", where)
    if not all(isinstance(ending, str) for ending in endings):
        raise UserError(f"{where}: `endings` must hold texts; check the file's schema")
    # Stripped, because some rows have no `ctx_b` and the space before the ending would be a token.
    choices = tuple(f"{begin} {check_text(ending, where)}".strip() for ending in endings)
    # The test split has the key with an empty value on the hub, and no key in the official files.
    label = None if row.get("label", "") in ("", None) else int_field(row, "label", where)
    return make_choice(id_field(row, "ind", where), text_field(row, "ctx_a", where), choices, label, where)


def commonsenseqa_row(id: str, question: str, options: list[tuple[str, str]], key: str, where: str) -> Choice:
    """`options` are (letter, text); `key` is the right letter, or empty in the test split."""
    letters = [letter for letter, _ in options]
    if key and key not in letters:
        raise UserError(f"{where}: the answer {key[:20]!r} is none of the choices {', '.join(letters)}; repair the row")
    label = letters.index(key) if key else None
    return make_choice(id, question, tuple(text for _, text in options), label, where)


def cosmosqa_row(row: dict[str, Any], where: str) -> Choice:
    """Context and question make the prompt."""
    context, question, *answers = (text_field(row, column, where) for column in COSMOS_COLUMNS)
    label = None if row.get("label", "") in ("", None) else int_field(row, "label", where)
    return make_choice(id_field(row, "id", where), f"{context} {question}", tuple(answers), label, where)


def copa_row(row: dict[str, Any], where: str) -> Choice:
    """The prompt is the premise and COPA's English question for its kind, in every language."""
    kind = text_field(row, "question", where)
    if kind not in COPA_QUESTIONS:
        raise UserError(f"{where}: `question` is {kind[:20]!r}, expected cause or effect; repair the row")
    label = int_field(row, "label", where) if "label" in row else None
    # Test splits lack the label or, on the hub, have -1 in its place.
    if label == -1:
        label = None
    choices = text_field(row, "choice1", where), text_field(row, "choice2", where)
    prompt = f"{text_field(row, 'premise', where)} {COPA_QUESTIONS[kind]}"
    return make_choice(id_field(row, "idx", where), prompt, choices, label, where)


def siqa_row(row: dict[str, Any], where: str) -> Choice:
    """Context and question make the prompt; `correct` is the right answer's letter, absent in the test split."""
    prompt = f"{text_field(row, 'context', where)} {text_field(row, 'question', where)}"
    choices = tuple(text_field(row, f"answer{letter}", where) for letter in SIQA_ANSWERS)
    key = text_field(row, "correct", where) if "correct" in row else ""
    if key and key not in SIQA_ANSWERS:
        raise UserError(f"{where}: `correct` is {key[:20]!r}, expected A, B or C; repair the row")
    label = SIQA_ANSWERS.index(key) if key else None
    return make_choice(id_field(row, "id", where), prompt, choices, label, where)


def read_siqa(split_file: Part) -> Iterator[Choice]:
    for where, row in read_json_lines(split_file.path):
        yield siqa_row(row, where)


def read_hellaswag(split_file: Part) -> Iterator[Choice]:
    for where, row in read_json_lines(split_file.path):
        yield hellaswag_row(row, where)


def read_copa(split_file: Part) -> Iterator[Choice]:
    for where, row in read_json_lines(split_file.path):
        yield copa_row(row, where)


def read_commonsenseqa(split_file: Part) -> Iterator[Choice]:
    """The official nested JSON lines: `question` holds the stem and the choices."""
    for where, row in read_json_lines(split_file.path):
        question = row.get("question")
        options = [
            (text_field(choice, "label", where), text_field(choice, "text", where))
            for choice in list_field(question, "choices", where)
        ]
        key = text_field(row, "answerKey", where) if "answerKey" in row else ""
        yield commonsenseqa_row(id_field(row, "id", where), text_field(question, "stem", where), options, key, where)


def read_cosmosqa(split_file: Part) -> Iterator[Choice]:
    """The official CSV with a header; quoted cells may hold commas and line feeds."""
    table = _csv_rows(split_file.path)
    _, header = next(table)
    # `label` is not among them: the test file has none.
    missing = [column for column in COSMOS_COLUMNS if column not in header]
    if missing:
        raise UserError(f"{split_file.path}:1: the header has no column {missing[0]}; use Cosmos QA's own CSV files")
    for where, cells in table:
        if not any(cell.strip() for cell in cells):
            continue  # a blank line
        if len(cells) != len(header):
            columns = counted(len(cells), "column")
            raise UserError(f"{where}: {columns}, expected {len(header)}; the file looks cut short, {AGAIN}")
        yield cosmosqa_row(dict(zip(header, cells)), where)


def _csv_rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (`file:last line of the row`, cells). Line ends inside quotes become `\\n`."""
    # Strict: without it, a quote that is never closed swallows the rest of the file as one cell.
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    try:
        for cells in reader:
            yield f"{path}:{reader.line_num}", cells
    except csv.Error as error:
        problem = f"{path}:{reader.line_num}: invalid CSV ({error})"
        raise UserError(f"{problem}; the file may be cut short, {AGAIN}") from None


def table_choice(row: TableRow) -> Choice:
    """A question and its choices: one column with lists, or (csv, tsv) columns whose names commas separate."""
    prompt = text_cell(row.values, row.columns["prompt"], row.where)
    columns = [name.strip() for name in row.columns["choices"].split(",")]
    if len(columns) > 1:
        choices = [text_cell(row.values, column, row.where) for column in columns]
    else:
        choices = _listed_choices(row, columns[0])
    label = _right_choice(row) if row.labelled else None
    return make_choice(row.id, prompt, tuple(choices), label, row.where)


def _listed_choices(row: TableRow, column: str) -> list[str]:
    choices = cell(row.values, column, row.where)
    if not isinstance(choices, list):
        kind = type(choices).__name__
        remedy = "name the column of each choice, with commas between them"
        raise UserError(f"{row.where}: column {column!r} must hold a list of texts, not {kind}; {remedy}")
    return [text_cell({column: choice}, column, row.where) for choice in choices]


def _right_choice(row: TableRow) -> int:
    """Index of the right choice. It is written as a number from 0, or as a letter from A."""
    column = row.columns["answer"]
    written = label_cell(row.values, column, row.where)
    if written.isascii() and written.isdigit():
        return int(written)
    if len(written) == 1 and written.isascii() and written.upper() in LETTERS:
        return LETTERS.index(written.upper())
    right = "a whole number from 0 or a letter from A"
    raise UserError(f"{row.where}: column {column!r} must hold {right}, not {written[:20]!r}; correct the cell")


COLUMNS = Columns(("prompt", "choices"), "answer", ("accuracy",), table_choice)
READERS: dict[str, Callable[[Part], Iterator[Choice]]] = {
    TABLE: COLUMNS.read,
    "hellaswag_jsonl": read_hellaswag,
    "commonsenseqa_jsonl": read_commonsenseqa,
    "cosmosqa_csv": read_cosmosqa,
    "copa_jsonl": read_copa,
    "siqa_jsonl": read_siqa,
}
# 2: the question for an effect is XTREME-R's.
READER_VERSIONS = {"copa_jsonl": 2, "hub_copa": 2}


# --- hub rows ---------------------------------------------------------------------------------------------------------


def hellaswag(row: Mapping[str, Any], where: str, context: RowContext) -> Choice:
    return hellaswag_row(dict(row), where)


def cosmosqa(row: Mapping[str, Any], where: str, context: RowContext) -> Choice:
    label = row.get("label")
    # The hub's test split has -1 for the labels that are kept back.
    return cosmosqa_row({**row, "label": None if label == -1 else label}, where)


def commonsenseqa(row: Mapping[str, Any], where: str, context: RowContext) -> Choice:
    choices = row.get("choices")
    options = list(zip(texts_field(choices, "label", where), texts_field(choices, "text", where)))
    key = text_field(row, "answerKey", where)
    return commonsenseqa_row(text_field(row, "id", where), text_field(row, "question", where), options, key, where)


def copa(row: Mapping[str, Any], where: str, context: RowContext) -> Choice:
    return copa_row(dict(row), where)


def siqa(row: Mapping[str, Any], where: str, context: RowContext) -> Choice:
    """The hub counts the answers from 1."""
    number = text_field(row, "label", where).strip()
    if number not in ("1", "2", "3"):
        raise UserError(f"{where}: `label` is {number[:20]!r}, expected 1, 2 or 3; check the data set's revision")
    return siqa_row({**row, "correct": SIQA_ANSWERS[int(number) - 1]}, where)


CONVERTERS: dict[str, Converter] = {
    "hub_siqa": row_by_row(siqa),
    "hub_hellaswag": row_by_row(hellaswag),
    "hub_cosmosqa": row_by_row(cosmosqa),
    "hub_commonsenseqa": row_by_row(commonsenseqa),
    "hub_copa": row_by_row(copa),
}
