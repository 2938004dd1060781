"""Every task by name, and its variants: `mnli.de` is MNLI with a German train split, `xnli@typo-5` XNLI with
noise, `panx~de` PAN-X trained on German, and `xnli+de` XNLI with German hypotheses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.noise.spec import MARK, parse_noise
from stilts_ds.tasks import checklist, intermediate, programming, retrieval, targets, understanding
from stilts_ds.tasks.spec import FROM, WITH, Local, Task

Entries = TypeVar("Entries")  # what serves a split: files, or data sets of the hub

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        *intermediate.TASKS,
        *retrieval.INTERMEDIATE,
        *targets.TASKS,
        *retrieval.TARGETS,
        *checklist.TASKS,
        *programming.INTERMEDIATE,
        *programming.TARGETS,
        *understanding.INTERMEDIATE,
        *understanding.TARGETS,
    )
}

SHIPPED = frozenset(TASKS)


def keep_task(task: Task) -> None:
    """Make a task known that is not shipped. Raises UserError for the name of one that is."""
    if task.name in SHIPPED:
        raise UserError(f"{task.name!r} is a task that is shipped; give this one another name")
    TASKS[task.name] = task


def plain_task(name: str) -> str:
    """The name before every mark of a variant."""
    return re.split(f"[{MARK}{FROM}{WITH}.]", name)[0]


def added_tasks(name: str) -> list[Task]:
    """The tasks behind a name that are not shipped: the one that trains it, and itself."""
    task = TASKS[plain_task(get_task(name).name)]
    trainer = [task.train_on] if task.train_on else []
    return [TASKS[known] for known in (*trainer, task.name) if known not in SHIPPED]


def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError with the nearest names for an unknown one."""
    # From the outermost variant inwards: noise is put on whatever stands before its mark.
    clean, mark, noise = name.partition(MARK)
    if mark:
        return _noisy(name, get_task(clean), noise)
    target, mark, second = name.partition(WITH)
    if mark:
        return _crossed(name, get_task(target), second)
    target, mark, source = name.partition(FROM)
    if mark:
        return _trained_in(name, get_task(target), source)
    origin, dot, language = name.partition(".")
    if dot:
        return _translated(name, get_task(origin), language)
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]


def tasks_named(names: Iterable[str]) -> dict[str, Task]:
    """The tasks among some names of folders, in the order of the tasks; noisy ones after the clean one."""
    order = list(TASKS)
    # Sorted by name first: the sort by task below is stable, and "xnli" is less than "xnli@typo-5".
    known = [name for name in sorted(names) if re.split(f"[{MARK}{FROM}{WITH}]", name)[0] in TASKS]
    tasks = sorted(map(get_task, known), key=lambda task: order.index(task.base_name))
    return {task.name: task for task in tasks}


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
        head=task.head_name,  # named, or it would be the variant's own: translations share the English task's head
        local={"train": task.local["train"]},
        hub={},  # translations are the user's files, whatever serves the English task
        sizes={},  # how many rows were translated is not known
        translation=language,
        note=f"The file stands in data.translated/{language}; English dev selects. {task.note}".rstrip(),
    )


def _noisy(name: str, task: Task, noise: str) -> Task:
    """The same task with noise in the texts that are scored; it is trained and selected as ever, on clean text."""
    if task.second:
        raise UserError(f"{name!r}: a noisy text is in one language; give {task.base_name}{MARK}{noise}")
    if task.role != "target":
        raise UserError(f"{name!r}: noise is for the texts of targets that are scored; {task.name} trains")
    spec = parse_noise(name, noise)
    # The clean task trains it, so clean and noisy scores are those of one model.
    trainer = task.train_on or (task.name if "train" in task.local else "")
    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, {spec}",
        head=task.head_name,
        train_on=trainer,
        local=_without_train(task.local),
        hub=_without_train(task.hub),
        noise=spec,
        note=f"Texts of {task.name} with noise. {task.note}".rstrip(),
    )


