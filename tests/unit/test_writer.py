"""Rows that grow in files: what is mapped at the end equals what memory would hold, and nothing else is kept."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pytest
from row_builder import RowsBuilder

from stilts_ds.config import TrainingPart
from stilts_ds.data.cache import cached_rows, find_rows
from stilts_ds.families.bitext.record import Sentence
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.registry import FAMILIES
from stilts_ds.families.span import rows as windows
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.text.record import Text
from stilts_ds.rows import chunks, rows
from stilts_ds.rows.rows import Rows, ids_in, touched_ids
from stilts_ds.rows.slices import Slices, lay_out, spread
from stilts_ds.rows.tokenizer import Tokenizer, TokenTemplate
from stilts_ds.rows.writer import HEADER, Column, RowsWriter

ENCODE: dict[str, Any] = {name: family.encode for name, family in FAMILIES.items()}
XLMR = Tokenizer(pieces.xlmr_tokenizer(), "xlmr")
WORDS = ("the", "cat", "sat", "on", "mats", "a zebra", "dogs?", "é", "")
SETTING = TrainingPart(max_seq_length=24, doc_stride=4, max_query_length=6)
KEY = {"a": 1}


def text(number: int, words: int = 12) -> str:
    return " ".join(WORDS[(number * 7 + i * i) % len(WORDS)] for i in range(1 + number % words))


RECORDS: dict[str, tuple[list[Any], tuple[str, ...]]] = {
    "pair": ([Pair(str(i), text(i), text(i + 1), "ab"[i % 2]) for i in range(23)], ("a", "b")),
    "choice": ([Choice(str(i), text(i), (text(i + 1), text(i + 2)), i % 2) for i in range(23)], ()),
    "span": ([Span(str(i), text(i), f"x {text(i // 4, 40)}", (Answer("x", 0),)) for i in range(23)], ()),
    "tag": (
        [Tagged(str(i), tuple(f"w{text(i)}".split()), tuple("N" * len(f"w{text(i)}".split()))) for i in range(23)],
        ("N",),
    ),  # fmt: skip
    "text": ([Text(str(i), text(i, 40), "de") for i in range(23)], ("de",)),
    "bitext": ([Sentence(str(i), text(i, 40)) for i in range(23)], ()),
}


def same(a: Rows, b: Rows) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in (*Rows.ARRAYS, "touched")]
    return a.tally == b.tally and all(
        (x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y)) for x, y in pairs
    )


@pytest.mark.parametrize("family", RECORDS)
def test_rows_are_the_same_in_files_and_in_memory_and_for_any_chunk(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, labels = RECORDS[family]
    whole = ENCODE[family](records, XLMR, labels, SETTING)
    monkeypatch.setattr(chunks, "CHUNK", 5)
    parts = ENCODE[family](iter(records), XLMR, labels, SETTING)
    mapped = cached_rows(tmp_path, KEY, lambda folder: ENCODE[family](iter(records), XLMR, labels, SETTING, folder))
    found = find_rows(tmp_path, KEY)
    assert found is not None and same(whole, parts) and same(whole, mapped) and same(whole, found)
    assert isinstance(mapped.touched, np.memmap) and mapped.touched.tolist() == np.unique(whole.input_ids).tolist()
    assert same(whole.take(10**6), whole) and whole.take(3).touched is None


@pytest.mark.parametrize("shape", [(0,), (3,), (0, 2), (10**6, 2), (10**15,)])
def test_a_header_has_one_size_and_is_read_by_numpy(shape: tuple[int, ...], tmp_path: Path) -> None:
    from stilts_ds.rows.writer import npy_header

    header = npy_header(np.dtype(np.int32), shape)
    assert len(header) == HEADER
    if np.prod(shape) < 10**7:
        (tmp_path / "x.npy").write_bytes(header + bytes(4 * int(np.prod(shape))))
        assert np.load(tmp_path / "x.npy", mmap_mode="r").shape == shape


@pytest.mark.parametrize("width", [(), (2,)])
@pytest.mark.parametrize("sizes", [[], [0], [3, 0, 2]])
def test_a_column_is_its_parts_one_after_the_other(width: tuple[int, ...], sizes: list[int], tmp_path: Path) -> None:
    parts = [np.arange(size * (2 if width else 1)).reshape(-1, *width) + size for size in sizes]
    expected = np.concatenate([np.zeros((0, *width), np.int64), *parts])
    for folder in (None, tmp_path):
        column = Column(folder, "c", np.int32, width)
        for part in parts:
            column.append(part)
        found = column.finish()
        assert found.dtype == np.int32 and found.shape == expected.shape and np.array_equal(found, expected)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Blocks that Python and numpy hold while the same chunk is appended over and over."""

    def peak(count: int) -> int:
        lengths, ids = np.full(1000, 40), np.tile(np.arange(40), 1000)
        tracemalloc.start()
        (tmp_path / str(count)).mkdir()
        out = RowsWriter(tmp_path / str(count), "label")
        for _ in range(count):
            out.append(ids, lengths, lengths, lengths, label=lengths)
        assert len(out.rows()) == count * 1000
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(60) < peak(6) + 20_000


