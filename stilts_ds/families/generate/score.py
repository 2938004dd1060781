"""How many programs pass their tests, or are the known solution; on dev, how many of its tokens are foreseen.

Nothing is executed here: what a program does is read from the verdicts of `stilts execute`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stilts_ds.execute.passk import pass_at_k
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.families.generate.record import Gold
from stilts_ds.families.metrics import Metric, Units, percent, ratio_metric
from stilts_ds.families.text.score import count_tokens
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True, slots=True)
class WrittenProgram:
    """A program that a model wrote, and what executing it gave; None before."""

    program: Program
    verdict: Verdict | None


def count_programs(gold: Sequence[Gold], predicted: Sequence[WrittenProgram], language: str) -> Units:
    """Problems by name: columns passed and same (shares of a problem's programs), and problems (1).

    A withheld verdict is no program; a problem that has none but these passes nothing.
    """
    by_problem: dict[str, list[WrittenProgram]] = {problem.id: [] for problem in gold}
    for attempt in predicted:
        by_problem[attempt.program.id].append(attempt)
    rows = []
    for problem in gold:
        attempts = by_problem[problem.id]
        judged = [attempt.verdict for attempt in attempts if attempt.verdict and attempt.verdict.verdict != "withheld"]
        right = sum(verdict.passed for verdict in judged)
        same = sum(attempt.program.program == problem.canonical for attempt in attempts)
        passed = float(pass_at_k(len(judged), right, 1)) if judged else 0.0
        rows.append((passed, same / len(attempts), 1.0))
    return Units.of(by_problem, rows, "passed", "same", "problems")


PASS_AT_1 = ratio_metric("pass@1", count_programs, "passed", "problems", percent)
# No program need be the known one, and one that is not may be as right: it says how a model answers.
SAME_PROGRAM = ratio_metric("same_program", count_programs, "same", "problems", percent, diagnostic=True)
TOKEN_ACCURACY = ratio_metric("token_accuracy", count_tokens, "right", "tokens", percent)


def metrics(task: Task) -> Mapping[str, Metric]:
    return {metric.name: metric for metric in (PASS_AT_1, SAME_PROGRAM, TOKEN_ACCURACY)}


def drawing_units(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Languages with the same problems share their items."""
    different = {tuple(sorted(problems)) for problems in names.values()}
    return dict.fromkeys(names, "") if len(different) == 1 else {language: language for language in names}
