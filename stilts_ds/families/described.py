"""What programs are to do, and the programs: two texts that search each other, whichever family compares them."""

from __future__ import annotations

import re

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import Problem, problem_rows
from stilts_ds.execute.programs import text_of
from stilts_ds.sources.files import check_text
from stilts_ds.sources.source import Part


def described_programs(benchmark: str, split_file: Part, description: str) -> list[tuple[str, str, str]]:
    """Id, description and program of each exercise of a split. Raises UserError for one that has no solution: it could
    not be found."""
    exercises = []
    for row, problem in problem_rows(benchmark, split_file.path, split_file.split):
        where = f"{split_file.path}: {problem.id}"
        text = check_text(text_of(row, description, where), where).strip()
        if not text:
            raise UserError(f"{where}: {description!r} is blank, and nothing finds a program by it; mend the row")
        exercises.append((problem.id, text, check_text(program_of(problem, where), where)))
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
