"""Korean syllables and their jamo, as the two-set keyboard types them (Unicode 3.12, arithmetic of Hangul)."""

from __future__ import annotations

FIRST, LAST = 0xAC00, 0xD7A3
INITIALS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
FINALS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
SETS = (INITIALS, VOWELS, FINALS)


def is_syllable(cluster: str) -> bool:
    return len(cluster) == 1 and FIRST <= ord(cluster) <= LAST


def split_syllable(syllable: str) -> tuple[str, str, str]:
    """Initial, vowel and final (perhaps empty) of one syllable."""
    # Each initial has 21 vowels with 28 finals each (the empty one among them): 588 syllables.
    number = ord(syllable) - FIRST
    return INITIALS[number // 588], VOWELS[number % 588 // 28], FINALS[number % 28]


def join_syllable(initial: str, vowel: str, final: str) -> str:
    number = (INITIALS.index(initial) * 21 + VOWELS.index(vowel)) * 28 + FINALS.index(final)
    return chr(FIRST + number)


def exchanged(syllable: str, position: int, jamo: str) -> str:
    """The syllable with another jamo at `place` (0 initial, 1 vowel, 2 final); itself where none can stand there."""
    parts = list(split_syllable(syllable))
    if jamo not in SETS[position]:
        return syllable
    parts[position] = jamo
    return join_syllable(*parts)
