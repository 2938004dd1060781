"""English sentences of running text, for the answer sentences that SQuAD does not mark.

A full stop, question mark or exclamation mark ends a sentence where what follows begins one: white space, then a
capital, a digit or an opening quotation mark. Abbreviations, initials and numbers with a stop in them do not.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words whose full stop seldom ends a sentence: titles, months, ranks, Latin, places, publishing.
ABBREVIATIONS = _words(
    "mr mrs ms dr prof rev fr sr jr st gen col lt capt sgt maj cmdr adm gov sen rep hon pres supt insp "
    "c v vs viz cf eg ie etc al ca approx est fig figs no nos vol vols pp ed eds trans repr op cit ibid seq "
    "jan feb mar apr jun jul aug sept sep oct nov dec mt ft dept univ assn bros inc ltd co corp ave blvd rd ph.d"
)
TITLES = _words("mr mrs ms dr prof rev st gen col lt capt sgt maj")  # which stand before names and end no sentence
# After an abbreviation a sentence ends only where a word follows that often begins one.
BEGINNERS = _words(
    "the a an in on at it its he she they we this that these those there as by for from with after before during "
    "when while although though however but and his her their our some many most several all both each other "
    "according since until nor if one two three to of what who where how why"
)
_END = re.compile(r"""(?P<mark>[.?!]+)(?P<close>["'”’)\]]*)(?:\[\d+\])*(?P<space>\s+)(?=["'“‘(\[]*[A-Z0-9¿¡À-Þ])""")
LONGEST_WORD = 40  # characters in front of a stop that are looked at
_WORD_BEFORE = re.compile(r"([\w.&'-]*)$")
_WORD_AFTER = re.compile(r"""["'“‘(\[]*([\w.'-]+)""")


def sentence_bounds(text: str) -> list[tuple[int, int]]:
    """[start, end) of each sentence in characters. They cover all of `text`: white space belongs to the one before.

    A newline alone ends none: in SQuAD's paragraphs it stands inside formulas."""
    starts = [0]
    for match in _END.finditer(text):
        if _ends_sentence(text, match):
            starts.append(match.end())
    return list(zip(starts, [*starts[1:], len(text)])) if text else []


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a mark with white space and a capital behind it ends a sentence."""
    if match["mark"] != ".":
        return True
    stop = match.start("mark")
    before = _WORD_BEFORE.search(text, max(0, stop - LONGEST_WORD), stop)
    word = before[1] if before else ""
    after = _WORD_AFTER.match(text, match.end())
    following = after[1] if after else ""
    if match["close"]:
        return True
    if _is_abbreviation(word):
        return following.lower() in BEGINNERS and following[:1].isupper() and word.lower() not in TITLES
    return True


def _is_abbreviation(word: str) -> bool:
    """A known one, a single capital (an initial) or letters with stops between them."""
    initial = len(word) == 1 and word.isalpha() and word.isupper()
    lettered = re.fullmatch(r"(?:[A-Za-z]\.)+[A-Za-z]", word) is not None
    return initial or lettered or word.lower() in ABBREVIATIONS
