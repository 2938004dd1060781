"""The tasks that a recipe names, each looked up once, and whether they can be used where they are named."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stilts_ds.config import NAME, SWEEP, Recipe
from stilts_ds.contamination import check_problems
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.families.registry import chooses_on_dev, family_of
from stilts_ds.noise.kinds import KINDS
from stilts_ds.tasks.benchmarks import get_benchmark
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class NamedTasks:
    """The tasks of a recipe: those that each condition trains, and its targets."""

    conditions: Mapping[str, tuple[Task, ...]]
    targets: tuple[Task, ...]

    @property
    def trained(self) -> list[Task]:
        return [task for tasks in self.conditions.values() for task in tasks]


def train_task_of(task: Task) -> Task:
    """The task whose English train split a target is fine-tuned on."""
    return get_task(task.train_on) if task.train_on else task


def scored_split(recipe: Recipe, task: Task) -> str:
    """The split that a recipe scores `task` on."""
    splits = recipe.evaluation.splits
    return splits.get(task.name, splits.get(task.base_name, "test"))


def check_tasks(recipe: Recipe) -> NamedTasks:
    """The tasks of a recipe. Raises UserError for one that does not exist or cannot be used where it is named."""
    tasks = NamedTasks(
        {condition: _trained_by(condition, names) for condition, names in recipe.intermediate.items()},
        tuple(_task(name, "targets") for name in recipe.targets),
    )
    for task in tasks.targets:
        _check_target(recipe, task)
    _check_task_keys(recipe, tasks)
    _check_attention(recipe, tasks)
    _check_weights(recipe)
    _check_pools(recipe, tasks)
    _check_sweep(recipe, tasks)
    for target in tasks.targets:
        check_problems(recipe, target, scored_split(recipe, target))
    return tasks


def _trained_by(condition: str, names: Sequence[str]) -> tuple[Task, ...]:
    if not re.fullmatch(NAME, condition):  # it becomes part of folder and job names
        raise UserError(f"intermediate: {condition!r} is no name; use letters, digits, '.', '_' and '-'")
    tasks = tuple(_task(name, f"intermediate.{condition}") for name in names)
    for task in tasks:
        if not task.trains:
            problem = f"intermediate.{condition}: {task.name} is retrieval and has nothing to train on"
            raise UserError(f"{problem}; leave it out")
    return tasks


def _task(name: str, where: str) -> Task:
    """The task of that name. Raises UserError naming the key that it stands under."""
    try:
        return get_task(name)
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from None


def _check_target(recipe: Recipe, task: Task) -> None:
    if not family_of(task).group:
        raise UserError(f"targets: {task.name} is running text and has no score; leave it out")
    if task.noise is not None:
        check_noise(task)
        if task.plain_name not in recipe.targets:
            raise UserError(f"targets: {task.name} shows what noise costs {task.plain_name}; score that, too")
    if task.second and task.base_name not in recipe.targets:
        raise UserError(f"targets: {task.name} is compared with {task.base_name}; score that, too")
    if task.source and task.base_name not in recipe.targets:
        raise UserError(f"targets: {task.name} is compared with {task.base_name}, trained on English; score that, too")
    if task.translation:
        raise UserError(f"targets: {task.name} is training data; score {task.origin}")


def _check_sweep(recipe: Recipe, tasks: NamedTasks) -> None:
    """A layer is chosen on dev sentences with gold pairs, and on nothing else."""
    reads = [task.name for task in tasks.targets if not task.trains]
    chooses = any(chooses_on_dev(task) and task.noise is None for task in tasks.targets)
    if recipe.evaluation.retrieval_layer == SWEEP and reads and not chooses:
        raise UserError(
            f"evaluation.retrieval_layer=sweep chooses the layer of {reads[0]} on BUCC's dev languages, and BUCC is no "
            "target; add bucc2018 to targets, or give a layer"
        )


def check_noise(task: Task) -> None:
    """Raise UserError for noise that a task's family cannot bear: each of its words has a label."""
    family = family_of(task)
    if task.noise is None:
        return
    if family.noisy is None:
        raise UserError(f"{task.name}: {task.plain_name} has no texts that bear noise; leave it out")
    if family.given_words and not KINDS[task.noise.kind].in_tokens:
        fitting = ", ".join(name for name, kind in KINDS.items() if kind.in_tokens)
        raise UserError(f"{task.name}: {task.noise.kind} noise would change which words there are; take {fitting}")
    if task.noise.context and task.shared_text != "context":
        raise UserError(f"{task.name}: {task.plain_name} has no passages; leave -context out")


