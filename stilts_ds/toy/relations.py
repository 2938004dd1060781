"""Pairs of sentences whose relation follows from their meanings: inference (NLI) and paraphrase."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.lexicon import ANTONYM, HYPERNYM
from stilts_ds.toy.meanings import Event, event, social_event
from stilts_ds.toy.render import MOVED, SYNONYM, VARIANTS

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Relation:
    """Two meanings, how each is worded (`variants`), and what holds between them."""

    first: Event
    second: Event
    variants: tuple[int, int]
    label: str


def inference(dice: Dice, index: int) -> Relation:
    """Draw premise and hypothesis for each label in turn."""
    label = NLI_LABELS[index % 3]
    make = {"entailment": _entailment, "neutral": _neutral, "contradiction": _contradiction}[label]
    drawn = event(dice, density=55)
    # Two modifiers at least: a neutral pair lacks one on each side.
    while len(drawn.modifiers()) < 2:
        drawn = event(dice, density=55)
    premise, hypothesis = make(drawn, dice)
    return Relation(premise, hypothesis, (dice.below(VARIANTS), dice.below(VARIANTS)), label)


def _entailment(full: Event, dice: Dice) -> tuple[Event, Event]:
    """What holds in full holds with less said, or of a wider kind."""
    less = full.without(*dice.sample(full.modifiers(), 1 + dice.below(2)))
    if full.patient in HYPERNYM and dice.chance(25):
        less = replace(less, patient=HYPERNYM[full.patient])
    return full, less


def _neutral(full: Event, dice: Dice) -> tuple[Event, Event]:
    """The hypothesis adds something the premise leaves open; each side lacks a modifier, so length tells nothing."""
    missing, dropped = dice.sample(full.modifiers(), 2)
    return full.without(missing), full.without(dropped) if dice.chance(70) else full


def _contradiction(full: Event, dice: Dice) -> tuple[Event, Event]:
    """The hypothesis turns one thing the premise says into its opposite, and says less otherwise."""
    # Only what the premise says can be turned; denying it always works.
    changes = [_deny]
    if full.verb in ANTONYM:
        changes.append(_opposite_verb)
    if full.patient_attribute:
        changes.append(_opposite_attribute)
    if full.number:
        changes.append(_other_number)
    changed = dice.pick(changes)(full, dice)
    # What was turned has to stay, or nothing would contradict any more.
    droppable = [slot for slot in full.modifiers() if getattr(full, slot) == getattr(changed, slot)]
    less = changed.without(*dice.sample(droppable, min(1, len(droppable))))
    # Half of the denials stand in the premise: "not" in a hypothesis alone would give the label away.
    if changed.negated and dice.chance(50):
        return changed, replace(less, negated=False)
    return full, less


def _deny(full: Event, dice: Dice) -> Event:
    return replace(full, negated=True)


def _opposite_verb(full: Event, dice: Dice) -> Event:
    return replace(full, verb=ANTONYM[full.verb])


def _opposite_attribute(full: Event, dice: Dice) -> Event:
    return replace(full, patient_attribute=ANTONYM[str(full.patient_attribute)])


def _other_number(full: Event, dice: Dice) -> Event:
    return replace(full, number=dice.pick([digit for digit in "23456789" if digit != full.number]))


def roles_swapped(full: Event) -> Event:
    return replace(full, agent=full.patient, patient=full.agent)


def paraphrase(dice: Dice, index: int) -> Relation:
    """Draw two wordings of one event (label 1), or of two events that share most or all of their words (label 0).

    The adverbs always move, so that an unchanged sentence start tells nothing.
    """
    first = social_event(dice)
    second = first if index % 2 else _confusable(first, dice)
    first_wording = dice.below(VARIANTS)
    second_wording = first_wording ^ (MOVED | dice.below(2) * SYNONYM)
    return Relation(first, second, (first_wording, second_wording), str(index % 2))


def _confusable(first: Event, dice: Dice) -> Event:
    """Swap the roles (every word stays), or put one or two other participants or places."""
    if dice.chance(30):
        return roles_swapped(first)
    for slot in dice.sample(REPLACEABLE, 1 + dice.below(2)):
        first = _different(first, slot, dice)
    return first


REPLACEABLE = ("agent", "patient", "place")
ASKABLE = (*REPLACEABLE, "time")


def question_pair(dice: Dice, index: int) -> tuple[Relation, str]:
    """Draw two questions and the slot both ask for: of the same event, or of one that differs in one thing."""
    drawn = paraphrase(dice, index) if dice.chance(50) else _plain_pair(dice, index)
    # What both have alike is asked for: it is not said, so the questions differ only in what they say.
    alike = [slot for slot in ASKABLE if getattr(drawn.first, slot) == getattr(drawn.second, slot)]
    return drawn, dice.pick(alike)


def _plain_pair(dice: Dice, index: int) -> Relation:
    """Two questions about one event, or about two that have little but the action in common."""
    first = event(dice, density=60)
    second = first
    if index % 2 == 0:
        for slot in dice.sample(REPLACEABLE, 2 + dice.below(2)):
            second = _different(second, slot, dice)
    return Relation(first, second, (dice.below(VARIANTS), dice.below(VARIANTS)), str(index % 2))


def _different(first: Event, slot: str, dice: Dice) -> Event:
    """Fill one slot from another event with the same action, so that the new filler is plausible too."""
    donor = event(dice, density=100, verb=first.verb)
    # Nor what fills another slot of the event: nobody does something to themselves.
    while getattr(donor, slot) in (first.agent, first.patient, first.place):
        donor = event(dice, density=100, verb=first.verb)
    changed: dict[str, Any] = {slot: getattr(donor, slot)}
    return replace(first, **changed)
