"""What a recipe needs besides a machine: a model, and a split of a task in each language. No torch.

What is missing is named all at once, before anything is hashed or tokenised, with the overrides that go on without it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError, counted
from stilts_ds.families.registry import family_of
from stilts_ds.named_tasks import check_tasks, train_task_of
from stilts_ds.sources import hub
from stilts_ds.sources.local import missing_parts
from stilts_ds.tasks.registry import get_task, owner
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class Need:
    """One split of one task in one language."""

    task: str
    split: str
    language: str


def needs_of(recipe: Recipe, data: Data) -> tuple[list[Need], list[str]]:
    """Everything that training and evaluation will read, each once, and the problems met in asking."""
    check_tasks(recipe)
    needs, problems = [], []
    intermediate = [name for names in recipe.intermediate.values() for name in names]
    targets = [get_task(name) for name in recipe.targets]
    for name in [*intermediate, *(train_task_of(task).name for task in targets if task.trains)]:
        task = data.task(name)
        splits = {data.train_split(name), data.dev_split(name)}
        if labels_from_train(task):
            # Also where a recipe trains on another split: the list of labels must not change with the split.
            splits.add("train")
        for split in sorted(splits, reverse=True):
            language = task.train_language if split == "train" else task.pivot
            needs.append(Need(name, split, language))
        if task.translation and labels_from_train(task):
            needs.append(Need(task.origin, "train", task.pivot))  # the tag set is the English task's
    # A target that cannot be asked about is noted, and the others are asked all the same.
    for task in [data.task(task.name) for task in targets]:
        try:
            scored = data.scored_split(task)
            languages = data.languages(task, scored)[0]
            splits_needed = family_of(task).predicted_splits(task, scored)
            needs += [Need(task.name, split, language) for split in splits_needed for language in languages]
        except UserError as problem:
            problems.append(str(problem))
    # Tasks share splits (all targets of one source task, say): each is fetched once, in the order of first need.
    return list(dict.fromkeys(needs)), problems


@dataclass(frozen=True)
class Missing:
    """What is wrong with local files that a recipe needs: by who needs them, and with targets that have none at all."""

    files: dict[Need, list[str]]
    targets: list[str]

    @property
    def problems(self) -> list[str]:
        """Each problem once: tasks share files."""
        return list(dict.fromkeys([*chain.from_iterable(self.files.values()), *self.targets]))


def missing_files(recipe: Recipe, data: Data) -> Missing:
    """The local files that the recipe needs and that are missing or broken. Asks no hub."""
    needs, problems = needs_of(recipe, data)
    missing = {}
    for need in needs:
        task = data.task(need.task)
        text_of_the_hub = family_of(task).corpus is not None and data.source.text_hub is not None
        if text_of_the_hub or data.source.from_hub(owner(task, need.split), need.split, need.language):
            continue
        if broken := missing_parts(task, need.split, need.language, data.source):
            missing[need] = broken
    return Missing(missing, problems)


def check_files(recipe: Recipe, data: Data) -> None:
    """Raise UserError naming every local file that is missing, and how to go on without them."""
    if lines := lacking_files(recipe, data):
        count = counted(len(lines) - 1, "thing is", "things are")
        problems = [f"- {problem}" for problem in lines[:-1]]
        raise UserError("\n".join([f"{count} missing or cannot be used:", *problems, lines[-1]]))


def lacking_files(recipe: Recipe, data: Data) -> list[str]:
    """A line for each local file that is missing, and last one that says how to go on without them; [] where all are
    there."""
    missing = missing_files(recipe, data)
    problems = missing.problems
    return [*problems, go_on_without(recipe, data, set(missing.files))] if problems else []


def go_on_without(recipe: Recipe, data: Data, missing: Set[Need]) -> str:
    """The overrides that leave out what is missing and nothing else, as words of a command line."""
    selecting = {need for need in missing if need.split in (data.train_split(need.task), data.dev_split(need.task))}
    untrained = {need.task for need in selecting}
    kept_conditions = {name: tasks for name, tasks in recipe.intermediate.items() if untrained.isdisjoint(tasks)}
    present = {
        name: _present(data, name, missing)
        for name in recipe.targets
        if train_task_of(data.task(name)).name not in untrained
    }
    kept = {name: languages for name, (languages, _) in present.items() if languages}
    if not kept or not kept_conditions:
        return "nothing of the study can be computed without them"
    overrides = []
    if any(lacking for name, (_, lacking) in present.items() if name in kept):
        overrides.append(f"evaluation.languages={_languages(recipe, kept)}")
    if len(kept) < len(recipe.targets):
        overrides.append(f"targets=[{','.join(kept)}]")
    if len(kept_conditions) < len(recipe.intermediate):
        conditions = ", ".join(f"{name}: [{', '.join(tasks)}]" for name, tasks in kept_conditions.items())
        overrides.append(f"intermediate={{{conditions}}}")
    return f"to go on without them: {shlex.join(overrides)}"


def _present(data: Data, name: str, missing: Set[Need]) -> tuple[list[str], bool]:
    """The languages of a target whose test files are there, and whether any lacks."""
    task = data.task(name)
    split = data.scored_split(task)
    try:
        asked = data.languages(task, split)[0]
    except UserError:  # it has no language at all
        return [], True
    lacking = {need.language for need in missing if need.task == name and need.split == split}
    return [code for code in asked if code not in lacking], bool(lacking)


def _languages(recipe: Recipe, kept: Mapping[str, Sequence[str]]) -> str:
    """`present`, or lists where the recipe has lists: `present` would score languages that these leave out."""
    if not isinstance(recipe.evaluation.languages, dict):
        return "present"
    return "{" + ", ".join(f"{name}: [{', '.join(codes)}]" for name, codes in kept.items()) + "}"


def labels_from_train(task: Task) -> bool:
    """Whether the label list is read off the English train split."""
    return not task.labels and family_of(task).labels_in is not None


def ensure_local(need: Need, data: Data) -> list[str]:
    """Make sure that what is needed is on this machine, out of the hub if that is the source; returns problems."""
    task = data.task(need.task)
    if family_of(task).corpus is not None and data.source.text_hub is not None:
        return []  # its rows are all that a run needs, and they are made with the others
    if not data.source.from_hub(owner(task, need.split), need.split, need.language):
        return missing_parts(task, need.split, need.language, data.source)
    try:
        hub.fetch(data.origin(task, need.split, need.language).hub, need.language)
    except UserError as problem:
        return [str(problem)]
    return []
