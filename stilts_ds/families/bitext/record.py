"""Bitext collections: BUCC 2018, Tatoeba, documentation, and programs beside their descriptions.

A collection has two sides and, where they are known, the gold pairs (source id, pivot id); the pivot is English. A
split in one language is one collection, so its readers yield one record.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.families.bitext.gold import read_gold
from stilts_ds.families.described import Described, described_programs, solved_rows
from stilts_ds.sources.files import filled_lines, split_id, text_field
from stilts_ds.sources.hub import Converter, RowContext
from stilts_ds.sources.source import Part
from stilts_ds.tasks.languages import iso3_of

Pairs = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of one side of a bitext collection."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Bitext:
    """Two sides and the gold pairs (source id, pivot id); None where these are not known.

    `id` names the pair of languages. `gold` is ordered where sentences were left out, for the sake of the same files.
    """

    id: str
    source: Sequence[Sentence]
    pivot: Sequence[Sentence]
    gold: Collection[tuple[str, str]] | None


def is_labelled(record: Bitext) -> bool:
    return record.gold is not None


def gold(record: Bitext) -> Collection[tuple[str, str]] | None:
    return record.gold


def to_plain(record: Bitext) -> list[Any]:
    """A collection as lists of texts: the id, ids and texts of both sides, and gold pairs or None."""
    columns = []
    for side in (record.source, record.pivot):
        columns += [[sentence.id for sentence in side], [sentence.text for sentence in side]]
    return [record.id, *columns, None if record.gold is None else [list(pair) for pair in record.gold]]


def from_plain(values: Sequence[Any]) -> Bitext:
    """The collection that `to_plain` gave these lists of."""
    name, source_ids, source_texts, pivot_ids, pivot_texts, gold = values
    source, pivot = list(map(Sentence, source_ids, source_texts)), list(map(Sentence, pivot_ids, pivot_texts))
    return Bitext(name, source, pivot, None if gold is None else [(pair[0], pair[1]) for pair in gold])


def fields(record: Bitext, most: int) -> list[tuple[str, str]]:
    """The size of both sides, then the first pairs with their texts or, without gold, the first sentences."""
    pairs = "no gold pairs" if record.gold is None else f"{counted(len(record.gold), 'gold pair')}"
    sides = [("source", record.source), ("pivot", record.pivot)]
    sizes = [*((name, f"{counted(len(side), 'sentence')}") for name, side in sides), ("gold", pairs)]
    if record.gold is None:
        return sizes + [(sentence.id, sentence.text) for sentence in (*record.source[:most], *record.pivot[:most])]
    return sizes + [field for pair in islice(_gold_pairs(record), most) for field in pair]


def _gold_pairs(record: Bitext) -> Iterator[list[tuple[str, str]]]:
    """Both sentences of each pair, in the order of the source side."""
    assert record.gold is not None
    text_of = {sentence.id: sentence.text for sentence in record.pivot}
    partner_of = dict(record.gold)
    for sentence in record.source:
        if sentence.id in partner_of:
            partner = partner_of[sentence.id]
            yield [(sentence.id, sentence.text), (f"= {partner}", text_of[partner])]


def take(records: Iterable[Bitext], skip: int, limit: int | None) -> Iterator[Bitext]:
    """Collections of at most `limit` sentences a side, gold sentences first.

    Raises UserError for a longer collection without gold pairs: nothing says which sentences to keep.
    """
    for record in records:
        if limit is None or max(len(record.source), len(record.pivot)) <= limit:
            yield record
        elif record.gold is None:
            raise UserError(f"evaluation.max_bitext needs gold pairs; {record.id} has none")
        else:
            yield _shorten(record, limit)


def _shorten(record: Bitext, limit: int) -> Bitext:
    """The first `limit` sentences of each side, those of gold pairs first, in the files' order."""
    assert record.gold is not None
    # Half of a side at most, so that sentences without a partner remain among which a pair has to be found.
    kept = sorted(record.gold)[: limit // 2]
    sources, pivots = {source for source, _ in kept}, {pivot for _, pivot in kept}
    # A sentence whose partner goes must go, too: it would be counted as one that has none.
    dropped_sources = {source for source, _ in record.gold} - sources
    dropped_pivots = {pivot for _, pivot in record.gold} - pivots

    def take_side(side: Sequence[Sentence], needed: set[str], unwanted: set[str]) -> list[Sentence]:
        spare = limit - len(needed)
        chosen = []
        for sentence in side:
            if sentence.id in needed:
                chosen.append(sentence)
            elif sentence.id not in unwanted and spare > 0:
                chosen.append(sentence)
                spare -= 1
        return chosen

    source = take_side(record.source, sources, dropped_sources)
    return Bitext(record.id, source, take_side(record.pivot, pivots, dropped_pivots), kept)


def _name(split_file: Part) -> str:
    return f"{split_file.task.name} {split_file.split}-{split_file.language}"


def read_bucc(split_file: Part) -> Iterator[Bitext]:
    """`id TAB text` on both sides; gold is `source id TAB pivot id`, without it None."""
    assert split_file.pivot is not None
    source, pivot = _sentences(split_file.path), _sentences(split_file.pivot)
    gold = None
    if split_file.labels is not None:
        ids = [{sentence.id for sentence in side} for side in (source, pivot)]
        # A dev or test side is searched as a whole; which pairs are right is a set, their order says nothing.
        gold = frozenset(read_gold(split_file.labels, ids[0], ids[1]))
    yield Bitext(_name(split_file), source, pivot, gold)


def _sentences(path: Path) -> list[Sentence]:
    by_id: dict[str, Sentence] = {}
    for number, line in filled_lines(path):
        where = f"{path}:{number}"
        id, text = split_id(line, where)
        if id in by_id:
            raise UserError(f"{where}: id {id[:40]!r} occurs twice; make ids unique")
        by_id[id] = Sentence(id, text)
    return list(by_id.values())


def read_aligned(split_file: Part) -> Iterator[Bitext]:
    """Line i of one file translates line i of the other (Tatoeba); ids are line indices from 0."""
    for bitext in read_unaligned(split_file):
        if len(bitext.source) != len(bitext.pivot):
            lines = counted(len(bitext.source), "line")
            problem = f"{split_file.path} has {lines} and {split_file.pivot} {len(bitext.pivot)}"
            raise UserError(f"{problem}; aligned files must be equally long, download them again")
        yield _aligned(bitext.id, bitext.source, bitext.pivot)


def _aligned(name: str, source: Sequence[Sentence], pivot: Sequence[Sentence]) -> Bitext:
    """Sentence i of one side translates sentence i of the other."""
    return Bitext(name, source, pivot, frozenset((sentence.id, sentence.id) for sentence in source))


def read_unaligned(split_file: Part) -> Iterator[Bitext]:
    """Two files of lines without gold; ids are line indices from 0."""
    assert split_file.pivot is not None
    yield Bitext(_name(split_file), _numbered(split_file.path), _numbered(split_file.pivot), None)


def read_described_programs(split_file: Part) -> Iterator[Bitext]:
    """HumanEval-XL's descriptions in one language, and the Python programs that they describe."""
    yield _described(_name(split_file), described_programs("humaneval_xl", split_file))


def _described(name: str, exercises: Sequence[Described]) -> Bitext:
    source = [Sentence(exercise.id, exercise.description) for exercise in exercises]
    return _aligned(name, source, [Sentence(exercise.id, exercise.program) for exercise in exercises])


def _numbered(path: Path) -> list[Sentence]:
    return [Sentence(str(number - 1), line) for number, line in filled_lines(path)]


READERS: dict[str, Callable[[Part], Iterator[Bitext]]] = {
    "bucc": read_bucc,
    "aligned_lines": read_aligned,
    "unaligned_lines": read_unaligned,
    "humaneval_xl_bitext": read_described_programs,
}


# As XTREME's copy names them, and as mteb's does: `sentence2` is English in all of its pairs (mteb's
# AbsTaskBitextMining and its published lengths of Tatoeba's sentences, which are those of XTREME's files). The last
# are those of CodeXGLUE's documentation.
SIDES = (("source_sentence", "target_sentence"), ("sentence1", "sentence2"), ("source", "target"))


def parallel(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> Iterator[Bitext]:
    """Both sides of a hub data set of parallel rows; row i translates row i. Raises UserError where there are none."""
    pivot = context.task.pivot
    sides: tuple[list[Sentence], list[Sentence]] = ([], [])
    for index, row in enumerate(rows):
        where = f"{name}[{index}]"
        columns = next((pair for pair in SIDES if pair[0] in row), SIDES[0])
        # The hub's rows may have the English sentence on either side.
        swapped = row.get("source_lang") in (pivot, iso3_of(pivot))
        for side, column in zip(sides, reversed(columns) if swapped else columns):
            # Each sentence of mteb's copy is one character longer than its line in XTREME's file: a line break.
            side.append(Sentence(str(index), text_field(row, column, where).rstrip("\r\n")))
    if not sides[0]:
        raise UserError(f"{name} has no rows; check the data set's revision")
    yield _aligned(name, *sides)


def humaneval_xl_bitext(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> Iterator[Bitext]:
    yield _described(name, solved_rows(rows, name, context))


CONVERTERS: dict[str, Converter] = {"hub_parallel": parallel, "hub_humaneval_xl_bitext": humaneval_xl_bitext}
