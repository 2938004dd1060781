"""Programming exercises: MBPP, HumanEval and what follows its form, from the files that their authors ship."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stilts_ds.execute.benchmarks import Problem, problem_rows
from stilts_ds.sources.files import check_text
from stilts_ds.sources.source import Part

NO_SOLUTION = "exercises without a solution"


@dataclass(frozen=True, slots=True)
class Exercise:
    """A description of a program, and a program. `prompt` is what a model reads, `solution` what it is to write: ""
    where none is known. `problem` says how what was written becomes a program, and tests it."""

    id: str
    prompt: str
    solution: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class Gold:
    """What an exercise asks of programs: the whole one that is known to be right, "" where none is. `floors`: whether
    programs that cost nothing pass its tests, by kind; those that were not executed are left out."""

    id: str
    canonical: str
    floors: Mapping[str, bool] = field(default_factory=dict)


def is_labelled(record: Exercise) -> bool:
    """Its tests are its label."""
    return True


def gold(record: Exercise) -> Gold:
    return Gold(record.id, record.problem.program("").canonical)


def texts(record: Exercise) -> tuple[str, ...]:
    return (record.prompt, record.solution)


def attributes(records: Sequence[Exercise]) -> dict[str, list[float]]:
    return {
        "characters of the prompt": [float(len(record.prompt)) for record in records],
        "characters of the solution": [float(len(record.solution)) for record in records],
    }


def fields(record: Exercise, most: int) -> list[tuple[str, str]]:
    return [("prompt", record.prompt), ("solution", record.solution or "none"), ("tests", record.problem.tests)]


def given_prompt(row: Mapping[str, Any], problem: Problem) -> str:
    """A prompt that a program begins with."""
    return problem.prompt


def mbpp_prompt(row: Mapping[str, Any], problem: Problem) -> str:
    """MBPP's description and first test, which names the function, as the docstring of a file (the zero-shot form of
    Fried et al. 2022, arXiv 2204.05999, section 4). The program begins behind it."""
    description = str(row.get("text", row.get("prompt", ""))).strip()
    return f'"""\n{description}\n{row["test_list"][0].strip()}\n"""\n'


def read_exercises(
    split_file: Part, benchmark: str, prompt: Callable[[Mapping[str, Any], Problem], str] = given_prompt
) -> Iterator[Exercise]:
    """The exercises of one split. To train on, they need a solution; those without one are counted.

    Raises UserError for a text that no tokenizer takes (half a surrogate pair).
    """
    learns = split_file.split in ("train", "dev")
    of_split = split_file.split if benchmark in DIVIDED else None
    for where, row, problem in problem_rows(benchmark, split_file.path, of_split):
        if learns and not problem.canonical.strip():
            split_file.tally[NO_SOLUTION] += 1
            continue
        exercise = Exercise(problem.id, prompt(row, problem), problem.canonical, problem)
        for text in (exercise.id, exercise.prompt, exercise.solution, problem.entry, problem.tests):
            check_text(text, f"{where}: exercise {problem.id!r}")
        yield exercise


# Whose files hold several splits, which the numbers of the exercises tell.
DIVIDED = ("mbpp", "mbxp")
READERS = {
    "mbpp": partial(read_exercises, benchmark="mbpp", prompt=mbpp_prompt),
    "humaneval": partial(read_exercises, benchmark="humaneval"),
    "mbxp": partial(read_exercises, benchmark="mbxp"),
    "multi_humaneval": partial(read_exercises, benchmark="multi_humaneval"),
    "humaneval_xl": partial(read_exercises, benchmark="humaneval_xl"),
}
