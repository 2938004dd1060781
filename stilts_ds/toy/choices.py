"""Multiple choice by knowledge of the world: what is done to what, and what follows what."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.lexicon import AFFINITY, CATEGORIES, FOLLOWS, HYPERNYM, NOUNS, VERBS
from stilts_ds.toy.meanings import Event, event, is_name

# Done to one kind of thing only, so that one noun of five is right without doubt.
EASY_VERBS = tuple(verb for verb, kinds in AFFINITY.items() if len(kinds) == 1)


@dataclass(frozen=True)
class Continuation:
    """An event and candidates for what comes next; `label` is the index of the plausible one."""

    first: Event
    choices: tuple[Event, ...]
    label: int


@dataclass(frozen=True)
class Pick:
    """An action and candidates for what it is done to; `label` is the index of the plausible one."""

    verb: str
    agent: str
    nouns: tuple[str, ...]
    label: int


def follow_up(first: Event) -> Event:
    """Return what the same agent usually does next with the same thing."""
    return replace(first.without("time", "place", "number"), verb=FOLLOWS[first.verb])


def opening(dice: Dice, density: int = 50) -> Event:
    """Draw an event that something usually follows, done to a common noun."""
    verb = dice.pick(tuple(FOLLOWS))
    drawn = event(dice, density, verb)
    # A name has no kind, so no ending could be wrong of it.
    while is_name(drawn.patient):
        drawn = event(dice, density, verb)
    return drawn


def _implausible(right: Event, dice: Dice) -> Event:
    """Spoil an event: an action that is not done to such a thing, or a thing that the action is not done to."""
    kind = HYPERNYM[right.patient]
    if dice.chance(50):
        return replace(right, verb=dice.pick([verb for verb in VERBS if kind not in AFFINITY[verb]]))
    unfit = [category for category in CATEGORIES if category not in AFFINITY[right.verb]]
    return replace(right, patient=dice.pick(CATEGORIES[dice.pick(unfit)]))


def continuation(dice: Dice, index: int) -> Continuation:
    """Draw a story opening and four endings, the right one at each place in turn."""
    first = opening(dice)
    right = follow_up(first)
    endings: list[Event] = []
    while len(endings) < 3:
        wrong = _implausible(right, dice)
        if wrong not in endings:
            endings.append(wrong)
    endings.insert(index % 4, right)  # by the index, not drawn: every position is right equally often
    return Continuation(first, tuple(endings), index % 4)


def pick(dice: Dice, index: int) -> Pick:
    """Draw an action and five nouns, one of which it is done to, at each place in turn."""
    verb = dice.pick(EASY_VERBS)
    kind = AFFINITY[verb][0]
    wrong = dice.sample([noun for noun in NOUNS if HYPERNYM[noun] != kind], 4)
    wrong.insert(index % 5, dice.pick(CATEGORIES[kind]))
    return Pick(verb, event(dice, verb=verb).agent, tuple(wrong), index % 5)
