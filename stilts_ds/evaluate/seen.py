"""What of a scored example a model has met in its target's training data: all of it, or some of its words.

Examples are compared as `stilts_ds.data.duplicates` compares them. Words are compared without case; where no spaces
stand between words, few are the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.data.duplicates import digest_of
from stilts_ds.data.split import Split
from stilts_ds.families.base import Family

SEEN, WORDS = "seen in training", "words of 100 seen in training"
AROUND_WORDS = ".,;:!?\"'()[]{}«»“”„‘’…-–—。、，؟۔।"


@dataclass(frozen=True)
class Training:
    """The digests of a train split's examples, and its words."""

    digests: frozenset[int]
    words: frozenset[str]

    @classmethod
    def of(cls, split: Split) -> Training:
        """Reads the whole split; nothing for families whose examples have no texts."""
        texts = split.family.texts
        digests: set[int] = set()
        words: set[str] = set()
        if texts is None:
            return cls(frozenset(), frozenset())
        # Record by record: of a large train split only digests and words stay in memory.
        for record in split.stream():
            texts_of_record = texts(record)
            digests.add(digest_of(texts_of_record))
            words.update(_words(split.family, record, texts_of_record))
        return cls(frozenset(digests), frozenset(words))

    def attributes(self, family: Family, records: Sequence[Any]) -> dict[str, list[float]]:
        """1 for each record that was trained on and 0 for the others, and the share of its words that training has."""
        seen: list[float] = []
        shares: list[float] = []
        for record in records:
            texts = family.texts(record) if family.texts is not None else ()
            words = list(_words(family, record, texts))
            known = sum(word in self.words for word in words)
            seen.append(float(digest_of(texts) in self.digests))
            # Rounded: buckets need no more digits, and the file holds a number for each example.
            shares.append(round(100 * known / max(1, len(words)), 3))
        return {SEEN: seen, WORDS: shares}


def _words(family: Family, record: Any, texts: Iterable[str]) -> Iterator[str]:
    """The words of an example, small and without punctuation around them."""
    given = record.words if family.given_words else [word for text in texts for word in text.split()]
    for word in given:
        # NFKC: full-width letters and ligatures are the same word to a reader.
        bare = unicodedata.normalize("NFKC", word).casefold().strip(AROUND_WORDS)
        if bare:
            yield bare
