"""What costs nothing and may still score: empty bodies, constant bodies, other problems' solutions.

A score is worth what it stands above these. They are executed as any program is, under the same judge.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stilts_ds.execute.benchmarks import Problem
from stilts_ds.execute.languages import missing
from stilts_ds.execute.pool import execute
from stilts_ds.execute.programs import Program
from stilts_ds.execute.settings import ExecuteSettings


@dataclass(frozen=True)
class Bodies:
    """Bodies of a function that need no thought, after a prompt that ends in its open head."""

    empty: str
    constants: tuple[str, ...]


def _bodies(indent: str, end: str, constants: tuple[str, ...], empty: str = "") -> Bodies:
    """Each constant as a line of its own; `end` closes what the prompt has opened."""
    return Bodies(empty + end, tuple(f"{indent}{text}\n{end}" for text in constants))


# Values that right answers often are: the best constant of a benchmark is a floor that a model must clear.
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
    "swift": _bodies("    ", "}\n", ("return true", "return false", "return 0", 'return ""', "return []")),
}


@dataclass(frozen=True)
class Floor:
    """What one kind of worthless program scores: `passes` says it by problem. `text` is the body, "" where each problem
    has another."""

    language: str
    kind: str
    text: str
    passes: Mapping[str, bool]

    @property
    def passed(self) -> int:
        return sum(self.passes.values())

    @property
    def problems(self) -> int:
        return len(self.passes)

    def to_json(self) -> dict[str, Any]:
        counts = {"passed": self.passed, "problems": self.problems}
        return {"language": self.language, "kind": self.kind, "text": self.text, **counts}


def whole_programs(problems: Sequence[Problem]) -> bool:
    """MBPP's prompts hold no code: a body needs a head of its own there."""
    return all(not problem.prompt for problem in problems)


def bodied(problem: Problem, text: str) -> Program:
    # `*given` takes any number of arguments, which the problem's text alone would tell.
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
    # Each gets the solution of the next in a random circle, so that none keeps its own.
    for index, giver in zip(order, order[1:] + order[:1]):
        solution = solved[giver].canonical
        if not solved[index].prompt:  # a whole program: its function gets the name that the tests call
            name = re.escape(solved[giver].entry)
            solution = re.sub(rf"\b{name}\b", solved[index].entry, solution)
        programs.append(solved[index].program(solution))
    return programs


def floors(problems: Sequence[Problem], settings: ExecuteSettings) -> list[Floor]:
    """The floors of every language among the problems: best constant body, empty body, shuffled solutions.

    A language whose toolchain is missing has none, as it has no score.
    """
    results = []
    for language in dict.fromkeys(problem.language for problem in problems):
        if missing(language, settings.tool_path):
            continue
        results += _floors_of_language(language, [p for p in problems if p.language == language], settings)
    return results


def _floors_of_language(language: str, problems: list[Problem], settings: ExecuteSettings) -> list[Floor]:
    """All kinds in one call, because workers and what they compile once take long to start."""
    bodies = BODIES[language]
    kinds = [("constant", text.split("\n")[0].strip(), text) for text in bodies.constants]
    kinds.append(("empty", "", bodies.empty))
    groups = [(kind, name, [bodied(problem, text) for problem in problems]) for kind, name, text in kinds]
    others = shuffled(problems)
    if others:
        groups.append(("shuffled", "", others))
    # The number of a sample tells the kinds apart.
    programs = [replace(program, sample=number) for number, (_, _, group) in enumerate(groups) for program in group]
    passes: list[dict[str, bool]] = [{} for _ in groups]
    for verdict in execute(programs, settings):
        passes[verdict.sample][verdict.id] = verdict.passed
    rows = [Floor(language, kind, name, of_group) for (kind, name, _), of_group in zip(groups, passes)]
    constants = [floor for floor in rows if floor.kind == "constant"]
    # Of the constants only the best: it is the one that a model could learn to write everywhere.
    return [max(constants, key=lambda floor: floor.passed), *rows[len(constants) :]]
