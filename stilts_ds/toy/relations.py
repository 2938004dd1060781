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
    changes = [_deny]
    if full.verb in ANTONYM:
        changes.append(_opposite_verb)
    if full.patient_attribute:
        changes.append(_opposite_attribute)
    if full.number:
        changes.append(_other_number)
    changed = dice.pick(changes)(full, dice)
    droppable = [slot for slot in full.modifiers() if getattr(full, slot) == getattr(changed, slot)]
    less = changed.without(*dice.sample(droppable, min(1, len(droppable))))
    return (changed, replace(less, negated=False)) if changed.negated and dice.chance(50) else (full, less)


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
    wording = dice.below(VARIANTS)
    other = wording ^ (MOVED | dice.below(2) * SYNONYM)
    return Relation(first, second, (wording, other), str(index % 2))


def _confusable(first: Event, dice: Dice) -> Event:
    """Swap the roles (every word stays), or put one or two other participants or places."""
    if dice.chance(30):
        return roles_swapped(first)
    for part in dice.sample(PARTS, 1 + dice.below(2)):
        first = _different(first, part, dice)
    return first


PARTS = ("agent", "patient", "place")
ASKABLE = (*PARTS, "time")


def question_pair(dice: Dice, index: int) -> tuple[Relation, str]:
    """Draw two questions and the slot both ask for: of the same event, or of one that differs in one thing."""
    drawn = paraphrase(dice, index) if dice.chance(50) else _plain_pair(dice, index)
    return drawn, dice.pick([slot for slot in ASKABLE if getattr(drawn.first, slot) == getattr(drawn.second, slot)])


def _plain_pair(dice: Dice, index: int) -> Relation:
    """Two questions about one event, or about two that have little but the action in common."""
    first = event(dice, density=60)
    second = first
    if index % 2 == 0:
        for part in dice.sample(PARTS, 2 + dice.below(2)):
            second = _different(second, part, dice)
    return Relation(first, second, (dice.below(VARIANTS), dice.below(VARIANTS)), str(index % 2))


def _different(first: Event, slot: str, dice: Dice) -> Event:
    """Replace one part by that of another event with the same action, so that the new part is plausible too."""
    other = event(dice, density=100, verb=first.verb)
    while getattr(other, slot) in (first.agent, first.patient, first.place):
        other = event(dice, density=100, verb=first.verb)
    changed: dict[str, Any] = {slot: getattr(other, slot)}
    return replace(first, **changed)
