"""Which edits an example gets: a function of the noise, the split and the example's id, and of nothing else.

The places of a text stand in one random order, and a higher rate takes more of them from its start: the edits at rate
5 contain those at rate 2, so that a curve over rates is not jagged. Order of the examples, ranks and processes do not
matter.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Protocol

from stilts_ds.errors import UserError
from stilts_ds.noise import hangul
from stilts_ds.noise.clusters import Clusters, Edit, Noised, apply_edits, clusters_of, composed, words_touched
from stilts_ds.noise.keyboards import Keyboard, covered, keyboards, nearest_keyboard
from stilts_ds.noise.kinds import KINDS, UNSPACED, Kind, Letters, Site, Writing
from stilts_ds.noise.scripts import lower, script_of
from stilts_ds.noise.spec import NoiseSpec

# Raised when the same example would get other edits: noisy texts of different versions are not the same test set.
VERSION = 3
# It is part of every draw and stays: a new version changes the texts that it is about, and no others.
SALT = "stilts-ds noise 1"
BETWEEN_TOKENS = "\n"  # no kind edits it, and no token holds it
FEWEST_ON_KEYBOARD = 0.5  # of a text's letters, on a keyboard that is said to be its language's

Spans = Sequence[tuple[int, int]]


class Nowhere(UserError):
    """The kind does not apply to a language: the cell of a table is empty, and neither 0 nor clean."""


class TextNoise(Protocol):
    """What a family may do to a record's texts."""

    @property
    def spec(self) -> NoiseSpec: ...

    def text(self, text: str, example: str, field: str, protected: Spans = ()) -> Noised:
        """The noisy text. `field` names one of several texts of an example; characters in `protected` stay."""

    def tokens(self, tokens: Sequence[str], example: str, protected: Sequence[bool] = ()) -> tuple[str, ...]:
        """As many tokens, none of them empty; those that `protected` marks stay."""


@dataclass
class Tally:
    """What noise did to the texts of one split; `words` is 0 where no spaces stand between words."""

    letters: int = 0
    edits: int = 0
    words: int = 0
    words_touched: int = 0

    @property
    def edits_per_100_letters(self) -> float:
        return 100 * self.edits / max(1, self.letters)

    @property
    def words_touched_percent(self) -> float | None:
        return 100 * self.words_touched / self.words if self.words else None

    def add(self, text: Clusters, edits: Sequence[Edit], spaced: bool) -> None:
        self.letters += len(text.letters)
        self.edits += len(edits)
        if not spaced:
            return
        self.words += len(text.words)
        self.words_touched += words_touched(text, edits)


@dataclass
class NoisedText:
    """A text while it is edited: `wanted` edits, tried at the places in `order`."""

    text: Clusters
    key: str  # what is drawn at a place depends on it and the place
    kind: Kind
    writing: Writing
    tokens: bool
    wanted: int
    order: list[int]
    taken: set[int]  # clusters that were edited or are protected
    letters_left: list[int]  # of each word
    edits: list[Edit] = field(default_factory=list)

    def edit_at(self, position: int) -> Edit | None:
        """The edit that is drawn at a place; None where there can be none beside those that were made."""
        if position in self.taken:
            return None
        dice = random.Random(f"{self.key} {position}")
        site = Site(self.text, position, self.writing, dice, self.taken, self.letters_left, self.tokens)
        edit = self.kind.edit(site)
        if edit is None or not self.taken.isdisjoint(range(edit.first, edit.last)):
            return None
        return edit

    def make(self, edit: Edit) -> None:
        self.edits.append(edit)
        self.taken.update(range(edit.first, edit.last))
        if not edit.text:
            self.letters_left[self.text.word_of[edit.first]] -= 1


@dataclass
class Noiser:
    """Noise of one split: `where` names task, split and language."""

    spec: NoiseSpec
    writing: Writing
    where: str
    tally: Tally = field(default_factory=Tally)
    _last: tuple[tuple[str, str, str], Noised] = (("", "", ""), Noised("", ()))

    @property
    def kind(self) -> Kind:
        return KINDS[self.spec.kind]

    def text(self, text: str, example: str, field: str, protected: Spans = ()) -> Noised:
        asked = (text, example, field)
        if asked == self._last[0]:  # questions about one passage stand one after the other
            return self._last[1]
        clusters = Clusters(text)
        edits = self._edits(clusters, f"{example} {field}", protected, tokens=False)
        made = apply_edits(clusters, edits)
        # Keyed by itself: a text that several examples share, and that is asked for again by each of them.
        if example == text:
            self._last = (asked, made)
        return made

    def tokens(self, tokens: Sequence[str], example: str, protected: Sequence[bool] = ()) -> tuple[str, ...]:
        if not self.kind.in_tokens:
            raise Nowhere(
                f"{self.where}: {self.spec.kind} noise would change which words there are, and each has a tag"
            )
        spans: list[tuple[int, int]] = []
        start = 0
        for number, token in enumerate(tokens):
            if number < len(protected) and protected[number]:
                spans.append((start, start + len(token)))
            start += len(token) + len(BETWEEN_TOKENS)
        clusters = Clusters(BETWEEN_TOKENS.join(tokens))
        edits = self._edits(clusters, f"{example} words", spans, tokens=True)
        noisy = tuple(apply_edits(clusters, edits).text.split(BETWEEN_TOKENS))
        assert len(noisy) == len(tokens) and all(noisy)
        return noisy

    def begin(self, text: Clusters, name: str, protected: Spans, tokens: bool) -> NoisedText:
        """A text before its first edit: how many it gets, and the order of the places where they are tried."""
        # `random.Random` gives the same numbers for the same text in every version of Python.
        key = f"{SALT} {self.spec.kind} {self.spec.draw} {self.where} {name}"
        dice = random.Random(key)
        places = text.letters if self.kind.unit == "letter" else [first for first, _ in text.words]
        # Rounded at random, and by the same number at every rate: a short text gets its share of errors, too.
        wanted = int(self.spec.rate * len(places) / 100 + dice.random())
        ranks = {position: dice.random() for position in places}
        taken = {position for start, end in protected for position in text.inside(start, end)}
        left = [sum(text.is_letter[first:last]) for first, last in text.words]
        order = sorted(places, key=ranks.__getitem__)
        return NoisedText(text, key, self.kind, self.writing, tokens, wanted, order, taken, left)

    def _edits(self, text: Clusters, name: str, protected: Spans, tokens: bool) -> list[Edit]:
        """The edits of one text, in the order in which they were drawn."""
        draft = self.begin(text, name, protected, tokens)
        for position in draft.order:
            if len(draft.edits) == draft.wanted:
                break
            edit = draft.edit_at(position)
            if edit is not None:
                draft.make(edit)
        self.tally.add(text, draft.edits, self.writing.script not in UNSPACED)
        return draft.edits


