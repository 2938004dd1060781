"""A text as grapheme clusters and words, edits of it, and where its places went.

A cluster is a letter with its marks (`\\X` of Unicode's text segmentation): no edit may part them, or a vowel sign
would stand alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import regex

CLUSTER = regex.compile(r"\X")
JOINING = regex.compile(
    r"[^\p{Grapheme_Cluster_Break=Other}\p{Grapheme_Cluster_Break=LV}\p{Grapheme_Cluster_Break=LVT}]"
)
APOSTROPHES = "'’"


@dataclass(frozen=True, slots=True)
class Edit:
    """Clusters `first` to `last` (exclusive) become `text`."""

    first: int
    last: int
    text: str


def clusters_of(text: str) -> list[str]:
    """The grapheme clusters of a text."""
    # Most texts have no character that joins another one, and `\X` is slow.
    return list(text) if JOINING.search(text) is None else CLUSTER.findall(text)


def composed(cluster: str) -> str:
    """A cluster in as few characters as Unicode has for it: й, not и and a breve."""
    whole = unicodedata.normalize("NFC", cluster)
    # Composition takes some letters apart (the Hindi ones with a dot below); these stay as they are.
    return whole if len(whole) < len(cluster) else cluster


class Clusters:
    """The clusters of a text: `parts`, their places in characters, and the word that each letter stands in.

    A word is a run of letters, with apostrophes between them; `word_of` is -1 outside of words. `words` are ranges of
    clusters, `letters` the clusters that stand on a letter.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.parts = clusters_of(text)
        self.starts: list[int] = [0]
        for cluster in self.parts:
            self.starts.append(self.starts[-1] + len(cluster))
        self.is_letter = [cluster[0].isalpha() for cluster in self.parts]
        self.letters = [index for index, letter in enumerate(self.is_letter) if letter]
        self.words = self._find_words()
        self.word_of = [-1] * len(self.parts)
        for number, (first, last) in enumerate(self.words):
            self.word_of[first:last] = [number] * (last - first)

    def _find_words(self) -> list[tuple[int, int]]:
        words: list[tuple[int, int]] = []
        first, last = -1, -1  # of the word that grows
        for index in self.letters:
            apart = index - last
            # One apostrophe between two letters joins them: l'homme is one word.
            if apart != 0 and not (apart == 1 and last > 0 and self.parts[last] in APOSTROPHES):
                words.append((first, last))
                first = index
            last = index + 1
        return [*words[1:], (first, last)] if self.letters else []

    def word(self, number: int) -> str:
        first, last = self.words[number]
        return self.text[self.starts[first] : self.starts[last]]

    def inside(self, start: int, end: int) -> range:
        """The clusters that characters `start` to `end` touch."""
        # Touched, not covered: half a cluster cannot be protected.
        touched = [
            index for index in range(len(self.parts)) if self.starts[index] < end and start < self.starts[index + 1]
        ]
        return range(touched[0], touched[-1] + 1) if touched else range(0)


@dataclass(frozen=True)
class Noised:
    """A text after its edits. `changes` are (start, end, new text) in characters of the clean text, in order."""

    text: str
    changes: tuple[tuple[int, int, str], ...]

    def moved(self, offset: int) -> int:
        """Where a character of the clean text stands now. Raises ValueError for one that an edit replaced."""
        shift = 0
        for start, end, new in self.changes:
            if end <= offset:
                shift += len(new) - (end - start)
            elif start < offset:
                raise ValueError(f"character {offset} was replaced")
        return offset + shift


def apply_edits(text: Clusters, edits: Iterable[Edit]) -> Noised:
    """The text with its edits, which must not overlap."""
    changes = sorted((text.starts[edit.first], text.starts[edit.last], edit.text) for edit in edits)
    pieces: list[str] = []
    done = 0
    for start, end, new in changes:
        pieces += [text.text[done:start], new]
        done = end
    return Noised("".join([*pieces, text.text[done:]]), tuple(changes))


def words_touched(text: Clusters, edits: Sequence[Edit]) -> int:
    """In how many words at least one cluster changed."""
    places = (index for edit in edits for index in range(edit.first, edit.last))
    return len({text.word_of[index] for index in places} - {-1})
