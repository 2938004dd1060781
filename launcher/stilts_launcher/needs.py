"""What a recipe needs besides a machine: a model, and a split of a task in each language. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
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
