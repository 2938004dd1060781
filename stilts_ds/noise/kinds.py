"""The kinds of noise: one function each. It is asked for an edit at one place of a text and may decline.

Edits are one keystroke, letter or word each, so their number is the error rate. What a letter may become is
`scripts.py`'s to say; that no word loses its last letter, that no cluster changes twice and that protected text stays
is ensured here once, by `Site`, for all kinds.
"""

from __future__ import annotations

import random
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal, TypeVar

from stilts_ds.noise import hangul
from stilts_ds.noise.clusters import Clusters, Edit, composed
from stilts_ds.noise.keyboards import Neighbours
from stilts_ds.noise.scripts import (
    CASED,
    MARK_RULES,
    is_independent_vowel,
    like_case,
    lower,
    script_of,
    upper,
    without_marks,
)

T = TypeVar("T")
TRIES = 20  # draws of a letter other than the one that stands there
# Of a hundred keyboard errors, by what happens (MulTypo, cisnlp/multypo).
OPERATIONS = (("delete", 28), ("insert", 15), ("replace", 28), ("swap", 29))
# Scripts whose text has no spaces between words: a dictionary's words cannot be found in it.
UNSPACED = frozenset({"Han", "Kana", "Thai", "Myanmar", "Khmer", "Lao"})


@dataclass(frozen=True)
class Letters:
    """The clusters of one script in a test file, and their running totals: what a stray letter is drawn from."""

    clusters: Sequence[str]
    totals: Sequence[int]

    def pick(self, dice: random.Random, other_than: str) -> str | None:
        """A cluster by its frequency; None where there is no other one."""
        for _ in range(TRIES):
            drawn = self.clusters[bisect_right(self.totals, int(dice.random() * self.totals[-1]))]
            if drawn != other_than:
                return drawn
        return next((cluster for cluster in self.clusters if cluster != other_than), None)


@dataclass(frozen=True)
class Writing:
    """How one language is written: what noise may know of it besides the text.

    `letters` are the clusters of a test file by script, each with its number; `words` what a word may be exchanged for
    (of the kind's own list: translations, misspellings).
    """

    language: str
    script: str
    neighbours: Neighbours = field(default_factory=dict)
    letters: Mapping[str, Letters] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class Site:
    """One place of a text where an edit is wanted: cluster `at`, a letter or the first letter of a word."""

    text: Clusters
    at: int
    writing: Writing
    dice: random.Random
    taken: set[int]  # clusters that were edited or are protected
    letters_left: list[int]  # of each word
    tokens: bool = False  # whether words are given, and must stay as many as they are

    @property
    def cluster(self) -> str:
        """Composed: what the letter is does not depend on how many characters a file writes it with."""
        return composed(self.text.parts[self.at])

    @property
    def word(self) -> int:
        return self.text.word_of[self.at]

    def may_delete(self) -> bool:
        """A word keeps its last letter: it would be gone with its label."""
        return self.letters_left[self.word] > 1

    def partner(self) -> int | None:
        """The next letter of the same word, to be exchanged with this one; None where there is no other one."""
        after = self.at + 1
        inside = after < len(self.text.parts) and self.text.word_of[after] == self.word
        if not inside or after in self.taken or composed(self.text.parts[after]) == self.cluster:
            return None
        return after if self.text.is_letter[after] else None

    def becomes(self, text: str) -> Edit | None:
        """The cluster's edit; None where nothing would change."""
        return None if text == self.cluster else Edit(self.at, self.at + 1, text)

    def swapped(self, after: int) -> Edit:
        return Edit(self.at, after + 1, self.text.parts[after] + self.cluster)


def pick(dice: random.Random, weighted: Sequence[tuple[T, int]]) -> T:
    """One of (value, weight). Written out: `random.choices` is not promised to stay as it is."""
    sums = list(accumulate(weight for _, weight in weighted))
    drawn = dice.random() * sums[-1]
    return next(value for (value, _), reached in zip(weighted, sums) if drawn < reached)


Function = Callable[[Site], "Edit | None"]