def test_a_context_is_tokenised_once_also_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Counting(windows.Contexts):
        def prepare(self, texts: Any) -> np.ndarray:
            seen.extend(text for text in dict.fromkeys(texts) if text not in self.number)
            found = super().prepare(texts)
            assert set(self.number) == set(texts)
            return found

    records = [Span(str(i), text(i), f"context {i // 4} {text(i // 4, 40)}", ()) for i in range(40)]
    whole = ENCODE["span"](records, XLMR, (), SETTING)
    monkeypatch.setattr(chunks, "CHUNK", 6)
    monkeypatch.setattr(windows, "Contexts", Counting)
    assert same(whole, ENCODE["span"](records, XLMR, (), SETTING))
    assert len(seen) == len(set(seen)) == 10


def by_hand(*rows_of: list[int]) -> Rows:
    out = RowsBuilder()
    for number, ids in enumerate(rows_of):
        out.add_row(ids, len(ids), number)
        out.end_item()
    return out.rows()


def test_touched_ids_are_found_in_blocks_where_they_were_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 2)
    one, other = by_hand([5, 1, 9], [1, 30]), by_hand([2])
    assert one.touched is None and ids_in(one).tolist() == [1, 5, 9, 30]
    assert touched_ids([one, other], [0, 3, 99], 40).tolist() == [0, 1, 2, 3, 5, 9, 30]


def test_slices_are_spread_and_laid_out() -> None:
    assert spread(np.array([7, 0, 2]), np.array([2, 0, 3])).tolist() == [7, 8, 2, 3, 4]
    parts = Slices.of([[1, 2, 3], [], [4]])
    laid = lay_out([(0,), parts.take(np.array([2, 0])).up_to(2), (8, 9)], 2)
    assert laid.ids.tolist() == [0, 4, 8, 9, 0, 1, 2, 8, 9] and laid.lengths.tolist() == [4, 5]
    assert laid.inside(1).tolist() == [1, 1] and laid.inside(2).tolist() == [2, 3]
    assert TokenTemplate((1,), (2, 3), (4,), (5, 6)).pair_cost == 4


def endless() -> Iterator[Pair]:
    number = 0
    while True:
        yield Pair(str(number), "the cat", "sat", "a" if number < 9 else "wrong")
        number += 1


def test_records_are_read_chunk_by_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)
    with pytest.raises(Exception, match="example 9: unknown label 'wrong'"):
        cached_rows(tmp_path, KEY, lambda folder: ENCODE["pair"](endless(), XLMR, ("a",), SETTING, folder))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_large", [True, False])
def test_the_system_reads_of_large_rows_what_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    monkeypatch.setattr(rows, "LARGE_BYTES", 1 if is_large else 1 << 30)
    made = cached_rows(
        tmp_path, KEY, lambda folder: ENCODE["pair"]([Pair("1", "the cat", "sat", "a")], XLMR, ("a",), SETTING, folder)
    )
    made.expect_random_reads()
    made.will_read(range(len(made)))
    maps = Path("/proc/self/smaps").read_text().split("VmFlags:")
    [after] = [number + 1 for number, text in enumerate(maps) if f"{tmp_path}/" in text and "input_ids" in text][:1]
    flags = maps[after].split("\n")[0].split()
    assert ("rr" in flags) == is_large  # what is behind is not read ahead
    assert made.input_ids.tolist() == np.load(next(tmp_path.rglob("input_ids.npy"))).tolist()