def _check_task_keys(recipe: Recipe, tasks: NamedTasks) -> None:
    """Settings by task name tasks that exist, and that something reads."""
    languages = recipe.evaluation.languages
    by_task: dict[str, Mapping[str, Any]] = {
        "task_training": recipe.task_training,
        "data.train_split": recipe.data.train_split,
        "data.dev_split": recipe.data.dev_split,
        "evaluation.splits": recipe.evaluation.splits,
        "evaluation.languages": languages if isinstance(languages, dict) else {},
    }
    keyed = {section: [_task(name, section) for name in values] for section, values in by_task.items()}
    for section, named in keyed.items():
        for task in named:
            trains = section in ("task_training", "data.train_split", "data.dev_split")
            if task.translation or (task.source and trains):
                raise UserError(f"{section}: {task.name} follows {base_name(task)}; give that one")
            # XNLI's phase trains MNLI: what is set for XNLI would have no effect.
            if trains and task.train_on:
                raise UserError(f"{section}: {task.name} is trained on {task.train_on}; give that one")
    for task in keyed["data.dev_split"]:
        _check_dev_split(task, recipe.data.dev_split[task.name], tasks.trained)
    for task in keyed["evaluation.splits"]:
        _check_scored_split(task, recipe.evaluation.splits[task.name])
    # The toy world's own languages are compared where its files are read.
    if recipe.data.source != "toy":
        for task in keyed["evaluation.languages"]:
            _check_languages(task, by_task["evaluation.languages"][task.name], recipe.benchmark)


def _check_languages(task: Task, asked: Sequence[str], benchmark: str) -> None:
    """Languages to score are the benchmark's."""
    known = get_benchmark(benchmark).fitted(task).languages
    if unknown := [code for code in asked if code not in known]:
        problem = f"evaluation.languages.{task.name}: {unknown[0]!r} is no language of {task.name} in {benchmark}"
        raise UserError(f"{problem}; it has {', '.join(known)}")


def base_name(task: Task) -> str:
    return task.origin if task.translation else task.base_name


def _check_dev_split(task: Task, split: str, trained: Sequence[Task]) -> None:
    """A model is selected on dev, or on examples that its own training leaves out."""
    where = f"data.dev_split.{task.name}"
    if split not in ("train", "dev"):
        raise UserError(f"{where}: {split!r} cannot select a model; give `dev`, or `train` to hold examples out of it")
    if family_of(task).multilingual:
        raise UserError(f"{where}: every {task.name} file has passages of its own that select; leave it out")
    translated = sorted(train.name for train in trained if train.translation and train.origin == task.name)
    if translated and split == "train":
        raise UserError(
            f"{where}: {translated[0]} trains on translations of the examples that would select; leave one of them out"
        )


def _check_scored_split(task: Task, split: str) -> None:
    """A task is scored on a split of its own: SQuAD's dev, which XQuAD selects on, must not bear XQuAD's name."""
    splits = {*task.local, *task.hub}
    if split not in splits:
        has = ", ".join(sorted(splits))
        raise UserError(f"evaluation.splits.{task.name}: {task.name} has no split {split!r} of its own; it has {has}")


def _check_pools(recipe: Recipe, tasks: NamedTasks) -> None:
    """Pools of trained retrieval are consecutive examples of a step, which must all be of one task."""
    for condition, named in tasks.conditions.items():
        pooled = [task.name for task in named if family_of(task).pooled]
        if pooled and len(named) > 1 and recipe.sampling.unit == "example":
            raise UserError(f"intermediate.{condition}: {pooled[0]} needs steps of its own; set sampling.unit=step")


def _check_attention(recipe: Recipe, tasks: NamedTasks) -> None:
    """Some rows are read by packed attention only."""
    asked = recipe.model.attn_implementation
    packed_only = [task.name for task in (*tasks.targets, *tasks.trained) if family_of(task).packed_only]
    if packed_only and asked != "packed":
        raise UserError(f"model.attn_implementation: {packed_only[0]} needs `packed`, not {asked!r}; leave the key out")


def _check_weights(recipe: Recipe) -> None:
    """Fixed weights name each task of the phases that mix tasks, and no other."""
    weights = recipe.sampling.weights
    if not isinstance(weights, dict):
        return
    mixed = {name for names in recipe.intermediate.values() if len(names) > 1 for name in names}
    # Its share is given, so it needs no weight.
    mixed -= {"mlm"} if recipe.sampling.mlm_share is not None else set()
    for name in sorted(mixed - set(weights)):
        raise UserError(f"sampling.weights has no weight for {name}, which a condition mixes with others; give it one")
    for name in sorted(set(weights) - mixed):
        raise UserError(f"sampling.weights.{name}: no condition mixes {name} with others{did_you_mean(name, mixed)}")