@dataclass(frozen=True)
class Kind:
    """A kind of noise. `empty(writing)` says why a language's cell is empty; "" where the kind applies."""

    name: str
    edit: Function
    unit: Literal["letter", "word"]
    empty: Callable[[Writing], str]
    list_name: str = ""  # the folder of word lists that it reads
    in_tokens: bool = True  # whether it leaves given words as many as they are


KINDS: dict[str, Kind] = {}


def always(writing: Writing) -> str:
    return ""


def kind(
    unit: Literal["letter", "word"] = "letter",
    empty: Callable[[Writing], str] = always,
    list_name: str = "",
    in_tokens: bool = True,
) -> Callable[[Function], Function]:
    """Make a function a kind of noise, by its name."""

    def register(function: Function) -> Function:
        name = function.__name__
        KINDS[name] = Kind(name, function, unit, empty, list_name, in_tokens)
        return function

    return register


# --- why a cell is empty ----------------------------------------------------------------------------------------------


def no_keyboard(writing: Writing) -> str:
    return "" if writing.neighbours else "no keyboard types its script directly; ask for char"


def no_case(writing: Writing) -> str:
    return "" if writing.script in CASED else f"{writing.script} letters have no case"


def no_loose_marks(writing: Writing) -> str:
    return "" if writing.script in MARK_RULES else f"the marks of {writing.script} letters carry the word"


def no_spaced_words(writing: Writing) -> str:
    return "no spaces stand between its words" if writing.script in UNSPACED else ""


# --- letters ----------------------------------------------------------------------------------------------------------


@kind(empty=no_keyboard)
def typo(site: Site) -> Edit | None:
    """A slip on the language's keyboard: a key missed, hit too much, hit for its neighbour, or too early."""
    if hangul.is_syllable(site.cluster):
        return _hangul_typo(site)
    hit = _neighbour(site, site.cluster)
    near = None if hit is None else like_case(hit, site.cluster, site.writing.language)
    return _slip(site, near)


@kind()
def char(site: Site) -> Edit | None:
    """The same four slips without a keyboard: the letter that comes in is one of the test file's own."""
    known = site.writing.letters.get(script_of(site.cluster[0]))
    drawn = None if known is None else known.pick(site.dice, site.cluster)
    if drawn is None:
        return _slip(site, None)
    # A whole cluster takes the place of a whole cluster: no mark is left alone.
    return _slip(site, like_case(drawn, site.cluster, site.writing.language), whole=True)


def _slip(site: Site, near: str | None, whole: bool = False) -> Edit | None:
    """One of the four operations. `near` is the letter that comes in (None: no such letter is known).

    An operation that is not possible here gives way to one that is, so that every letter can bear an error.
    """
    operation, after = pick(site.dice, OPERATIONS), site.partner()
    if operation == "swap" and after is not None:
        return site.swapped(after)
    if operation in ("delete", "swap") and site.may_delete():
        return site.becomes("")
    if operation == "insert" or near is None:
        extra = site.cluster if near is None else near  # a key held too long doubles its letter
        return site.becomes(_with_extra(site, extra))
    # The base letter goes and its marks stay, as they do where the wrong key was hit.
    marks = "" if whole else _marks(site.cluster)
    if marks and is_independent_vowel(near):  # it bears no vowel sign: the key was hit beside the right one
        return site.becomes(site.cluster + near)
    return site.becomes(near + marks) or site.becomes(site.cluster + near)


def _with_extra(site: Site, extra: str) -> str:
    after = site.dice.random() < 0.5
    return site.cluster + extra if after else extra + site.cluster


def _marks(cluster: str) -> str:
    """What follows the base letter of a cluster that is not one character (a vowel sign, a conjunct's rest)."""
    return cluster[1:]


def _neighbour(site: Site, cluster: str) -> str | None:
    """A letter on a neighbouring key of the cluster's base letter; None where no key is known."""
    small = lower(cluster[0], site.writing.language)
    base = unicodedata.normalize("NFD", small)[0]
    for letter in (small, base, cluster[0]):
        around = site.writing.neighbours.get(letter)
        if around:
            # A sign that stands for two letters is typed as these (Arabic lam-alif).
            return unicodedata.normalize("NFKC", pick(site.dice, around))
    return None


