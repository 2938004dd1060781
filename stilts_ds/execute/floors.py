"""What costs nothing and may still score: empty bodies, constant bodies, other problems' solutions.

A score is worth what it stands above these. They are executed as any program is, under the same judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stilts_ds.execute.benchmarks import Problem
from stilts_ds.execute.pool import Settings, execute
from stilts_ds.execute.programs import Program

# language -> (what an empty body is, constant bodies). The closing brace is the body's: prompts end in an open one.
_BRACED = ("return true;", "return false;", "return 0;", "return 1;", 'return "";')
_CURLY_JS = (*_BRACED, "return [];")
BODIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "python": (
        "    pass\n",
        ("    return True\n", "    return False\n", "    return 0\n", "    return []\n", "    return ''\n"),
    ),
    "javascript": ("}\n", tuple(f"  {text}\n}}\n" for text in _CURLY_JS)),
    "typescript": ("}\n", tuple(f"  {text}\n}}\n" for text in _CURLY_JS)),
    "php": ("}\n", tuple(f"  {text}\n}}\n" for text in _CURLY_JS)),
    "perl": ("}\n", tuple(f"  {text}\n}}\n" for text in ("return 1;", "return 0;", "return '';", "return [];"))),
    "ruby": ("end\n", tuple(f"  {text}\nend\n" for text in ("true", "false", "0", "[]", "''"))),
    "go": ("}\n", tuple(f"\treturn {text}\n}}\n" for text in ("true", "false", "0", '""'))),
    "java": (
        "    }\n}\n",
        tuple(f"        return {text};\n    }}\n}}\n" for text in ("true", "false", "0", '""', "null")),
    ),
    "cpp": ("}\n", tuple(f"    return {text};\n}}\n" for text in ("true", "false", "0", '""', "{}"))),
}


@dataclass(frozen=True)
class Floor:
    """What one kind of worthless program scores. `text` is the body, or what was done."""

    language: str
    kind: str
    text: str
    passed: int
    problems: int


def whole_programs(problems: Sequence[Problem]) -> bool:
    """MBPP's prompts hold no code: a body needs a head of its own there."""
    return all(not problem.prompt for problem in problems)


def bodied(problem: Problem, text: str) -> Program:
    head = "" if problem.prompt else f"def {problem.entry}(*given):\n"
    return problem.program(head + text)


def shuffled(problems: Sequence[Problem], seed: int = 0) -> list[Program]:
    """Every problem with the solution of another, under its own name. Empty where there are not two solutions."""
    solved = [problem for problem in problems if problem.canonical]
    if len(solved) < 2:
        return []
    order = list(range(len(solved)))
    random.Random(seed).shuffle(order)
    programs = []
    for index, giver in zip(order, order[1:] + order[:1]):
        solution = solved[giver].canonical
        if not solved[index].prompt:  # a whole program: its function gets the name that the tests call
            name = re.escape(solved[giver].entry)
            solution = re.sub(rf"\b{name}\b", solved[index].entry, solution)
        programs.append(solved[index].program(solution))
    return programs


def floors(problems: Sequence[Problem], settings: Settings) -> list[Floor]:
    """The floors of every language among the problems: best constant body, empty body, shuffled solutions."""
    results = []
    for language in dict.fromkeys(problem.language for problem in problems):
        chosen = [problem for problem in problems if problem.language == language]
        empty, constants = BODIES[language]
        best: Floor | None = None
        for text in constants:
            floor = _floor(
                language, "constant", text.split("\n")[0].strip(), [bodied(p, text) for p in chosen], settings
            )
            best = floor if best is None or floor.passed > best.passed else best
        assert best is not None
        results += [best, _floor(language, "empty", "", [bodied(problem, empty) for problem in chosen], settings)]
        others = shuffled(chosen)
        if others:
            results.append(_floor(language, "shuffled", "", others, settings))
    return results


def _floor(language: str, kind: str, text: str, programs: list[Program], settings: Settings) -> Floor:
    passed = sum(verdict.passed for verdict in execute(programs, settings))
    return Floor(language, kind, text, passed, len(programs))
