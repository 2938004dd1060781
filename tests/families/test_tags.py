"""Chunk and rejoin: any sentence length, any window, no word lost."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stilts_ds.errors import UserError
from stilts_ds.families.tag.predictions import Chunk, rejoin


def cut(pieces: list[int], window: int) -> list[list[int]]:
    """A toy chunker: word indices of each chunk's tokens, cut between words, specials at both ends."""
    chunks, current = [], [-1]
    for word, count in enumerate(pieces):
        if len(current) > 1 and len(current) + count + 1 > window:
            chunks.append([*current, -1])
            current = [-1]
        current += [word] + [-1] * (count - 1)
    return [*chunks, [*current, -1]]


@given(st.lists(st.integers(1, 6), max_size=60), st.integers(3, 20), st.randoms(use_true_random=False))
def test_no_word_is_lost(pieces: list[int], window: int, random: Random) -> None:
    tags = [random.randint(0, 40) for _ in pieces]
    chunks: list[Chunk] = []
    for words in cut(pieces, window):
        index = np.array(words, dtype=np.int32)
        chunks.append((index, np.array([tags[w] if w >= 0 else 99 for w in words])))
    random.shuffle(chunks)
    assert rejoin(len(pieces), chunks).tolist() == tags


def chunk(*words: int) -> Chunk:
    return np.array(words, dtype=np.int32), np.zeros(len(words), dtype=np.int64)


@pytest.mark.parametrize(
    "chunks, message",
    [
        ([chunk(-1, 0, -1), chunk(-1, 2, -1)], "word 1 of 3 has 0 tags"),
        ([chunk(0, 1), chunk(1, 2)], "word 1 of 3 has 2 tags"),
        ([chunk(0, 1, 2, 3)], "tags word 3 of a sentence of 3 words"),
        ([(np.array([0, 1, 2]), np.array([1, 1]))], "3 tokens but 2 tags"),
        ([], "word 0 of 3 has 0 tags"),
    ],
)
def test_faults(chunks: list[Chunk], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rejoin(3, chunks)


def test_no_words() -> None:
    assert rejoin(0, [chunk(-1, -1)]).shape == (0,)
