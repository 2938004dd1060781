"""What a letter may become in each script: its case, the letter without its marks.

Facts of Unicode that a language overrides: Turkish and Azerbaijani keep the dot of i apart; й and ї are letters of
their own although NFD splits them, and so are が and the vowel signs of Indic scripts.
"""

from __future__ import annotations

import functools
import re
import unicodedata

import regex

# Scripts whose letters have two cases in use. Georgian has none: `str.upper` gives Mtavruli letters, which nobody
# writes in a sentence.
CASED = frozenset({"Latin", "Greek", "Cyrillic", "Armenian"})
DOTTED_I = frozenset({"tr", "az"})
ABUGIDAS = (
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Tamil", "Telugu", "Malayalam", "Kannada", "Sinhala", "Myanmar",
)  # fmt: skip
NAMES = (
    "Latin", "Greek", "Cyrillic", "Armenian", "Georgian", "Arabic", "Hebrew", *ABUGIDAS, "Khmer", "Lao", "Thai",
    "Ethiopic", "Hangul", "Han", "Hiragana", "Katakana",
)  # fmt: skip
SCRIPT_PATTERNS = {name: regex.compile(rf"\p{{Script={name}}}") for name in NAMES}
# Letters with a stroke, which no normal form takes off.
WITHOUT_STROKE = str.maketrans("đĐłŁøØħĦŧŦı", "dDlLoOhHtTi")
ACUTE = "\u0301"
HARAKAT = frozenset(map(chr, [*range(0x064B, 0x0653), 0x0670]))
NIQQUD = frozenset(map(chr, [*range(0x0591, 0x05BE), 0x05BF, 0x05C1, 0x05C2, 0x05C4, 0x05C5, 0x05C7]))


@functools.cache
def script_of(letter: str) -> str:
    """The Unicode script of a character; empty for one of none of the scripts above (digits, punctuation)."""
    if letter.isascii():
        return "Latin" if letter.isalpha() else ""
    return next((name for name, pattern in SCRIPT_PATTERNS.items() if pattern.match(letter)), "")


VOWEL_NAME = re.compile(r".* LETTER (?:[AEIOU]|VOCALIC |CANDRA |SHORT )")


def is_independent_vowel(letter: str) -> bool:
    """Whether it is a vowel letter of a script whose consonants bear vowel signs: no sign can follow it."""
    return script_of(letter[0]) in ABUGIDAS and VOWEL_NAME.match(unicodedata.name(letter[0], "")) is not None


# --- case ------------------------------------------------------------------------------------------------------------


def upper(cluster: str, language: str) -> str:
    """The capital, which may be longer (ß: SS); the cluster itself in a script without case."""
    if script_of(cluster[0]) not in CASED:
        return cluster
    if language in DOTTED_I:
        cluster = cluster.replace("i", "İ")
    return cluster.upper()


def lower(cluster: str, language: str, ends_word: bool = False) -> str:
    """The small letter; `ends_word` gives the final form of sigma."""
    if script_of(cluster[0]) not in CASED:
        return cluster
    if language in DOTTED_I:
        cluster = cluster.replace("I", "ı").replace("İ", "i")
    elif cluster == "İ":
        return "i"  # str.lower would add a dot above
    small = cluster.lower()
    return "ς" if cluster == "Σ" and ends_word else small


def like_case(cluster: str, model: str, language: str) -> str:
    """`cluster` as a capital where `model` is one."""
    return upper(cluster, language) if model[0].isupper() else cluster


# --- marks -----------------------------------------------------------------------------------------------------------


def without_marks(cluster: str) -> str:
    """A letter without the marks that people leave out; itself where a script's marks carry the word."""
    rule = MARK_RULES.get(script_of(cluster[0]))
    return cluster if rule is None else rule(cluster)


def _latin(cluster: str) -> str:
    """All combining marks from U+0300 to U+036F, and strokes."""
    parts = unicodedata.normalize("NFD", cluster)
    bare = "".join(character for character in parts if not "\u0300" <= character <= "\u036f")
    return unicodedata.normalize("NFC", bare).translate(WITHOUT_STROKE)


def _greek(cluster: str) -> str:
    """The tonos; a dialytika stays, which keeps two vowels apart."""
    parts = unicodedata.normalize("NFD", cluster)
    return unicodedata.normalize("NFC", parts.replace(ACUTE, ""))


def _cyrillic(cluster: str) -> str:
    """ё, and the acute that marks stress; й, ї and ў are letters of their own."""
    composed = unicodedata.normalize("NFC", cluster)
    return composed.replace(ACUTE, "").replace("ё", "е").replace("Ё", "Е")


def _arabic(cluster: str) -> str:
    return "".join(character for character in cluster if character not in HARAKAT)


def _hebrew(cluster: str) -> str:
    return "".join(character for character in cluster if character not in NIQQUD)


MARK_RULES = {"Latin": _latin, "Greek": _greek, "Cyrillic": _cyrillic, "Arabic": _arabic, "Hebrew": _hebrew}
