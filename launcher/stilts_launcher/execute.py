"""`stilts execute`: programs from a file into the sandbox, verdicts into a file, scores and floors onto the screen."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path

from stilts_ds.errors import UserError, counted, printable
from stilts_ds.execute.benchmarks import READERS, Problem, read_problems
from stilts_ds.execute.errata import known_errata
from stilts_ds.execute.floors import Floor, floors
from stilts_ds.execute.languages import LANGUAGES, missing, toolchain
from stilts_ds.execute.passk import paired_difference, score_verdicts, scores_table
from stilts_ds.execute.policy import find_bwrap, find_python
from stilts_ds.execute.pool import CONSENT, execute
from stilts_ds.execute.probe import LAYERS
from stilts_ds.execute.programs import Program, Verdict, read_programs, read_verdicts, write_verdicts
from stilts_ds.execute.samples import read_samples
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.execute.worker import Worker
from stilts_launcher.execute_settings import add_settings, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=run_programs)
    parser.add_argument("programs", type=Path, nargs="?", help="JSON lines of programs, or of samples of a benchmark")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="verdicts, as JSON lines")
    parser.add_argument("--benchmark", choices=sorted(READERS), help="whose problems the samples answer")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="the benchmark's file, as its authors ship it")
    parser.add_argument("--split", choices=["prompt", "train", "dev", "test"], help="only problems of this split")
    parser.add_argument("--canonical", action="store_true", help="execute the benchmark's own solutions")
    parser.add_argument("--floors", action="store_true", help="also score constant, empty and shuffled programs")
    add_settings(parser)
    parser.add_argument("--skip-bad", action="store_true", help="execute the rest where rows are faulty")


def run_programs(given: argparse.Namespace) -> int:
    """The verb. Raises UserError for faulty files, options that do not go together, and a missing layer."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = read_settings(given)
    # Before any file is read: a study must not find out after an hour that it lacked consent.
    if not settings.allow:
        raise UserError(CONSENT)
    _check_output(given)
    problems = _problems(given)
    programs, faults = _programs(given, problems)
    for fault in faults:
        # Only with --skip-bad; without it the first fault ended the command.
        print(printable(f"left out: {fault}"))
    verdicts = execute(programs, settings)
    # Before the floors, which execute as many programs again: an error there loses no verdict.
    save_verdicts(given.output, programs, verdicts, settings)
    floor_rows = floors(list(problems.values()), settings) if given.floors else []
    versions = _versions(programs, settings)
    if floor_rows:
        _write_summary(given.output, settings, versions, verdicts, floor_rows)
    print(printable(_shown(given, problems, verdicts, settings, versions, floor_rows)))
    return 0


def save_verdicts(path: Path, programs: list[Program], verdicts: list[Verdict], settings: ExecuteSettings) -> None:
    """Write verdicts, and `<name>.summary.json` beside them."""
    write_verdicts(path, verdicts)
    _write_summary(path, settings, _versions(programs, settings), verdicts, [])


def _check_output(given: argparse.Namespace) -> None:
    """Before anything is executed: an hour's verdicts must have a place. Raises UserError or OSError."""
    output: Path = given.output
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name the file of verdicts in it, such as verdicts.jsonl")
    for file in (given.programs, given.problems):
        if file is not None and file.resolve() == output.resolve():
            raise UserError(f"--output {output} is the file that is read; give the verdicts another name")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):  # an OSError says which folder is closed
        pass


def _problems(given: argparse.Namespace) -> dict[str, Problem]:
    if (given.benchmark is None) != (given.problems is None):
        raise UserError("--benchmark and --problems go together: whose problems, and the file that holds them")
    if given.benchmark is None:
        if given.canonical or given.floors or given.split:
            raise UserError("--canonical, --floors and --split need --benchmark and --problems")
        return {}
    return read_problems(given.benchmark, given.problems, given.split)


def _programs(given: argparse.Namespace, problems: dict[str, Problem]) -> tuple[list[Program], list[str]]:
    if given.canonical:
        if given.programs is not None:
            raise UserError("--canonical executes the benchmark's own solutions: give no file of programs beside it")
        # Some benchmarks ship no solution for some problems, or for some languages none at all.
        programs = [problem.program(problem.canonical) for problem in problems.values() if problem.canonical]
        if not programs:
            raise UserError(f"{given.problems}: the benchmark has no solutions for this language")
        return programs, []
    if given.programs is None:
        raise UserError("give a file of programs, or --canonical with a benchmark")
    if problems:
        return read_samples(given.programs, problems, given.skip_bad)
    return read_programs(given.programs, given.skip_bad)


