"""A tag a line, blank lines between sentences; a sentence's tags come from the chunks it was cut into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stilts_ds.config import EvaluationPart
from stilts_ds.errors import UserError, counted
from stilts_ds.families.files import (
    Expected,
    PredictionFile,
    check_labelled,
    fail,
    file_lines,
    read_word,
    writable,
    write_lines,
)
from stilts_ds.families.tag.record import Tagged
from stilts_ds.rows.rows import Rows, rows_by_example
from stilts_ds.tasks.spec import Task

Chunk = tuple[NDArray[np.integer], NDArray[np.integer]]


# --- decoding --------------------------------------------------------------------------------------------------------


def output(logits: np.ndarray) -> np.ndarray:
    """The best tag of each word, as label indices [words]."""
    return logits.argmax(-1)


def decode(
    records: Sequence[Tagged],
    rows: Rows,
    outputs: Sequence[np.ndarray],
    labels: Sequence[str],
    evaluation: EvaluationPart,
) -> list[list[str]]:
    """The tags of each sentence."""
    chunks = rows_by_example(rows)
    return [_tags(record, rows, outputs, chunks[i], labels) for i, record in enumerate(records)]


def _tags(
    record: Tagged, rows: Rows, outputs: Sequence[np.ndarray], chunk_rows: list[int], labels: Sequence[str]
) -> list[str]:
    assert rows.place is not None
    words = [rows.place[rows.starts[row] : rows.starts[row + 1], 0] for row in chunk_rows]
    chunks = [(word[word >= 0], outputs[row]) for word, row in zip(words, chunk_rows)]
    return [labels[i] for i in rejoin(len(record.words), chunks)]


def rejoin(n_words: int, chunks: Iterable[Chunk]) -> NDArray[np.int64]:
    """Return [n_words] tag ids from chunks of (word index [L], tag id [L]).

    A word index is a word's position in the sentence at the word's first token and -1 at every other token. Raises
    UserError for a word that no chunk covers, and for one that is covered twice or does not exist.
    """
    tags = np.zeros(n_words, dtype=np.int64)
    times = np.zeros(n_words, dtype=np.int64)
    for word_index, tag_ids in chunks:
        if np.shape(word_index) != np.shape(tag_ids):
            raise UserError(
                f"a chunk has {counted(len(word_index), 'token')} but {counted(len(tag_ids), 'tag')}; "
                "encode the task again"
            )
        first = word_index >= 0
        words = word_index[first]
        if words.size and words.max() >= n_words:
            raise UserError(
                f"a chunk tags word {words.max()} of a sentence of {counted(n_words, 'word')}; encode the task again"
            )
        tags[words] = tag_ids[first]
        np.add.at(times, words, 1)  # not `times[words] += 1`, which counts a repeated index once
    if (times != 1).any():
        word = int(np.argmax(times != 1))
        raise UserError(f"word {word} of {n_words} has {times[word]} tags instead of one; encode the task again")
    return tags


# --- files -----------------------------------------------------------------------------------------------------------


def read(path: Path, labels: Iterable[str] = ()) -> list[list[str]]:
    return _sentences(path, frozenset(labels))


def _sentences(path: Path, known: Set[str]) -> list[list[str]]:
    """The tags of each sentence. Several blank lines separate as one does: XTREME's own files hold such, and its scorer
    reads them so. A sentence that is missing shows in the number of sentences."""
    return [
        [read_word(path, number, line, known, "tag") for number, line in sentence]
        for sentence in _numbered_sentences(path)
    ]


def _numbered_sentences(path: Path) -> list[list[tuple[int, str]]]:
    """The filled lines of each sentence, with their numbers."""
    sentences: list[list[tuple[int, str]]] = []
    between = True  # before the first sentence it is as after a blank line
    for number, line in enumerate(file_lines(path), start=1):
        blank = not line.strip(" ")
        if not blank and between:
            sentences.append([])
        if not blank:
            sentences[-1].append((number, line))
        between = blank
    return sentences


def read_labels(path: Path, labels: Iterable[str] = ()) -> list[list[str]]:
    # Any tag may stand in a label file: an open tag set is not known here, and a tag outside of it can only be missed.
    return check_labelled(path, _sentences(path, frozenset()))


def write(path: Path, values: Iterable[Sequence[str]]) -> None:
    write_lines(path, _tag_lines(values))


def _tag_lines(sentences: Iterable[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for number, tags in enumerate(sentences):
        # Between blank lines it would not be seen when it is read, and all that follows would be shifted.
        if not tags:
            raise ValueError(f"sentence {number} has no tags")
        lines += [""] * bool(lines) + [writable(tag) for tag in tags]
    return lines


def check(path: Path, predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
    check_sentences(path, [len(tags) for tags in predicted], [len(tags) for tags in gold])


def check_sentences(path: Path, sizes: Sequence[int], wanted: Sequence[int]) -> None:
    """Check the number of tags of each sentence. Raises UserError with the line where they part."""
    if list(sizes) == list(wanted):
        return
    lines = [[number for number, _ in sentence] for sentence in _numbered_sentences(path)]
    ends = [sentence[-1] + 1 for sentence in lines]
    for number, (words, expected) in enumerate(zip(sizes, wanted), start=1):
        if words != expected:
            at = lines[number - 1][expected] if words > expected else ends[number - 1]
            fail(
                path,
                at,
                f"sentence {number} has {counted(words, 'tag')} for {counted(expected, 'word')}; "
                "predict this split again",
            )
    # All sentences that both have agree, so the fault is where one of the two ends.
    if len(sizes) != len(wanted):
        line = lines[len(wanted)][0] if len(sizes) > len(wanted) else max(ends, default=1)
        fail(
            path,
            line,
            f"{counted(len(sizes), 'sentence')} for {counted(len(wanted), 'gold sentence')}; predict this split again",
        )


def expect(records: Sequence[Tagged]) -> Expected:
    return Expected(len(records), words=tuple(len(record.words) for record in records))


def check_expected(path: Path, values: Sequence[Sequence[str]], expected: Expected) -> None:
    check_sentences(path, [len(tags) for tags in values], expected.words)


FILE = PredictionFile(".tsv", read, read_labels, write, write, check, check_expected, expect)


def files(task: Task) -> PredictionFile:
    return FILE
