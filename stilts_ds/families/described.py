"""What programs are to do, and the programs: two texts that search each other, whichever family compares them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import Problem, ProblemRow, problem_rows, problems_of
from stilts_ds.execute.programs import text_of
from stilts_ds.sources.files import check_text
from stilts_ds.sources.hub import RowContext
from stilts_ds.sources.source import Part

DESCRIPTIONS = {"mbpp": "text", "humaneval_xl": "description"}


class Described(NamedTuple):
    """A description of a program, and the program."""

    id: str
    description: str
    program: str


def described_programs(benchmark: str, split_file: Part) -> list[Described]:
    """The exercises of a split in a benchmark's file. Raises UserError for one without a description or a solution:
    nothing finds it, or it cannot be found."""
    return _described(benchmark, problem_rows(benchmark, split_file.path, split_file.split))


def described_rows(benchmark: str, rows: Iterable[Mapping[str, Any]], name: str) -> list[Described]:
    """The same from the rows of a hub data set, which holds the one split."""
    named = ((f"{name}[{index}]", dict(row)) for index, row in enumerate(rows))
    return _described(benchmark, problems_of(benchmark, named, name))


def solved_rows(rows: Iterable[Mapping[str, Any]], name: str, context: RowContext) -> list[Described]:
    """HumanEval-XL's rows of the hub, which lack the solutions. HumanEval has them: a problem is the one of the same
    function and the same tests, since three names stand for two functions each."""
    solutions = {(row.get("entry_point"), row.get("test")): row.get("canonical_solution") for row in context.pool}
    solved = []
    for index, row in enumerate(rows):
        problem = row.get("entry_point"), row.get("test")
        if problem not in solutions:
            raise UserError(f"{name}[{index}]: HumanEval has no problem with its function and tests; check the data "
                            "sets' revisions")  # fmt: skip
        solved.append({**row, "canonical_solution": solutions[problem]})
    return described_rows("humaneval_xl", solved, name)


def _described(benchmark: str, rows: Iterable[ProblemRow]) -> list[Described]:
    column = DESCRIPTIONS[benchmark]
    exercises = []
    for where, row, problem in rows:
        text = check_text(text_of(row, column, where), f"{where}: {column!r}").strip()
        if not text:
            raise UserError(f"{where}: {column!r} is blank, and nothing finds a program by it; mend the row")
        program = check_text(program_of(problem, where), f"{where}: its program")
        exercises.append(Described(problem.id, text, program))
    return exercises


def program_of(problem: Problem, where: str) -> str:
    """A Python solution without the docstring of its prompt, which would tell the description word for word."""
    if not problem.canonical.strip():
        raise UserError(f"{where}: has no 'canonical_solution' to be found; use the files of Python")
    if not problem.prompt:  # MBPP's solutions are whole programs
        return problem.canonical
    head = re.search(rf"^def {re.escape(problem.entry)}\b.*?:[ \t]*\n", problem.prompt, re.MULTILINE | re.DOTALL)
    if head is None:
        raise UserError(f"{where}: its 'prompt' does not begin the function {problem.entry!r}; mend the row")
    return head[0] + problem.canonical
