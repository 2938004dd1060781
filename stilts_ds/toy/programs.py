"""Programs of the miniature world: a story in which somebody gets things, and a function that says how many there are
after it. Writes MBPP in the pivot language and HumanEval-XL's Python in all, in the official schemas.

A model learns on MBPP what becomes of a story's numbers, and then reads the stories of languages for which it has seen
no program. What it writes is executed (stilts_ds.execute), as for the real benchmarks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stilts_ds.toy.dice import Dice
from stilts_ds.toy.languages import LANGUAGES, PIVOT
from stilts_ds.toy.meanings import Event, event, is_name
from stilts_ds.toy.render import VARIANTS, text
from stilts_ds.toy.sources import Source, write_jsonl

VERBS = ("buy", "find")  # with each of them somebody has more than before
EVENTS = 2
# Stories whose two numbers differ by so many are tested, and none of them is trained on. Their sums are 6 to 16 and as
# frequent, so that no program passes the tests of more than one problem in eleven or so without its story.
HELD_OUT = (2, 3)
ARGUMENTS = (1, 0, 12, -5)  # the first one's value stands in the prompt
# MBPP's own ids: 511 to 600 select and 601 to 974 train (Austin et al. 2021, arXiv 2108.07732, section 2).
FIRST_ID, LAST_ID = 511, 974
PROBLEMS = 40  # of each language

Writer = Callable[[Source, Path], None]


@dataclass(frozen=True)
class Story:
    """Events that each bring somebody a number of things."""

    events: tuple[Event, ...]
    variants: tuple[int, ...]

    @property
    def numbers(self) -> list[int]:
        return [int(str(event.number)) for event in self.events]

    def told(self, code: str) -> str:
        return " ".join(text(event, code, variant) for event, variant in zip(self.events, self.variants))

    @property
    def solution(self) -> str:
        # With spaces around each number: it is then the token that it is in the story.
        gains = " + ".join(map(str, self.numbers))
        return f"def f(x):\n    return x + {gains}\n"

    def tests(self, name: str) -> list[str]:
        """What the function called `name` gives for each of ARGUMENTS, by the numbers and not by the solution."""
        return [f"assert {name}({things}) == {things + sum(self.numbers)}" for things in ARGUMENTS]


def story(dice: Dice, index: int, held_out: bool = False) -> Story:
    """Draw a story whose function is one to train on, or one that is held out."""
    while True:
        gains = [_gain(dice) for _ in range(EVENTS)]
        # The same somebody throughout, or the things would be several people's.
        events = tuple(replace(gain, agent=gains[0].agent) for gain in gains)
        drawn = Story(events, tuple(dice.below(VARIANTS) for _ in events))
        first, second = drawn.numbers
        if (abs(first - second) in HELD_OUT) == held_out:
            return drawn


def unseen_story(dice: Dice, index: int) -> Story:
    return story(dice, index, held_out=True)


def _gain(dice: Dice) -> Event:
    """An event with a number, and without what would make rows long."""
    drawn = event(dice, 100, dice.pick(VERBS))
    # A name is one, and cannot be counted.
    while is_name(drawn.patient):
        drawn = event(dice, 100, dice.pick(VERBS))
    return drawn.without("agent_attribute", "patient_attribute", "place", "time")


def write_mbpp(source: Source, folder: Path) -> None:
    drawn = source.draw("mbpp", LAST_ID - FIRST_ID + 1, story)
    write_jsonl(folder / "mbpp" / "mbpp.jsonl", _exercises(drawn))


def _exercises(drawn: list[Story]) -> Iterator[dict[str, Any]]:
    for number, exercise in enumerate(drawn, FIRST_ID):
        yield {
            "text": exercise.told(PIVOT),
            "code": exercise.solution,
            "task_id": number,
            "test_setup_code": "",
            "test_list": exercise.tests("f"),
            "challenge_test_list": [],
        }


def prompt(problem: Story, code: str) -> str:
    """The form in which MBPP's exercises are prompted with: the miniature tests other languages, not other forms."""
    return f'"""\n{problem.told(code)}\n{problem.tests("f")[0]}\n"""\n'


def write_humaneval_xl(source: Source, folder: Path) -> None:
    drawn = source.draw("humaneval_xl", PROBLEMS, unseen_story)
    for code in LANGUAGES:
        write_jsonl(folder / "humaneval_xl" / "python" / f"{code}.jsonl", _problems(drawn, code))


def _problems(drawn: list[Story], code: str) -> Iterator[dict[str, Any]]:
    for number, problem in enumerate(drawn):
        calls = "".join(f"    {test}\n" for test in problem.tests("candidate"))
        yield {
            "task_id": f"python/{number}",
            "language": "python",
            "natural_language": code,
            "prompt": prompt(problem, code),
            "entry_point": "f",
            "canonical_solution": problem.solution,
            "test": f"def check(candidate):\n{calls}",
        }


WRITERS: tuple[Writer, ...] = (write_mbpp, write_humaneval_xl)
