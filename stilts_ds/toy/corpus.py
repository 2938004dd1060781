"""The running text for masked language modelling: short stories, and sentences followed by their translation.

Honesty note: a tiny model sees far too little text to align languages by itself, as XLM-R does, so a share of the lines
(`BILINGUAL`) is a sentence with its translation, the input of XLM's translation language modelling. The text never
shows a task: no questions, labels, tags or inference pairs, only stories and translations.
"""

from __future__ import annotations

from stilts_ds.toy.choices import follow_up, opening
from stilts_ds.toy.dice import Dice
from stilts_ds.toy.languages import LANGUAGES, PIVOT
from stilts_ds.toy.meanings import event
from stilts_ds.toy.render import VARIANTS, text

BILINGUAL = 50


def story(dice: Dice, code: str) -> str:
    """Two or three sentences: an event, often what follows it, or another event, or the first one told again."""
    if dice.chance(40):
        first = opening(dice)
        events = [first, follow_up(first)]
    else:
        first = event(dice)
        events = [first, event(dice)]
    if dice.chance(50):
        told_again = dice.pick(events)
        events.append(told_again.without(*[slot for slot in told_again.modifiers() if dice.chance(30)]))
    return " ".join(text(one, code, dice.below(VARIANTS)) for one in events)


def translation(dice: Dice, code: str) -> str:
    """One sentence in two languages, in either order, worded freely on each side."""
    others = [other for other in LANGUAGES if other != code]
    other = dice.pick(others) if code == PIVOT or dice.chance(40) else PIVOT
    meaning = event(dice, density=60)
    return " ".join(text(meaning, one, dice.below(VARIANTS)) for one in dice.shuffled([code, other]))


def lines(dice: Dice, code: str, count: int) -> list[str]:
    return [translation(dice, code) if dice.chance(BILINGUAL) else story(dice, code) for _ in range(count)]