@dataclass
class Recorder:
    """Stands in for a Noiser and notes each text as it was and as it is."""

    noiser: Noiser
    texts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def spec(self) -> NoiseSpec:
        return self.noiser.spec

    def text(self, text: str, example: str, field: str, protected: Spans = ()) -> Noised:
        made = self.noiser.text(text, example, field, protected)
        self.texts.append((text, made.text))
        return made

    def tokens(self, tokens: Sequence[str], example: str, protected: Sequence[bool] = ()) -> tuple[str, ...]:
        made = self.noiser.tokens(tokens, example, protected)
        self.texts.append((" ".join(tokens), " ".join(made)))
        return made


@dataclass
class Collector:
    """Stands where a Noiser will, changes nothing, and counts the letters that would be at risk."""

    spec: NoiseSpec
    clusters: Counter[str] = field(default_factory=Counter)

    def text(self, text: str, example: str, field: str, protected: Spans = ()) -> Noised:
        self.clusters.update(composed(cluster) for cluster in clusters_of(text) if cluster[0].isalpha())
        return Noised(text, ())

    def tokens(self, tokens: Sequence[str], example: str, protected: Sequence[bool] = ()) -> tuple[str, ...]:
        self.text(BETWEEN_TOKENS.join(tokens), example, "")
        return tuple(tokens)


# --- how a language is written ----------------------------------------------------------------------------------------


def empty_cell(spec: NoiseSpec, language: str) -> str:
    """Why noise of this kind does not apply to a language of the keyboard table; "" where it does, or is not known."""
    keyboard = keyboards().get(language)
    if keyboard is None:
        return ""
    return KINDS[spec.kind].empty(Writing(language, keyboard.script, keyboard.neighbours))


def make_noiser(
    collected: Collector,
    language: str,
    where: str,
    words: Mapping[str, Sequence[str]],
    own_keyboard: Keyboard | None = None,
) -> Noiser:
    """The noise of one split, whose letters were collected before.

    Raises Nowhere where the kind does not apply to the language, and UserError for a keyboard of other letters.
    """
    spec, clusters = collected.spec, collected.clusters
    writing = _writing(clusters, language, own_keyboard, where)
    reason = KINDS[spec.kind].empty(writing)
    if reason:
        raise Nowhere(f"{where}: {spec.kind} noise does not apply: {reason}")
    return Noiser(spec, replace(writing, letters=_letters(clusters), words=words), where)


def _letters(clusters: Counter[str]) -> dict[str, Letters]:
    by_script: defaultdict[str, list[str]] = defaultdict(list)
    for cluster in sorted(clusters):
        by_script[script_of(cluster[0])].append(cluster)
    return {
        script: Letters(known, list(accumulate(clusters[cluster] for cluster in known)))
        for script, known in by_script.items()
    }


def _writing(clusters: Counter[str], language: str, own_keyboard: Keyboard | None, where: str) -> Writing:
    keys = _typed(clusters, language)
    keyboard = own_keyboard or keyboards().get(language) or nearest_keyboard(keys)
    share = covered(keyboard.neighbours, keys)
    if own_keyboard is not None and share < FEWEST_ON_KEYBOARD:
        raise UserError(
            f"{where}: the keyboard for {language!r} has only {share:.0%} of the letters of the texts; "
            "give the keyboard of the language that they are written in"
        )
    script = keyboard.script
    if own_keyboard is None and language not in keyboards():
        # A language that the table has not: its script is read off its texts.
        by_script = Counter[str]()
        for cluster, times in clusters.items():
            by_script[script_of(cluster[0])] += times
        script = max(by_script, key=lambda name: (by_script[name], name), default="")
        # The nearest keyboard types another script, so none is known.
        if script != keyboard.script:
            return Writing(language, script)
    if not keyboard.neighbours:
        return Writing(language, script)
    # Latin words stand in the texts of every language, and are typed on Latin keys.
    return Writing(language, script, {**keyboards()["en"].neighbours, **keyboard.neighbours})


def _typed(clusters: Counter[str], language: str) -> Counter[str]:
    """Letters as they are typed: small, without marks, and syllables by their first jamo."""
    keys = Counter[str]()
    for cluster, times in clusters.items():
        if hangul.is_syllable(cluster):
            keys[hangul.split_syllable(cluster)[0]] += times
            continue
        small = lower(cluster[0], language)
        keys[unicodedata.normalize("NFD", small)[0]] += times
    return keys
