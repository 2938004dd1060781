"""The running text for masked language modelling: short stories, some of them bilingual or code-switched.

Honesty note: a tiny model sees far too little text to align languages by itself, as XLM-R does, so this text helps it
in two ways that exist for real languages too but in smaller measure: in a share of the stories the last sentence
retells an earlier one in another language (the input of XLM's translation language modelling), and in another share
words are borrowed from a second language (code-switching). The text never shows a task: no questions, labels, tags or
inference pairs.
"""

from __future__ import annotations

from stilts_ds.toy.choices import follow_up, opening
from stilts_ds.toy.dice import Dice
from stilts_ds.toy.languages import LANGUAGES, PIVOT
from stilts_ds.toy.meanings import Event, event
from stilts_ds.toy.render import VARIANTS, lay_out, sentence

BILINGUAL, SWITCHED = 30, 50  # percent of the stories; the others are in one language
BORROWED = 50  # percent of the words of a switched story


def plot(dice: Dice) -> list[Event]:
    """One or two events, often one and what follows it."""
    if dice.chance(40):
        first = opening(dice)
        return [first, follow_up(first)]
    return [event(dice) for _ in range(1 + dice.below(2))]


def retold(dice: Dice, events: list[Event]) -> Event:
    """One of the events with some of its details."""
    chosen = dice.pick(events)
    return chosen.without(*[slot for slot in chosen.modifiers() if dice.chance(20)])


def worded(dice: Dice, meaning: Event, code: str, guest: str) -> str:
    """Word an event in `code`, each word borrowed from `guest` with the same chance."""

    # Drawn for every word, also where guest and code are one language: the stream is the same for all kinds of story.
    def borrow() -> str:
        return guest if dice.chance(BORROWED) else code

    tokens = sentence(meaning, code, dice.below(VARIANTS), borrow=borrow)
    return lay_out(tokens)[0]


def line(dice: Dice, code: str) -> str:
    """A story of two or three sentences; the last one retells an earlier one."""
    foreign = [language for language in LANGUAGES if language != code]
    # Mostly the pivot: tasks are trained in it, so it is what the other languages have to be aligned with.
    second = dice.pick(foreign) if code == PIVOT or dice.chance(40) else PIVOT
    events = plot(dice)
    kind = dice.below(100)
    guest = second if kind < SWITCHED else code
    last = second if SWITCHED <= kind < SWITCHED + BILINGUAL else code
    sentences = [worded(dice, meaning, code, guest) for meaning in events]
    # A sentence that is told in the second language is told in it alone.
    ending = worded(dice, retold(dice, events), last, guest if last == code else last)
    at_end = dice.chance(70) or last == code
    return " ".join([*sentences, ending] if at_end else [ending, *sentences])


def lines(dice: Dice, code: str, count: int) -> list[str]:
    return [line(dice, code) for _ in range(count)]
