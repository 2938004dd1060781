"""The artificial languages: word order, affixes, and a word for every concept. Codes are ISO 639 private-use ones.

The languages never change (their words are drawn from a fixed seed), because the pretrained checkpoint knows them;
a world's own seed only chooses what is said. They share names, digits and punctuation, nothing else; `qac` is written
in Greek letters.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.lexicon import CONCEPTS

LEXICON_SEED = 20200526  # never to be changed: the pretrained checkpoint knows the words that come of it


@dataclass(frozen=True)
class ToyLanguage:
    """How a language builds a sentence. Affixes are (side, text); `order` is a permutation of S, V and O."""

    code: str
    order: str
    attribute_first: bool
    prepositions: bool
    adverbs_first: bool
    negation_first: bool
    object_marker: bool
    plural: tuple[str, str]
    past: tuple[str, str]
    future: tuple[str, str]
    onsets: tuple[str, ...]
    vowels: tuple[str, ...]


PROFILES: dict[str, ToyLanguage] = {
    language.code: language
    for language in (
        ToyLanguage(
            "qaa", "SVO", True, True, False, True, False,
            ("suffix", "um"), ("suffix", "ed"), ("prefix", "la"),
            ("b", "d", "g", "k", "l", "m", "n", "kl", "gr"), ("a", "e", "o"),
        ),
        ToyLanguage(
            "qab", "SOV", True, False, True, False, True,
            ("suffix", "ri"), ("suffix", "tu"), ("suffix", "zi"),
            ("p", "t", "s", "r", "v", "z", "st", "pr"), ("i", "u", "a"),
        ),
        ToyLanguage(
            "qac", "VSO", False, True, False, True, False,
            ("prefix", "οι"), ("prefix", "ε"), ("suffix", "ω"),
            ("π", "τ", "κ", "λ", "μ", "ν", "σ", "ρ", "θ"), ("α", "ο", "η", "υ"),
        ),
        ToyLanguage(
            "qad", "SVO", False, True, True, True, True,
            ("suffix", "eth"), ("prefix", "sha"), ("prefix", "chi"),
            ("ch", "sh", "th", "zh", "dr", "v", "j"), ("ai", "ou", "ei", "y"),
        ),
    )
}  # fmt: skip
LANGUAGES: tuple[str, ...] = tuple(PROFILES)
PIVOT = "qaa"
# Anything that plays a part in every language's alphabet is a name, a digit or one of these.
PUNCTUATION = ".?"


@functools.cache
def words(code: str) -> dict[str, str]:
    """Return the word of every concept: two or three syllables, no two alike."""
    language = PROFILES[code]
    dice = Dice(LEXICON_SEED, code)
    # From word to concept, since it is words that may not come twice.
    lexicon: dict[str, str] = {}
    while len(lexicon) < len(CONCEPTS):
        syllables = 2 + dice.chance(30)
        word = "".join(dice.pick(language.onsets) + dice.pick(language.vowels) for _ in range(syllables))
        if word not in lexicon:
            lexicon[word] = CONCEPTS[len(lexicon)]
    return {concept: word for word, concept in lexicon.items()}


def inflect(word: str, affix: tuple[str, str]) -> str:
    side, text = affix
    return text + word if side == "prefix" else word + text
