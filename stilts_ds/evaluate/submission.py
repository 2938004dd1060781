"""The benchmark's nine-folder submission: gathered from a run's predictions and checked before it is sent.

Layout (paper, Scoring): one folder per task, `test-{language}.tsv`, or `.json` for question answering.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path

from stilts_ds.errors import UserError, counted
from stilts_ds.families.files import Expected, read_text
from stilts_ds.families.registry import family_of
from stilts_ds.run_dir import write_atomically
from stilts_ds.tasks.spec import Task

SUBMITTED_TASKS = ("udpos", "panx", "xnli", "pawsx", "xquad", "mlqa", "tydiqa", "bucc2018", "tatoeba")
SPLIT = "test"


def submission_files(task: Task) -> dict[str, str]:
    """The file name of each of the task's languages."""
    files = family_of(task).files(task)
    return {language: files.name(SPLIT, language) for language in task.languages}


def validate_submission(
    folder: Path, tasks: Mapping[str, Task], expected: Mapping[tuple[str, str], Expected]
) -> list[str]:
    """Every problem of a submission folder, one message each; an empty list means that it can be sent.

    `tasks` holds the nine tasks by name and `expected` what (task, language) asks for; a file without an entry there
    is checked for its format and label set only. Raises UserError if `tasks` lacks one of the nine.
    """
    problems: list[str] = []
    for name in SUBMITTED_TASKS:
        task = _task(tasks, name)
        files = submission_files(task)
        missing = [language for language, file in files.items() if not (folder / name / file).is_file()]
        if missing:
            problems.append(f"{name}: no prediction for {' '.join(missing)} ({folder / name}); predict these languages")
        for language in files.keys() - set(missing):
            problems += _file_problems(folder / name / files[language], task, expected.get((name, language)))
        problems += _strangers(folder / name, set(files.values()))
    return sorted(problems) + _strangers(folder, set(SUBMITTED_TASKS))


def _task(tasks: Mapping[str, Task], name: str) -> Task:
    if name not in tasks:
        raise UserError(f"a submission needs the task {name!r}; the nine are {', '.join(SUBMITTED_TASKS)}")
    return tasks[name]


def _strangers(folder: Path, known: Set[str]) -> list[str]:
    found = sorted(path.name for path in folder.glob("*") if path.name not in known)
    return [f"{folder / name} does not belong to a submission; remove it" for name in found]


def _file_problems(path: Path, task: Task, expected: Expected | None) -> list[str]:
    files = family_of(task).files(task)
    try:
        values = files.read(path, task.labels)
        if expected is not None:
            files.check_expected(path, values, expected)
    except UserError as error:
        return [str(error)]
    return []


def write_submission(
    predictions: Iterable[Path],
    out: Path,
    tasks: Mapping[str, Task],
    expected: Mapping[tuple[str, str], Expected],
) -> list[Path]:
    """Gather the test files of the nine tasks from `predictions` folders (one folder per task in each) into `out`.

    The first folder that has a file provides it. Files are written in the benchmark's plain form (UTF-8, LF, no byte
    order mark). Returns the files written. Raises UserError listing everything that is missing or wrong; the problems
    are found after writing, so `out` then holds what there is.
    """
    sources = list(predictions)
    written: list[Path] = []
    for name in SUBMITTED_TASKS:
        for language, file in submission_files(_task(tasks, name)).items():
            found = [folder / name / file for folder in sources if (folder / name / file).is_file()]
            if found:
                _write_graded(found[0], out / name / file, _task(tasks, name), expected.get((name, language)))
                written.append(out / name / file)
    problems = validate_submission(out, tasks, expected)
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
    values = files.read(target, task.labels)
    if len(values) == len(expected.order):  # otherwise the check of the whole submission says what is wrong
        files.write(target, [values[line] for line in expected.order])
