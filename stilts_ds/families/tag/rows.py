"""Tagging: the first piece of a word carries its tag; long sentences are cut between words and rejoined later."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.families.tag.record import Tagged
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.slices import Slices, lay_out
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_tag(
    records: Iterable[Tagged],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    out = RowsWriter(folder, "token_label", "place")
    room = setting.max_seq_length - tokenizer.template.single_cost
    known = {tag: i for i, tag in enumerate(labels)}
    for index, chunk in chunks(records):
        # A word that alone is longer than a row keeps its first pieces: its tag stands on the first one.
        pieces = word_pieces([record.words for record in chunk], tokenizer).up_to(room)
        tags = np.fromiter(chain.from_iterable(_tag_indices(r, known, out) for r in chunk), np.int32)
        counts = [len(record.words) for record in chunk]
        _append_sentences(out, tokenizer, pieces, tags, counts, index, room)
    return out.rows()


def word_pieces(sentences: Sequence[Sequence[str]], tokenizer: Tokenizer) -> Slices:
    """The pieces of each word of each sentence, as in running text; a word without pieces becomes `<unk>`.

    Raises UserError for such a word where the tokenizer has no unknown token.
    """
    # Byte-level tokenizers tell a word inside a text from one at its beginning by the space in front.
    space = tokenizer.space
    words: list[str] = []
    for sentence in sentences:
        words += sentence[:1]
        words += [f"{space}{word}" for word in sentence[1:]]
    slices = tokenizer.slices(words)
    unknown = len(slices.flat)
    empty = slices.length == 0
    if tokenizer.unk is None:
        if empty.any():
            word = words[int(empty.argmax())]
            raise UserError(
                f"the tokenizer of {tokenizer.name} makes no token of the word {word!r} and has no unknown "
                "token; take the word out, or use another encoder"
            )
        return slices
    return Slices(np.append(slices.flat, np.int32(tokenizer.unk)), np.where(empty, unknown, slices.first),
                  np.where(empty, 1, slices.length))  # fmt: skip


def _tag_indices(record: Tagged, known: dict[str, int], out: RowsWriter) -> list[int]:
    """Indices of a sentence's tags; a tag that the train split never showed (open tag sets such as CCG) can only be
    missed."""
    if record.tags is None:
        return [-1] * len(record.words)
    indices = [known.get(tag, -1) for tag in record.tags]
    if missing := indices.count(-1):
        out.tally["tags not in the label list"] += missing
    return indices


def _append_sentences(
    out: RowsWriter,
    tokenizer: Tokenizer,
    pieces: Slices,
    tags: np.ndarray,
    counts: Sequence[int],
    index: int,
    room: int,
) -> None:
    """Rows of sentences that have `counts` words; a word's place is its number in its sentence."""
    template, first_word, rows = tokenizer.template, 0, []
    for sentence, count in enumerate(counts):
        parts = word_chunks(pieces.length[first_word : first_word + count], room)
        if len(parts) > 1:
            out.tally["sentences cut in chunks and rejoined"] += 1
        rows += [(sentence, first_word + first, first_word + last) for first, last in parts]
        first_word += count
    sentence_of, first, last = np.asarray(rows, np.int64).T
    ends = np.append(0, np.cumsum(pieces.length))
    text = Slices(pieces.flat[pieces.positions], ends[first], ends[last] - ends[first])
    laid = lay_out([template.prefix, text, template.single_suffix], len(rows))
    # Where each word's first piece stands: after its row's prefix and the pieces of the words before it.
    heads = np.repeat(laid.begins[1] - text.first, last - first) + ends[:-1]
    token_label = np.full(len(laid.ids), -1, np.int32)
    word_number = np.full((len(laid.ids), 2), -1, np.int32)
    token_label[heads] = tags
    # Counted from each sentence's first word, so that chunks of one sentence can be rejoined.
    word_number[heads, 0] = np.arange(len(tags)) - np.repeat(np.cumsum(counts) - counts, counts)
    word_number[heads, 1] = 0  # the column that questions have the end of a token in
    out.append(laid.ids, laid.lengths, laid.lengths, index + sentence_of, token_label=token_label, place=word_number)


def word_chunks(sizes: np.ndarray, room: int) -> list[tuple[int, int]]:
    """Cut a sentence between words so that each chunk's pieces fit; (first word, word after the last)."""
    if int(sizes.sum()) <= room:
        return [(0, len(sizes))]
    chunks, first, used = [], 0, 0
    for word, size in enumerate(sizes.tolist()):
        if used + size > room:
            chunks.append((first, word))
            first, used = word, 0
        used += size
    return [*chunks, (first, len(sizes))]


def target_count(rows: Rows, item: int, mlm_probability: float) -> int:
    """Words of the chunk that have a tag."""
    return len(_labelled(rows, int(rows.items[item]))[0])


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """Words without a tag in the label list are not learnt from."""
    places, labels = _labelled(rows, int(rows.items[item]))
    return ItemTargets(places + starts[0], labels)


def _labelled(rows: Rows, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Places in a row that have a tag, and their tags."""
    assert rows.token_label is not None
    labels = rows.token_label[rows.starts[row] : rows.starts[row + 1]]
    places = np.flatnonzero(labels >= 0)
    return places, labels[places]


def reads(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> np.ndarray:
    """The first token of every word of the chunk, tagged or not."""
    return _first_tokens(rows, int(rows.items[item])) + starts[0]


def left_targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """The same where a model reads from left to right: a word's last token has seen all of the word."""
    assert rows.token_label is not None
    row = int(rows.items[item])
    first = _first_tokens(rows, row)
    labels = rows.token_label[int(rows.starts[row]) + first]
    last = _last_tokens(rows, row, first, masking)
    return ItemTargets(last[labels >= 0] + starts[0], labels[labels >= 0])


def left_reads(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> np.ndarray:
    """The last token of every word of the chunk, tagged or not."""
    row = int(rows.items[item])
    return _last_tokens(rows, row, _first_tokens(rows, row), masking) + starts[0]


def _first_tokens(rows: Rows, row: int) -> np.ndarray:
    """The place in a row of each word's first token."""
    assert rows.place is not None
    word_of = rows.place[rows.starts[row] : rows.starts[row + 1], 0]
    return np.flatnonzero(word_of >= 0)


def _last_tokens(rows: Rows, row: int, first: np.ndarray, masking: Masking) -> np.ndarray:
    """The place in a row of each word's last token: before the next word begins, or the special tokens at the end."""
    end = int(rows.row_lengths[row]) - len(masking.tokenizer.template.single_suffix)
    return np.append(first[1:], end) - 1


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """A projection, with biases."""
    return hidden * labels + labels
