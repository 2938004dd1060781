"""Every task by name, and its variants: `mnli.de` is MNLI with a German train split, `xnli@typo-5` XNLI with noise."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.noise.spec import MARK, parse_noise
from stilts_ds.tasks import intermediate, targets
from stilts_ds.tasks.spec import Task

TASKS: dict[str, Task] = {task.name: task for task in (*intermediate.TASKS, *targets.TASKS)}


def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError with the nearest names for an unknown one."""
    clean, mark, noise = name.partition(MARK)
    if mark:
        return _noisy(name, get_task(clean), noise)
    origin, dot, language = name.partition(".")
    if dot:
        return _translated(name, get_task(origin), language)
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]


def tasks_named(names: Iterable[str]) -> dict[str, Task]:
    """The tasks among some names of folders, in the order of the tasks; noisy ones after the clean one."""
    order = list(TASKS)
    tasks = [get_task(name) for name in sorted(names) if name.partition(MARK)[0] in TASKS]
    return {task.name: task for task in sorted(tasks, key=lambda task: order.index(task.plain_name))}


def _translated(name: str, task: Task, language: str) -> Task:
    """The same task, labels and head, with a train split in another language."""
    if task.role != "intermediate" or len(task.languages) > 1:
        raise UserError(f"{name!r}: only English intermediate tasks come in translation, as mnli.de does")
    if not re.fullmatch("[a-z]{2,3}", language) or language == task.pivot:
        raise UserError(f"{name!r}: write the language as a code of two or three letters other than {task.pivot!r}")
    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, translated into {language}",
        head=task.head_name,
        local={"train": task.local["train"]},
        hub={},
        sizes={},
        translation=language,
        note=f"The file stands in data.translated/{language}; English dev selects. {task.note}".rstrip(),
    )


def _noisy(name: str, task: Task, noise: str) -> Task:
    """The same task with noise in the texts that are scored; it is trained and selected as ever, on clean text."""
    if task.role != "target":
        raise UserError(f"{name!r}: noise is for the texts of targets that are scored; {task.name} trains")
    spec = parse_noise(name, noise)
    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, {spec}",
        head=task.head_name,
        train_on=task.train_on or (task.name if "train" in task.local else ""),
        local={split: files for split, files in task.local.items() if split != "train"},
        hub={split: data_sets for split, data_sets in task.hub.items() if split != "train"},
        noise=spec,
        note=f"Texts of {task.name} with noise. {task.note}".rstrip(),
    )


def owner(task: Task, split: str) -> Task:
    """The task whose files serve `split`: itself, or `train_on` for a split that it has not (XNLI trains on MNLI).

    A translated task has a train split in its language; for all others the English task serves.
    """
    if task.translation and split == "train":
        return dataclasses.replace(task, languages=(task.translation,), pivot=task.translation)
    other = task.origin if task.translation else task.train_on
    if not other or (split in task.local and not task.translation):
        return task
    return dataclasses.replace(get_task(other), languages=(task.pivot,), pivot=task.pivot)


def check_language(task: Task, language: str) -> None:
    """Raise UserError for a language that the task has not; the pivot is always allowed, since it trains."""
    known = {*task.languages, task.pivot}
    if language not in known:
        raise UserError(f"{task.name} has no language {language!r}{did_you_mean(language, known)}")
