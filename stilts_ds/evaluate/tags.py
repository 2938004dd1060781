"""Tags of a sentence from the chunks it was cut into: one tag per word, no word lost (paper, Scoring)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from stilts_ds.errors import UserError

Chunk = tuple[NDArray[np.integer], NDArray[np.integer]]


def rejoin(n_words: int, chunks: Iterable[Chunk]) -> NDArray[np.int64]:
    """Return [n_words] tag ids from chunks of (word index [L], tag id [L]).

    A word index is a word's position in the sentence at the word's first token and -1 at every other token. Raises
    UserError for a word that no chunk covers, and for one that is covered twice or does not exist.
    """
    tags = np.zeros(n_words, dtype=np.int64)
    times = np.zeros(n_words, dtype=np.int64)
    for word_index, tag_ids in chunks:
        if np.shape(word_index) != np.shape(tag_ids):
            raise UserError(f"a chunk has {len(word_index)} tokens but {len(tag_ids)} tags; encode the task again")
        first = word_index >= 0
        words = word_index[first]
        if words.size and words.max() >= n_words:
            raise UserError(f"a chunk tags word {words.max()} of a sentence of {n_words} words; encode the task again")
        tags[words] = tag_ids[first]
        np.add.at(times, words, 1)
    if (times != 1).any():
        word = int(np.argmax(times != 1))
        raise UserError(f"word {word} of {n_words} has {times[word]} tags instead of one; encode the task again")
    return tags
