"""How many programs pass their tests, parse, or are the known solution; how a model sees that solution; on dev, how
many of its tokens are foreseen.

Nothing is executed here: what a program does is read from the verdicts of `stilts execute`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stilts_ds.execute.passk import pass_at_k
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.families.generate.floors import KINDS
from stilts_ds.families.generate.likelihood import Likelihood
from stilts_ds.families.generate.record import Gold
from stilts_ds.families.metrics import Metric, Units, percent, ratio_metric
from stilts_ds.families.text.score import count_tokens
from stilts_ds.tasks.spec import Task

SEVERAL = (10, 100)  # of pass@k, where there are so many programs a problem


@dataclass(frozen=True, slots=True)
class WrittenProgram:
    """A program that a model wrote, what executing it gave (None before), and how its model sees the known solution of
    the problem (None: not measured)."""

    program: Program
    verdict: Verdict | None
    likelihood: Likelihood | None = None


def count_programs(gold: Sequence[Gold], predicted: Sequence[WrittenProgram], language: str) -> Units:
    """Problems by name: columns passed and same (shares of a problem's programs), and problems (1); pass@k and enough
    for each of SEVERAL, all 0 where a problem has fewer than k programs; parses and parsed, 0 where nothing tells.

    A withheld verdict is no program; a language with a problem that has none but these is not scored (`unscored`).
    """
    by_problem: dict[str, list[WrittenProgram]] = {problem.id: [] for problem in gold}
    for attempt in predicted:
        by_problem[attempt.program.id].append(attempt)
    fewest = min((len(_judged(attempts)) for attempts in by_problem.values()), default=0)
    rows = []
    for problem in gold:
        attempts = by_problem[problem.id]
        judged = _judged(attempts)
        right = sum(verdict.passed for verdict in judged)
        same = sum(attempt.program.program == problem.canonical for attempt in attempts)
        passed = float(pass_at_k(len(judged), right, 1)) if judged else 0.0
        row = [passed, same / len(attempts), 1.0]
        for k in SEVERAL:
            # Over all problems or over none: with fewer samples than k, pass@k is not defined.
            row += [float(pass_at_k(len(judged), right, k)), 1.0] if fewest >= k else [0.0, 0.0]
        known = [does for does in map(parses, attempts) if does is not None]
        row += [sum(known) / len(known), 1.0] if known else [0.0, 0.0]
        rows.append(row)
    several = [column for k in SEVERAL for column in (f"passed@{k}", f"enough@{k}")]
    return Units.of(by_problem, rows, "passed", "same", "problems", *several, "parses", "parsed")


def _judged(attempts: Sequence[WrittenProgram]) -> list[Verdict]:
    return [attempt.verdict for attempt in attempts if attempt.verdict and attempt.verdict.verdict != "withheld"]


def parses(attempt: WrittenProgram) -> bool | None:
    """Whether a program is one of its language; None where neither Python's parser nor its verdict tells."""
    program, verdict = attempt.program, attempt.verdict
    if program.language == "python":
        return _is_python(program.program)
    if verdict is None or verdict.verdict == "withheld":
        return None
    if verdict.verdict == "compile-error":
        return False
    if program.language not in TOLD_BY_REASON:
        return True
    if verdict.weak and not verdict.passed:  # the interpreter read program and tests together
        return None
    return not (verdict.verdict == "error" and SYNTAX_ERROR.match(verdict.reason))


TOLD_BY_REASON = ("javascript", "perl", "php", "ruby")
SYNTAX_ERROR = re.compile("SyntaxError|syntax error|Parse error")


def _is_python(text: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes, which are told once for each program
            ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def count_solutions(gold: Sequence[Gold], predicted: Sequence[WrittenProgram], language: str) -> Units:
    """Problems by name: columns right and tokens of the known solution; first, reciprocal (of its place by likelihood
    among ten) and ranked (1). 0 in what was not measured."""
    by_problem = {attempt.program.id: attempt.likelihood for attempt in predicted}
    rows = []
    for problem in gold:
        seen = by_problem.get(problem.id)
        right, tokens, rank = (seen.right, seen.tokens, seen.rank) if seen else (0, 0, 0)
        rows.append((right, tokens, rank == 1, 1 / rank if rank else 0.0, bool(rank)))
    return Units.of((problem.id for problem in gold), rows, "right", "tokens", "first", "reciprocal", "ranked")


def count_floors(gold: Sequence[Gold], predicted: Sequence[WrittenProgram], language: str) -> Units:
    """Problems by name, and for each of KINDS a column of that name (whether such a program passes) and `of_` that name
    (whether it was executed): no model has a part in them."""
    rows = [
        [number for kind in KINDS for number in (problem.floors.get(kind, False), kind in problem.floors)]
        for problem in gold
    ]
    columns = [column for kind in KINDS for column in (kind, f"of_{kind}")]
    return Units.of((problem.id for problem in gold), rows, *columns)


PASS_AT_1 = ratio_metric("pass@1", count_programs, "passed", "problems", percent)
# No program need be the known one, and one that is not may be as right: it says how a model answers.
SAME_PROGRAM = ratio_metric("same_program", count_programs, "same", "problems", percent, diagnostic=True)
TOKEN_ACCURACY = ratio_metric("token_accuracy", count_tokens, "right", "tokens", percent)
PASS_AT_SEVERAL = [
    ratio_metric(f"pass@{k}", count_programs, f"passed@{k}", f"enough@{k}", percent, optional=True) for k in SEVERAL
]
PARSES = ratio_metric("parses", count_programs, "parses", "parsed", percent, diagnostic=True, optional=True)
# They say how a model sees a solution that it need not have written.
OF_SOLUTIONS = [
    ratio_metric(name, count_solutions, above, below, percent, diagnostic=True, optional=True)
    for name, above, below in (
        ("solution_tokens", "right", "tokens"),
        ("solution_first", "first", "ranked"),
        ("solution_mrr", "reciprocal", "ranked"),
    )
]


FLOORS = [
    ratio_metric(f"floor_{kind}", count_floors, kind, f"of_{kind}", percent, diagnostic=True, optional=True)
    for kind in KINDS
]


def metrics(task: Task) -> Mapping[str, Metric]:
    known = (PASS_AT_1, *PASS_AT_SEVERAL, *FLOORS, SAME_PROGRAM, PARSES, *OF_SOLUTIONS, TOKEN_ACCURACY)
    return {metric.name: metric for metric in known}


def drawing_units(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Languages with the same problems share their items."""
    different = {tuple(sorted(problems)) for problems in names.values()}
    return dict.fromkeys(names, "") if len(different) == 1 else {language: language for language in names}