def _hangul_typo(site: Site) -> Edit | None:
    """The slip happens at one jamo of the syllable; what comes out is whole syllables again."""
    parts = hangul.split_syllable(site.cluster)
    position = site.dice.randrange(3 if parts[2] else 2)
    operation, after = pick(site.dice, OPERATIONS), site.partner()
    if operation == "swap" and after is not None:
        return site.swapped(after)
    if operation == "delete" and parts[2]:
        return site.becomes(hangul.exchanged(site.cluster, 2, ""))
    if operation in ("delete", "swap") and site.may_delete():
        return site.becomes("")
    slipped = _jamo_slip(site, parts[position], position)
    if operation == "insert" or slipped == site.cluster:
        return site.becomes(site.cluster + slipped)
    return site.becomes(slipped)


def _jamo_slip(site: Site, jamo: str, position: int) -> str:
    """The syllable with a neighbouring key's jamo; itself where no neighbour can stand at that place."""
    around = site.writing.neighbours.get(jamo, ())
    fitting = [(neighbour, weight) for neighbour, weight in around if neighbour in hangul.SETS[position]]
    if not fitting:
        return site.cluster
    return hangul.exchanged(site.cluster, position, pick(site.dice, fitting))


@kind(empty=no_case)
def case(site: Site) -> Edit | None:
    """A letter of the other case."""
    language = site.writing.language
    small = _small(site)
    return site.becomes(upper(site.cluster, language) if small == site.cluster else small)


@kind(empty=no_case)
def lowercase(site: Site) -> Edit | None:
    """A capital as a small letter; at rate 100 the whole text."""
    return site.becomes(_small(site))


@kind(empty=no_case)
def uppercase(site: Site) -> Edit | None:
    """A small letter as a capital; at rate 100 the whole text."""
    return site.becomes(upper(site.cluster, site.writing.language))


def _small(site: Site) -> str:
    first, last = site.text.words[site.word]
    ends_word = site.at == last - 1 and site.at > first
    return lower(site.cluster, site.writing.language, ends_word)


@kind(empty=no_loose_marks)
def diacritics(site: Site) -> Edit | None:
    """A letter without its accent or stroke."""
    return site.becomes(without_marks(site.cluster))


@kind(in_tokens=False)
def space(site: Site) -> Edit | None:
    """The space after a word left out, or one put into a word."""
    after = site.at + 1
    if after >= len(site.text.parts) or after in site.taken:
        return None
    if site.text.parts[after] == " ":
        return Edit(site.at, after + 1, site.cluster)
    inside = site.text.word_of[after] == site.word
    return site.becomes(f"{site.cluster} ") if inside else None


# --- words ------------------------------------------------------------------------------------------------------------


@kind(unit="word", empty=no_spaced_words, list_name="dictionaries")
def switch(site: Site) -> Edit | None:
    """A word of another language, out of a dictionary."""
    return _exchanged(site)


@kind(unit="word", empty=no_spaced_words, list_name="misspellings")
def natural(site: Site) -> Edit | None:
    """A misspelling that people really make, out of a list."""
    return _exchanged(site)


@kind(unit="word", empty=no_spaced_words, list_name="synonyms")
def synonym(site: Site) -> Edit | None:
    """The word itself or one of its synonyms, out of a list, all of them equally likely."""
    return _exchanged(site, may_stay=True)


def _exchanged(site: Site, may_stay: bool = False) -> Edit | None:
    first, last = site.text.words[site.word]
    word = unicodedata.normalize("NFC", site.text.word(site.word))  # as word lists are written
    small = "".join(lower(letter, site.writing.language) for letter in word)
    known = site.writing.words.get(word) or site.writing.words.get(small) or ()
    # Where words are given, one with a space in it would be two.
    options = [option for option in known if option != word and not (site.tokens and len(option.split()) > 1)]
    if not options:
        return None
    number = site.dice.randrange(len(options) + may_stay)
    if number == len(options):
        return None
    drawn = options[number]
    new = like_case(drawn[0], word, site.writing.language) + drawn[1:]
    return None if new == word else Edit(first, last, new)
