"""Descriptions that find their programs, in any natural language, and sentences that find their translations.

MBPP's train exercises teach it; HumanEval-XL's descriptions in 23 languages search the programs of the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from stilts_ds.errors import UserError, counted
from stilts_ds.families.described import Described, described_programs, described_rows, solved_rows
from stilts_ds.families.ranking.record import Candidate, Query
from stilts_ds.sources.files import filled_lines, text_field
from stilts_ds.sources.hub import Converter, RowContext
from stilts_ds.sources.source import Part


def read_mbpp_search(split_file: Part) -> Iterator[Query]:
    """MBPP's descriptions, each with its solution: what trains and selects."""
    for exercise in described_programs("mbpp", split_file):
        yield _training_query(*exercise)


def read_humaneval_xl_search(split_file: Part) -> Iterator[Query]:
    """One language's descriptions, which search the Python programs of all problems of the file."""
    yield from _searching_all(described_programs("humaneval_xl", split_file))


def _searching_all(exercises: Sequence[Described]) -> Iterator[Query]:
    pool = tuple(Candidate(exercise.id, exercise.program) for exercise in exercises)
    for exercise in exercises:
        yield Query(exercise.id, exercise.description, (exercise.id,), exercise.id, pool)


def _training_query(name: str, text: str, right: str) -> Query:
    return Query(name, text, (name,), name, (Candidate(name, right),))


def read_translations(split_file: Part) -> Iterator[Query]:
    """Line i of one file finds line i of the other, its translation."""
    assert split_file.pivot is not None
    sources, pivots = list(filled_lines(split_file.path)), list(filled_lines(split_file.pivot))
    if len(sources) != len(pivots):
        problem = f"{split_file.path} has {counted(len(sources), 'line')} and {split_file.pivot} {len(pivots)}"
        raise UserError(f"{problem}; translations stand on lines of the same number, download them again")
    for (number, source), (_, pivot) in zip(sources, pivots):
        if not source.strip():
            raise UserError(f"{split_file.path}:{number}: is blank, and nothing finds a translation by it; download "
                            "the files again")  # fmt: skip
        yield _training_query(str(number), source, pivot)


READERS: dict[str, Callable[[Part], Iterator[Query]]] = {
    "mbpp_search": read_mbpp_search,
    "humaneval_xl_search": read_humaneval_xl_search,
    "translations": read_translations,
}


def translations(rows: Iterable[Mapping[str, object]], name: str, context: RowContext) -> Iterator[Query]:
    """`source` finds `target`."""
    for index, row in enumerate(rows):
        where = f"{name}[{index}]"
        yield _training_query(str(index), text_field(row, "source", where), text_field(row, "target", where))


def mbpp_search(rows: Iterable[Mapping[str, object]], name: str, context: RowContext) -> Iterator[Query]:
    for exercise in described_rows("mbpp", rows, name):
        yield _training_query(*exercise)


def humaneval_xl_search(rows: Iterable[Mapping[str, object]], name: str, context: RowContext) -> Iterator[Query]:
    yield from _searching_all(solved_rows(rows, name, context))


CONVERTERS: dict[str, Converter] = {
    "hub_translations": translations,
    "hub_mbpp_search": mbpp_search,
    "hub_humaneval_xl_search": humaneval_xl_search,
}
