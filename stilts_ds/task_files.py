"""Tasks that users bring: `tasks_from` of a recipe, and packages that offer some in the group `stilts.tasks`.

    tasks:
      reviews:
        family: pair                       # one text (or two) and a label
        languages: [en, gn]
        files: {train: train.csv.gz, dev: dev.csv, test: "test-{language}.jsonl"}
        columns: {text: sentence, label: stars}
        labels: [bad, good]

A YAML file is data. A Python file is a program: it runs where somebody names it in a recipe or an option, and never
because a run folder does. What a run needs of such a task is kept as data in its plan.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator

from stilts_ds.config import Recipe, check_training
from stilts_ds.errors import UserError, counted, did_you_mean, redacted
from stilts_ds.families.base import Family
from stilts_ds.families.columns import Columns
from stilts_ds.families.registry import FAMILIES, get_family, main_metric, metrics_of
from stilts_ds.run_dir import hash_json
from stilts_ds.sources.tables import table_kind
from stilts_ds.tasks.registry import TASKS, added_tasks, keep_task, plain_task
from stilts_ds.tasks.spec import TABLE, Local, Role, Task
from stilts_ds.yaml_files import Section, read_section

log = logging.getLogger(__name__)
GROUP = "stilts.tasks"
TASK_NAME = r"^[a-z][a-z0-9_]{0,39}$"  # a folder's name, and nothing in it that marks a variant (. @ ~ +)
LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]{1,8})*"
SPLITS = ("train", "dev", "test")
WHERE_FROM = "the person who gave you the task"
# What a task's definition says about reading and scoring. Titles, licences and folders change no result.
IDENTITY = ("family", "labels", "columns", "unlabelled", "metrics", "main_score", "answer_rules", "head", "pivot")


class TaskEntry(Section):
    """One task of a tasks file."""

    title: str = Field("", description="what people call it; default: its name")
    family: str = Field(description="kind of output: pair, choice, regression, tag or span")
    role: Role = Field("target", description="`target` is scored, `intermediate` is trained before targets")
    languages: list[str] = Field(min_length=1, description="codes of the languages that it has, such as [en, gn]")
    pivot: str = Field("", description="language of train and dev; default: en, or the first language without it")
    folder: Path = Field(Path("."), description="folder of the files, from the folder of this file")
    files: dict[Literal["train", "dev", "test"], str] = Field(
        min_length=1, description="file or save_to_disk folder of each split; {language} stands for the code"
    )
    columns: dict[str, str] = Field(description="column names: text, label, prompt, choices, words, tags, ...")
    labels: list[str] = Field(default_factory=list, description="labels in the order of the head's outputs")
    unlabelled: list[Literal["test"]] = Field(default_factory=list, description="[test] where it has no labels")
    metrics: list[str] = Field(default_factory=list, description="metrics to report; default: the family's")
    main_score: str = Field("", description="metric that ranks models; default: the first of metrics")
    train_on: str = Field("", description="task whose train split serves this one; default: its own")
    training: dict[str, Any] = Field(default_factory=dict, description="training.* that this task takes by default")
    licence: str = Field("", description="licence of the data")
    url: str = Field("", description="page that the files come from")
    note: str = Field("", description="what else users should know")

    @field_validator("languages", "pivot")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        for code in value if isinstance(value, list) else [value]:
            if code and not re.fullmatch(LANGUAGE, code):
                raise ValueError(f"{code!r} is no language code; write two or three small letters, such as gn or quy")
        if isinstance(value, list) and len(set(value)) < len(value):
            raise ValueError("a language stands there twice; name each once")
        return value

    @field_validator("training")
    @classmethod
    def _training_keys(cls, settings: dict[str, Any]) -> dict[str, Any]:
        return check_training(settings)

    @field_validator("files")
    @classmethod
    def _holes(cls, files: dict[str, str]) -> dict[str, str]:
        for pattern in files.values():
            holes = set(re.findall(r"[{][^{}]*[}]?|[}]", pattern)) - {"{language}"}
            if holes:
                raise ValueError(f"{pattern!r}: {sorted(holes)[0]!r} is no hole that is filled; only {{language}} is")
        return files


class TasksFile(Section):
    """A YAML file of tasks by name."""

    tasks: dict[str, TaskEntry] = Field(min_length=1, description="tasks by name")


def add_recipe_tasks(recipe: Recipe) -> None:
    """Make the tasks known that a recipe brings or names. Raises UserError as `add_tasks_from` does."""
    add_tasks_from(recipe.tasks_from)
    # Looking through all installed packages takes a moment, so only for a name that nothing else explains.
    if any(plain_task(name) not in TASKS for name in recipe.named_tasks):
        add_installed_tasks()


def add_tasks_from(paths: Sequence[Path]) -> None:
    """Read the tasks of `tasks_from` and make them known by name.

    Raises UserError naming file and key for a file that is missing or broken, and for a name that is taken.
    """
    origins: dict[str, Path] = {}
    for path in paths:
        for task in _read(path):
            if task.name in origins:
                raise UserError(f"{path}: {origins[task.name]} has a task {task.name!r}, too; rename one of them")
            origins[task.name] = path
            _keep(task, str(path))


def _read(path: Path) -> list[Task]:
    if path.suffix in (".yaml", ".yml"):
        return _from_yaml(path)
    if path.suffix == ".py":
        return _from_python(path)
    raise UserError(f"tasks_from: {path} is neither YAML nor Python; give a file that ends in .yaml or .py")


def _from_yaml(path: Path) -> list[Task]:
    entries = read_section(TasksFile, path).tasks
    return [_task_of(name, entry, path) for name, entry in entries.items()]


def _task_of(name: str, entry: TaskEntry, path: Path) -> Task:
    """The literal that an entry stands for."""
    where = f"{path}: tasks.{name}"
    pivot = entry.pivot or ("en" if "en" in entry.languages else entry.languages[0])
    local: dict[str, tuple[Local, ...]] = {
        split: (_local(pattern, pivot, entry, where),) for split, pattern in entry.files.items()
    }
    trainer = TASKS.get(entry.train_on)
    columns = _columns_of(entry, where)
    metrics = tuple(entry.metrics or columns.metrics)
    directory = (path.parent / entry.folder.expanduser()).resolve()
    # The head of the task that trains it: that is the one which predicts.
    head = trainer.head_name if trainer is not None else ""
    return Task(
        name=name,
        title=entry.title or name,
        family=entry.family,
        role=entry.role,
        languages=tuple(entry.languages),
        metrics=metrics,
        main_score=entry.main_score or metrics[0],
        local=local,
        labels=tuple(entry.labels),
        pivot=pivot,
        head=head,
        train_on=entry.train_on,
        training=entry.training,
        licence=entry.licence,
        url=entry.url or WHERE_FROM,
        note=entry.note,
        directory=str(directory),
        columns=entry.columns,
        unlabelled=tuple(entry.unlabelled),
    )


def _columns_of(entry: TaskEntry, where: str) -> Columns:
    """How the entry's family reads tables. Raises UserError for a family that reads none."""
    reading = {name: known.columns for name, known in FAMILIES.items() if known.columns is not None}
    columns = reading.get(entry.family)
    if columns is None:
        problem = f"{where}: family: {entry.family!r} reads no tables{did_you_mean(entry.family, reading)}"
        raise UserError(f"{problem}; give one of {', '.join(reading)}, or write the task in Python")
    return columns


