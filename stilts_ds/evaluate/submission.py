"""A benchmark's submission, a folder for each task: gathered from a run's predictions and checked before it is sent.

Layout (paper, Scoring): one folder per task, `test-{language}.tsv`, or `.json` for question answering.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.evaluate.sizes import other_sizes, sizes_text
from stilts_ds.families.files import Expected, read_text
from stilts_ds.families.registry import family_of
from stilts_ds.run_dir import hash_file, write_atomically
from stilts_ds.tasks.benchmarks import XTREME, Benchmark
from stilts_ds.tasks.spec import Task

SPLIT = "test"


def submission_files(task: Task) -> dict[str, str]:
    """The file name of each of the task's languages."""
    files = family_of(task).files(task)
    return {language: files.name(SPLIT, language) for language in task.languages}


def validate_submission(
    folder: Path,
    tasks: Mapping[str, Task],
    expected: Mapping[tuple[str, str], Expected],
    benchmark: Benchmark = XTREME,
) -> list[str]:
    """Every problem of a submission folder, one message each; an empty list means that it can be sent.

    `tasks` holds the benchmark's tasks by name, `expected` what the run's data of (task, language) ask for. A file that
    has no entry there is checked for its format and label set only. Whatever the run's data are, a file answers as many
    examples as the benchmark's test set has, where that is known. Raises UserError if `tasks` lacks one.
    """
    problems: list[str] = []
    for name in benchmark.tasks:
        task = _task(tasks, name, benchmark)
        files = submission_files(task)
        missing = [language for language, file in files.items() if not (folder / name / file).is_file()]
        if missing:
            problems.append(f"{name}: no prediction for {' '.join(missing)} ({folder / name}); predict these languages")
        counts: dict[str, int] = {}
        for language in [language for language in files if language not in missing]:
            path = folder / name / files[language]
            try:
                counts[language] = _examples(path, task, expected.get((name, language)))
            except UserError as error:
                problems.append(str(error))
        problems += _size_problems(task, counts)
        problems += _strangers(folder / name, set(files.values()))
    # Sorted by task, so that a user can go through them one after the other.
    return sorted(problems) + _strangers(folder, set(benchmark.tasks))


def _task(tasks: Mapping[str, Task], name: str, benchmark: Benchmark) -> Task:
    if name not in tasks:
        every = ", ".join(benchmark.tasks)
        raise UserError(f"a submission to {benchmark.title} needs the task {name!r}; its tasks are {every}")
    return tasks[name]


def _strangers(folder: Path, known: Set[str]) -> list[str]:
    strangers = sorted(path.name for path in folder.glob("*") if path.name not in known)
    return [f"{folder / name} does not belong to a submission; remove it" for name in strangers]


def _examples(path: Path, task: Task, expected: Expected | None) -> int:
    """The number of values in a prediction file. Raises UserError where it is malformed or not what is expected."""
    files = family_of(task).files(task)
    values = files.read(path, task.labels)
    if expected is not None:
        files.check_expected(path, values, expected)
    return len(values)


def _size_problems(task: Task, counts: Mapping[str, int]) -> list[str]:
    if not family_of(task).files(task).one_each:
        return []
    others = other_sizes(counts, task.test_sizes)
    problem = f"{task.name}: other numbers of examples than in the benchmark's test set: {sizes_text(others)}"
    return [f"{problem}; predict the whole files (docs/data_files.md)"] if others else []


def unknown_test_sizes(tasks: Mapping[str, Task], benchmark: Benchmark = XTREME) -> dict[str, list[str]]:
    """By task, the languages whose files cannot be checked to be whole: of mined pairs, or of an unknown test set."""
    unknown = {}
    for name in benchmark.tasks:
        task = _task(tasks, name, benchmark)
        # Mined pairs have no fixed number: a shorter file is not an incomplete one.
        counted = task.test_sizes if family_of(task).files(task).one_each else {}
        if lacking := [language for language in task.languages if language not in counted]:
            unknown[name] = lacking
    return unknown


def write_submission(
    predictions: Mapping[str, Path],
    out: Path,
    tasks: Mapping[str, Task],
    expected: Mapping[tuple[str, str], Expected],
    benchmark: Benchmark = XTREME,
) -> list[Path]:
    """Gather the test files of the benchmark's tasks into `out`; `predictions` names the folder with each task's files.

    Files are written in the benchmark's plain form (UTF-8, LF, no byte order mark). Returns the files written. Raises
    UserError listing everything that is missing or wrong; the problems are found after writing, so `out` then holds
    what there is.
    """
    written: list[Path] = []
    for name in benchmark.tasks:
        task = _task(tasks, name, benchmark)
        for language, file in submission_files(task).items():
            source = predictions[name] / file if name in predictions else None
            if source is not None and source.is_file():
                _write_graded(source, out / name / file, task, expected.get((name, language)))
                # Gathered even where others are missing: the user sees everything that lacks in one go.
                written.append(out / name / file)
            else:  # an earlier submission's file must not pass for this one's
                (out / name / file).unlink(missing_ok=True)
    problems = validate_submission(out, tasks, expected, benchmark)
    if problems:
        raise UserError(f"{out} cannot be submitted yet ({counted(len(problems), 'problem')}):\n" + "\n".join(problems))
    return written


def _write_graded(source: Path, target: Path, task: Task, expected: Expected | None) -> None:
    """Copy a prediction file in plain form, its lines in the order in which the benchmark grades them."""
    text = read_text(source)
    write_atomically(target, text)
    if expected is None or not expected.order:
        return
    files = family_of(task).files(task)
    # The benchmark's script compares line by line: the order of our data need not be that of its labels.
    values = files.read(target, task.labels)
    if len(values) == len(expected.order):  # otherwise the check of the whole submission says what is wrong
        files.write(target, [values[line] for line in expected.order])


# --- what was sent ---------------------------------------------------------------------------------------------------


def manifest_path(out: Path) -> Path:
    """Beside the submission's folder, which may hold nothing but the tasks."""
    return out.with_name(f"{out.name}.json")


def describe_files(out: Path, task: Task) -> dict[str, Any]:
    """Examples, the benchmark's number of them (None: not known) and SHA-256 of a task's files, by language."""
    files = family_of(task).files(task)
    described = {}
    for language, file in submission_files(task).items():
        path = out / task.name / file
        examples = len(files.read(path, task.labels)) if files.one_each else None
        benchmark = task.test_sizes.get(language) if files.one_each else None
        described[language] = {"examples": examples, "benchmark": benchmark, "sha256": hash_file(path)}
    return described