def _trained_in(name: str, task: Task, language: str) -> Task:
    """The same target, trained in another language and selected on that language's dev split.

    The train split is the target's own or, where another task's serves it (XNLI), a translation of that one. A target
    without a dev split (XQuAD) is selected on the translation's.
    """
    if task.role != "target" or not task.trains:
        raise UserError(f"{name!r}: only targets that are trained have another source language")
    if not re.fullmatch("[a-z]{2,3}", language) or language == task.pivot:
        raise UserError(f"{name!r}: write the language as a code of two or three letters other than {task.pivot!r}")
    local, hub = dict(task.local), dict(task.hub)
    if task.train_on:
        translated = get_task(task.train_on)
        # The target's own dev split, where it has one, stands after the translation's and wins.
        local = {"dev": translated.local["dev"], **local, "train": translated.local["train"]}
    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, trained on {language}",
        head=task.head_name,
        train_on="",
        local=local,
        hub=hub,
        sizes={},  # those of the literal are English
        pivot=language,
        source=language,
        translated_task=task.train_on,
        note=f"Trained and selected on {language}. {task.note}".rstrip(),
    )


CROSSED_HOLE = "question-{language}"  # of MLQA's files, which there are for all pairs of languages


def _crossed(name: str, task: Task, second: str) -> Task:
    """The same test set with the second text of each example in one language: a row of the generalised setting.

    MLQA has files for all pairs of languages; XNLI and PAWS-X are parallel row by row.
    """
    paths = [local.path for files in task.local.values() for local in files]
    has_files = any(CROSSED_HOLE in path for path in paths)
    if not has_files and not task.parallel_rows:
        raise UserError(f"{name!r}: the languages of {task.name} are not parallel row by row")
    if second not in task.languages:
        raise UserError(f"{name!r}: {task.name} has no language {second!r}{did_you_mean(second, task.languages)}")
    local = {split: _filled(files, second) for split, files in _without_train(task.local).items()}
    # MLQA's hub entries are those with both texts in one language, so its crossed files are local.
    hub = {} if has_files else _without_train(task.hub)
    return dataclasses.replace(
        task,
        name=name,
        title=f"{task.title}, second text in {second}",
        head=task.head_name,
        train_on=task.train_on or task.name,
        local=local,
        hub=hub,
        second=second,
        parallel_rows=task.parallel_rows and not has_files,  # a file that is crossed needs no second one beside it
        note=f"The second text of {task.name} in {second}. {task.note}".rstrip(),
    )


def _without_train(splits: Mapping[str, Entries]) -> dict[str, Entries]:
    return {split: entries for split, entries in splits.items() if split != "train"}


def _filled(files: tuple[Local, ...], second: str) -> tuple[Local, ...]:
    """The same files with the question's language filled in; the context's stays a hole."""
    question = CROSSED_HOLE.format(language=second)
    return tuple(dataclasses.replace(local, path=local.path.replace(CROSSED_HOLE, question)) for local in files)


def _serves_from_translation(task: Task, split: str) -> bool:
    """Whether a target that is trained in another language reads a split of translated files."""
    return bool(task.translated_task) and (split == "train" or split not in TASKS[task.base_name].local)


def owner(task: Task, split: str) -> Task:
    """The task whose files serve `split`: itself, or `train_on` for a split that it has not (XNLI trains on MNLI).

    A translated task has a train split in its language; for all others the English task serves.
    """
    if _serves_from_translation(task, split):
        source = get_task(task.translated_task)
        name = f"{source.name}.{task.source}"
        return dataclasses.replace(
            source, name=name, languages=(task.source,), pivot=task.source, hub={}, translation=task.source
        )
    # The pivot is the language that a split is read in where its task has no choice, so it follows the files.
    if task.translation and split == "train":
        return dataclasses.replace(task, languages=(task.translation,), pivot=task.translation)
    serving = task.origin if task.translation else task.train_on
    if not serving or (split in task.local and not task.translation):
        return task
    return dataclasses.replace(get_task(serving), languages=(task.pivot,), pivot=task.pivot)


def check_language(task: Task, language: str) -> None:
    """Raise UserError for a language that the task has not; the pivot is always allowed, since it trains."""
    known = {*task.languages, task.pivot}
    if language not in known:
        raise UserError(f"{task.name} has no language {language!r}{did_you_mean(language, known)}")
