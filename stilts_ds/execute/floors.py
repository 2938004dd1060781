"""What costs nothing and may still score: empty bodies, constant bodies, other problems' solutions.

A score is worth what it stands above these. They are executed as any program is, under the same judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from stilts_ds.execute.benchmarks import Problem
from stilts_ds.execute.executor import Settings
from stilts_ds.execute.pool import execute
from stilts_ds.execute.programs import Program


@dataclass(frozen=True)
class Bodies:
    """Bodies of a function that need no thought, after a prompt that ends in its open head."""

    empty: str
    constants: tuple[str, ...]


def _bodies(indent: str, end: str, constants: tuple[str, ...], empty: str = "") -> Bodies:
    """Each constant as a line of its own; `end` closes what the prompt has opened."""
    return Bodies(empty + end, tuple(f"{indent}{text}\n{end}" for text in constants))


_RETURNS = ("return true;", "return false;", "return 0;", "return 1;", 'return "";')
_SCRIPT = _bodies("  ", "}\n", (*_RETURNS, "return [];"))
BODIES: dict[str, Bodies] = {
    "python": _bodies(
        "    ", "", ("return True", "return False", "return 0", "return []", "return ''"), empty="    pass\n"
    ),
    "javascript": _SCRIPT,
    "typescript": _SCRIPT,
    "php": _SCRIPT,
    "perl": _bodies("  ", "}\n", ("return 1;", "return 0;", "return '';", "return [];")),
    "ruby": _bodies("  ", "end\n", ("true", "false", "0", "[]", "''")),
    "go": _bodies("\t", "}\n", ("return true", "return false", "return 0", 'return ""')),
    "java": _bodies("        ", "    }\n}\n", (*_RETURNS, "return null;")),
    "kotlin": _bodies("    ", "}\n", ("return true", "return false", "return 0", 'return ""', "return listOf()")),
    "scala": _bodies("        ", "    }\n", ("true", "false", "0", '""', "List()")),
    "cpp": _bodies("    ", "}\n", (*_RETURNS, "return {};")),
    "csharp": _bodies("            ", "        }\n", (*_RETURNS, "return null;")),
    "rust": _bodies("    ", "}\n", ("return true;", "return false;", "return 0;", "return String::new();", "vec![]")),
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
        bodies = BODIES[language]
        constants = [_constant(language, text, chosen, settings) for text in bodies.constants]
        empty = _floor(language, "empty", "", [bodied(problem, bodies.empty) for problem in chosen], settings)
        results += [max(constants, key=lambda floor: floor.passed), empty]
        others = shuffled(chosen)
        if others:
            results.append(_floor(language, "shuffled", "", others, settings))
    return results


def _constant(language: str, text: str, problems: list[Problem], settings: Settings) -> Floor:
    programs = [bodied(problem, text) for problem in problems]
    return _floor(language, "constant", text.split("\n")[0].strip(), programs, settings)


def _floor(language: str, kind: str, text: str, programs: list[Program], settings: Settings) -> Floor:
    passed = sum(verdict.passed for verdict in execute(programs, settings))
    return Floor(language, kind, text, passed, len(programs))