def _local(pattern: str, pivot: str, entry: TaskEntry, where: str) -> Local:
    # Train and dev are in the pivot alone; a test file without the hole would be that of one language.
    if pattern == entry.files.get("test") and "{language}" not in pattern and entry.languages != [pivot]:
        remedy = "put {language} into its name"
        count = counted(len(entry.languages), "language")
        raise UserError(f"{where}: files.test: {pattern!r} is one file for {count}; {remedy}")
    return Local(TABLE, pattern)


def _from_python(path: Path) -> list[Task]:
    """The sequence TASKS that a program defines. It runs here, as a program of whoever names it."""
    if not path.is_file():
        raise UserError(f"tasks_from: {path} does not exist; check the path")
    specification = importlib.util.spec_from_file_location(f"stilts_tasks_{path.stem}", path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        line = next(
            (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), 0
        )
        where = f"{path}:{line}" if line else str(path)
        raise UserError(f"{where}: {redacted(f'{type(error).__name__}: {error}')}; correct the file") from error
    tasks = _tasks_in(getattr(module, "TASKS", None), f"{path}: TASKS")
    # Paths of its tasks are meant from where the file stands, as in YAML.
    return [
        dataclasses.replace(task, directory=str((path.parent / task.directory).resolve())) if task.directory else task
        for task in tasks
    ]


def _tasks_in(value: Any, where: str) -> list[Task]:
    tasks = [task for task in value if isinstance(task, Task)] if isinstance(value, list | tuple) else []
    if not tasks or len(tasks) < len(value):
        raise UserError(f"{where} must be a list of stilts_ds.tasks.spec.Task; see docs/own_data.md")
    return tasks


@cache
def add_installed_tasks() -> None:
    """Make the tasks known that installed packages offer. Raises UserError naming the package that fails."""
    for entry in entry_points(group=GROUP):
        where = f"package {entry.dist.name if entry.dist else entry.value}, {GROUP}: {entry.name}"
        try:
            value = entry.load()
        except Exception as error:
            problem = f"{where} cannot be loaded ({type(error).__name__}: {error})"
            raise UserError(f"{problem}; update the package, or remove it") from error
        for task in _tasks_in(value, where):
            _keep(task, where)


def _keep(task: Task, where: str) -> None:
    """Check a task and make it known."""
    try:
        if not re.fullmatch(TASK_NAME, task.name):
            raise UserError(f"{task.name!r} is no name of a task; use small letters, digits and _, at most 40")
        check_task(task)
        keep_task(task)
    except UserError as problem:
        raise UserError(f"{where}: tasks.{task.name}: {problem}") from None


def check_task(task: Task) -> None:
    """Raise UserError for a task that cannot be read, trained or scored."""
    family = get_family(task.family)
    if family.columns is not None and _reads_tables(task):
        family.columns.check(task)
        for entries in task.local.values():
            for entry in entries:
                _check_ending(entry)
    _check_training(task, family)
    if task.pivot not in task.languages and "train" not in task.local and not task.train_on:
        raise UserError(f"pivot: {task.pivot!r} is none of its languages; name the language of its training data")
    metrics_of(task)
    if not main_metric(task).below:
        ratios = [name for name, metric in family.metrics(task).items() if metric.below]
        raise UserError(f"main_score: {task.main_score} cannot be tested for chance; give one of {', '.join(ratios)}")


def _reads_tables(task: Task) -> bool:
    return any(entry.schema == TABLE for entries in task.local.values() for entry in entries)


def _check_ending(entry: Local) -> None:
    """A path with an ending is a file's, and must be a table's; one without is a folder's of `save_to_disk`."""
    path = Path(entry.path)
    if entry.schema == TABLE and path.suffix and "{" not in path.suffix:
        table_kind(path)


def _check_training(task: Task, family: Family) -> None:
    """Where its training examples come from, and that its labels are theirs."""
    if task.train_on:
        if task.train_on not in TASKS:
            raise UserError(f"train_on: there is no task {task.train_on!r}{did_you_mean(task.train_on, TASKS)}")
        trainer = TASKS[task.train_on]
        if "train" in task.local:
            raise UserError("train_on: it has a train file of its own; leave one of the two out")
        if (trainer.family, trainer.labels) != (task.family, task.labels):
            given = f"{trainer.family} with labels {', '.join(trainer.labels) or 'none'}"
            raise UserError(f"train_on: {task.train_on} is {given}; give this task the same family and labels")
    elif family.head is not None and "train" not in task.local:
        raise UserError("files: there is no train file; name one, or the task that trains it as train_on")
    if task.role == "target" and "test" not in task.local:
        raise UserError("files: there is no test file to score; name one, or set role: intermediate")
    _check_labels(task, family)


def _check_labels(task: Task, family: Family) -> None:
    needs_labels = family.columns is not None and family.columns.label == "label"
    if needs_labels and len(task.labels) < 2:
        raise UserError("labels: name the labels, at least two, in the order of the head's outputs")
    if len(set(task.labels)) < len(task.labels):
        raise UserError("labels: a label stands there twice; name each once")
    if bad := [label for label in task.labels if label != label.strip() or not label or not label.isprintable()]:
        raise UserError(f"labels: {bad[0]!r} is empty or has spaces around it; write the label alone")
    if task.labels and family.columns is not None and family.columns.label not in ("label", "tags"):
        raise UserError(f"labels: a {task.family} task has none; leave them out")


# --- tasks as data ----------------------------------------------------------------------------------------------------

_ADAPTER = TypeAdapter(Task)


def definitions(names: Iterable[str]) -> dict[str, Any]:
    """The added ones among some tasks and their trainers, as a plan keeps them; {} for studies of shipped tasks."""
    kept: dict[str, Any] = {}
    for name in names:
        for task in added_tasks(name):
            kept[task.name] = _ADAPTER.dump_python(task, mode="json", exclude_defaults=True)
    return kept


def add_definitions(tasks: Mapping[str, Any], where: str) -> None:
    """Make the tasks known that a plan keeps. Raises UserError naming `where` for what is no task, and for one that
    this process knows with another meaning."""
    for name, raw in tasks.items():
        try:
            task = _ADAPTER.validate_python(raw)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, (name, *first["loc"])))
            raise UserError(f"{where}: tasks.{key}: {first['msg']}; run the same `stilts run` again") from error
        known = TASKS.get(task.name)
        if known is not None and identity_of(known) != identity_of(task):
            raise UserError(
                f"{where}: its task {task.name!r} is not the {task.name!r} that was read before; give one of them "
                "another name, or look at the runs one after the other"
            )
        if known is None:
            _keep(task, where)


def identity_of(task: Task) -> dict[str, Any]:
    """What of a task's definition decides what is learnt and how it is scored."""
    raw = _ADAPTER.dump_python(task, mode="json")
    return {key: raw[key] for key in IDENTITY}


def identity_hash(task: Task) -> str:
    return hash_json(identity_of(task))
