"""Reading comprehension: a few facts, and a question that only one of them answers."""

from __future__ import annotations

from dataclasses import dataclass

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.meanings import Event, event
from stilts_ds.toy.render import VARIANTS, lay_out, sentence, text

FACTS = 3
ASKED = ("agent", "patient", "place", "time", "number")


@dataclass(frozen=True)
class Reading:
    """Facts, the event that is asked about (`facts[index]`, or for an impossible question one that is not there)."""

    facts: tuple[Event, ...]
    variants: tuple[int, ...]
    about: Event
    index: int
    asked: str
    impossible: bool = False


@dataclass(frozen=True)
class Passage:
    """A reading in one language; `start` is the answer's character offset in `context` (-1: no answer)."""

    context: str
    question: str
    answer: str
    start: int


def _distinct_facts(dice: Dice, count: int) -> list[Event]:
    """Draw events that share no agent, patient or place, so that a question fits only one of them."""
    facts: list[Event] = []
    taken: set[str] = set()
    while len(facts) < count:
        drawn = event(dice, density=85)
        # The first name alone: `PER:Mira Tolan` and `PER:Mira` may be one person to a reader.
        participants = {drawn.agent.split()[0], drawn.patient.split()[0], str(drawn.place)}
        # A place and a time in each, or where and when could be asked of few.
        if not participants & taken and drawn.place and drawn.time:
            facts.append(drawn)
            taken |= participants
    return facts


def reading(dice: Dice, index: int, impossible: bool = False) -> Reading:
    """Draw a reading. An impossible question is about an event that the context does not tell."""
    # One more than is told: an impossible question is about the spare one, so it fits no fact by accident.
    *facts, spare = _distinct_facts(dice, FACTS + 1)
    position = dice.below(FACTS)
    about = spare if impossible else facts[position]
    possible = [slot for slot in ASKED if getattr(about, slot) is not None]
    variants = tuple(dice.below(VARIANTS) for _ in facts)
    return Reading(tuple(facts), variants, about, position, dice.pick(possible), impossible)


def reading_v2(dice: Dice, index: int) -> Reading:
    """SQuAD 2.0: a third of the questions have no answer."""
    return reading(dice, index, impossible=index % 3 == 0)


def question_event(asked_of: Event, asked: str) -> Event:
    """A question names agent, action and patient only, and the place when one of those is asked for."""
    dropped = {"agent_attribute", "patient_attribute", "number", "place", "time"} - {asked}
    if asked in ("agent", "patient"):
        dropped.discard("place")
    return asked_of.without(*sorted(dropped))


def passage(drawn: Reading, code: str) -> Passage:
    """Render a reading in one language, finding the answer where the fact's slot was written."""
    context, span = "", (0, 0)
    for index, (fact, variant) in enumerate(zip(drawn.facts, drawn.variants)):
        context += " " if context else ""
        tokens = sentence(fact, code, variant)
        rendered, starts = lay_out(tokens)
        if index == drawn.index and not drawn.impossible:
            # The words of a slot stand together, so the answer is from its first to its last.
            answer = [index for index, token in enumerate(tokens) if token.slot == drawn.asked]
            first, last = answer[0], answer[-1]
            end = starts[last] + len(tokens[last].text)
            span = (len(context) + starts[first], len(context) + end)
        context += rendered
    question = text(question_event(drawn.about, drawn.asked), code, asked=drawn.asked)
    if drawn.impossible:
        return Passage(context, question, "", -1)
    return Passage(context, question, context[slice(*span)], span[0])