def _versions(programs: list[Program], settings: ExecuteSettings) -> dict[str, str]:
    path = settings.tool_path
    languages = dict.fromkeys(program.language for program in programs)
    # Programs of a missing language have verdicts that say so; it has no version to ask for.
    present = [name for name in languages if not missing(name, path)]
    return {name: toolchain(name, find_python()[0], path) for name in present}


def _write_summary(
    verdicts_file: Path,
    settings: ExecuteSettings,
    versions: dict[str, str],
    verdicts: list[Verdict],
    floor_rows: list[Floor],
) -> None:
    """What a score depends on beside the programs: settings and versions."""
    scores = []
    for score in score_verdicts(verdicts):
        values: dict[str, float | None] = {}
        for k, value in score.values.items():
            # Scores are exact fractions until here; JSON has only floats.
            values[f"pass@{k}"] = None if value is None else float(value)
        scores.append({**asdict(score), "values": values})
    summary = {
        "settings": asdict(settings),
        "toolchains": versions,
        "scores": scores,
        "floors": [floor.to_json() for floor in floor_rows],
    }
    verdicts_file.with_suffix(".summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="ascii")


def _shown(
    given: argparse.Namespace,
    problems: dict[str, Problem],
    verdicts: list[Verdict],
    settings: ExecuteSettings,
    versions: dict[str, str],
    floor_rows: list[Floor],
) -> str:
    lines = [scores_table(score_verdicts(verdicts), versions), f"judge: {settings.judge}; verdicts: {given.output}"]
    for floor in floor_rows:
        share = 100 * floor.passed / floor.problems
        named = f"{floor.kind} {floor.text!r}" if floor.text else floor.kind
        lines.append(f"floor of {floor.language}, {named}: {floor.passed} of {floor.problems} ({share:.2f} %)")
    errata = known_errata(given.benchmark or "", problems)
    # Named, not left out: published scores are over all problems.
    if errata:
        lines.append(f"{counted(len(errata), 'problem')} with known errata: {', '.join(sorted(errata))}")
    return "\n".join(lines)


def score_files(path: Path, baseline: Path | None = None, *more: Path) -> str:
    """pass@k of a verdicts file, and its difference to another's. Executes nothing."""
    if more:
        raise UserError("--verdicts takes one file, or two to compare")
    verdicts = read_verdicts(path)
    # A file of verdicts says nothing of compilers, and those of this machine need not be those that ran.
    shown = scores_table(score_verdicts(verdicts), {})
    if baseline is None:
        return shown
    difference = paired_difference(verdicts, read_verdicts(baseline))
    interval = f"{100 * difference.low:+.2f} to {100 * difference.high:+.2f}"
    over = counted(difference.problems, "problem")
    return f"{shown}\npass@1 less that of {baseline}: {100 * difference.value:+.2f} ({interval}, bootstrap over {over})"


def sandbox_state() -> str:
    """For `stilts doctor`: the layers that hold here. Raises Refused, which names the one that does not."""
    # A worker tries every layer of the sandbox before it takes work, and raises Refused where one does not hold.
    worker = Worker()
    worker.close()
    user = "this user" if worker.uid is None else f"user {worker.uid}"
    return f"{find_bwrap()} as {user}; tried and held: {', '.join(LAYERS)}"


def languages_state() -> str:
    """For `stilts doctor`: languages whose programs can be executed, and commands that others lack."""
    present, absent = [], []
    for name, language in LANGUAGES.items():
        lacking = missing(name)
        if lacking:
            absent.append(f"{language.title} ({', '.join(lacking)})")
        # Asked for their versions, compilers on the JVM take longer than all other checks; verdicts name them.
        elif language.server:
            present.append(language.title)
        else:
            present.append(f"{language.title} ({toolchain(name)})")
    return ", ".join(present) + (f"; withheld for lack of commands: {', '.join(absent)}" if absent else "")
