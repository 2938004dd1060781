"""Meanings: an event is who does what to whom, where and when. Sentences of every language are rendered from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.lexicon import (
    AFFINITY,
    ATTRIBUTES,
    CATEGORIES,
    FIRST_NAMES,
    ORG_NAMES,
    ORG_VERBS,
    PLACE_NAMES,
    PLACES,
    SOCIAL_VERBS,
    SURNAMES,
    TIMES,
    VERBS,
)

MODIFIERS: tuple[str, ...] = ("agent_attribute", "patient_attribute", "number", "place", "time")


@dataclass(frozen=True)
class Event:
    """One fact. Entities are concepts (`dog`) or names (`PER:Mira Tolan`); the modifiers may be absent."""

    agent: str
    verb: str
    patient: str
    tense: str
    agent_attribute: str | None = None
    patient_attribute: str | None = None
    number: str | None = None
    place: str | None = None
    time: str | None = None
    negated: bool = False

    def without(self, *modifiers: str) -> Event:
        # Not `dataclasses.replace`, which looks each field up again: a world takes 200,000 of these.
        return Event(**{**vars(self), **dict.fromkeys(modifiers)})

    def modifiers(self) -> list[str]:
        return [slot for slot in MODIFIERS if getattr(self, slot) is not None]


def is_name(entity: str) -> bool:
    return ":" in entity


def person(dice: Dice) -> str:
    """Return a person's name, sometimes with a surname."""
    name = dice.pick(FIRST_NAMES)
    return f"PER:{name} {dice.pick(SURNAMES)}" if dice.chance(30) else f"PER:{name}"


def place(dice: Dice) -> str:
    return f"LOC:{dice.pick(PLACE_NAMES)}" if dice.chance(50) else dice.pick(PLACES)


def _agent(dice: Dice, verb: str) -> str:
    if verb in ORG_VERBS and dice.chance(30):
        return f"ORG:{dice.pick(ORG_NAMES)}"
    return person(dice) if dice.chance(60) else dice.pick(CATEGORIES["person"])


def _patient(dice: Dice, verb: str) -> str:
    if verb in SOCIAL_VERBS and dice.chance(35):
        return person(dice)
    return dice.pick(CATEGORIES[dice.pick(AFFINITY[verb])])


def event(dice: Dice, density: int = 50, verb: str | None = None) -> Event:
    """Draw an event; each modifier that fits is present with `density` percent. Names take no attribute or number."""
    verb = verb or dice.pick(VERBS)
    agent, patient = _agent(dice, verb), _patient(dice, verb)
    # Nobody does something to themselves: no language here has a reflexive.
    while patient == agent:
        patient = _patient(dice, verb)
    time = dice.pick(tuple(TIMES))
    # Everything is drawn, then some of it dropped: the density shifts nothing in the stream before it.
    full = Event(
        agent,
        verb,
        patient,
        TIMES[time],  # the tense stays when the time is dropped
        None if is_name(agent) else dice.pick(ATTRIBUTES),
        None if is_name(patient) else dice.pick(ATTRIBUTES),
        None if is_name(patient) else str(2 + dice.below(8)),  # one digit, and never 1: a number takes the plural
        place(dice),
        time,
    )
    return full.without(*[slot for slot in MODIFIERS if not dice.chance(density)])


def social_event(dice: Dice, density: int = 60) -> Event:
    """Draw an event between two different persons, so that their roles can be swapped."""
    drawn = event(dice, density, dice.pick(SOCIAL_VERBS))
    agent, patient = dice.sample(CATEGORIES["person"], 2)
    first, second = dice.sample(FIRST_NAMES, 2)
    # Two names, a name and a common noun, or two common nouns.
    names = dice.below(3)
    agent = agent if names == 2 else f"PER:{first}"
    patient = patient if names else f"PER:{second}"
    drawn = replace(drawn, agent=agent, patient=patient)
    # Without what belongs to one of the two, which would stay behind when they swap roles.
    drawn = drawn.without("agent_attribute", "patient_attribute", "number")
    # At least one adverb, since paraphrases differ in where it stands.
    return drawn if drawn.modifiers() else replace(drawn, place=place(dice))
