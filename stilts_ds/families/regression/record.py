"""Texts with a number, from tables with named columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from stilts_ds.families.columns import Columns, TableRow
from stilts_ds.sources.source import Part
from stilts_ds.sources.tables import number_cell, text_cell
from stilts_ds.tasks.spec import TABLE


@dataclass(frozen=True, slots=True)
class Rated:
    """One text or two (`text_pair`), and their number. `score` is None in test files without labels."""

    id: str
    text: str
    text_pair: str | None
    score: float | None


def texts(record: Rated) -> tuple[str, ...]:
    return (record.text,) if record.text_pair is None else (record.text, record.text_pair)


def attributes(records: Sequence[Rated]) -> dict[str, list[float]]:
    return {"characters of the texts": [float(sum(map(len, texts(record)))) for record in records]}


def is_labelled(record: Rated) -> bool:
    return record.score is not None


def gold(record: Rated) -> float | None:
    return record.score


def fields(record: Rated, most: int) -> list[tuple[str, str]]:
    shown = [("text", record.text)]
    if record.text_pair is not None:
        shown.append(("text pair", record.text_pair))
    return [*shown, ("score", "none" if record.score is None else f"{record.score:g}")]


def table_rated(row: TableRow) -> Rated:
    """One or two texts and a number from the columns that the task names."""
    text = text_cell(row.values, row.columns["text"], row.where)
    pair = text_cell(row.values, row.columns["text_pair"], row.where) if "text_pair" in row.columns else None
    score = number_cell(row.values, row.columns["score"], row.where) if row.labelled else None
    return Rated(row.id, text, pair, score)


COLUMNS = Columns(("text",), "score", ("r2", "pearson", "spearman"), table_rated, optional=("text_pair",))
READERS: dict[str, Callable[[Part], Iterator[Rated]]] = {TABLE: COLUMNS.read}
