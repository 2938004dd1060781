"""Nothing is scored on programming problems that its model was trained or selected on, in whichever language.

HumanEval-XL, multilingual HumanEval and HumanEval are the same problems, and MBXP holds all of MBPP's. A task's literal
names the problems of its splits; here the names of what trains are held against those of what is scored.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError
from stilts_ds.model_files import model_path
from stilts_ds.run_dir import LINEAGE, read_json
from stilts_ds.tasks.registry import TASKS, get_task
from stilts_ds.tasks.spec import Task

LONGEST_LINEAGE = 20  # phases that a model may have been through; a chain of folders that names itself ends there


def check_problems(recipe: Recipe, target: Task, split: str) -> None:
    """Raise UserError where a target is scored on problems that any of its models has seen, naming them and the targets
    that are clean of all that the recipe trains on."""
    scored = target.problems.get(split)
    if scored is None:
        return
    seen = dict(_seen(recipe, target))
    if scored not in seen:
        return
    coded = [task for task in TASKS.values() if task.role == "target" and task.problems]
    # Clean of all that the study trains on: the next start must not refuse what this one advises.
    clean = [task.name for task in coded if seen.keys().isdisjoint(task.problems.values())]
    advice = f"; {' and '.join(clean)} can be scored" if clean else ""
    conflict = f"{target.name} is scored on problems of {scored}, on which {seen[scored]}"
    raise UserError(f"targets: {conflict}: leave one of them out{advice}")


def _seen(recipe: Recipe, target: Task) -> Iterator[tuple[str, str]]:
    """The problems that train or select a target's models, each with what does."""
    for name in _tasks_behind(model_path(recipe.model.name_or_path)):
        for problems in _of_splits(name, "train", "dev"):
            yield problems, f"the model in {recipe.model.name_or_path} was trained ({name})"
    trained = [(f"intermediate.{name}", task) for name, tasks in recipe.intermediate.items() for task in tasks]
    if target.trains:
        trained.append(("its fine-tuning", target.name))
    for where, name in trained:
        train_name = get_task(name).train_on or name
        train_split = recipe.data.train_split.get(train_name, "train")
        dev_split = recipe.data.dev_split.get(train_name, "dev")
        for problems in _of_splits(train_name, train_split, dev_split):
            yield problems, f"{where} trains ({name})"


def _of_splits(name: str, *splits: str) -> list[str]:
    """The problems of a task's splits; [] for one that is no code, or that this version has not."""
    try:
        problems = get_task(name).problems
    except UserError:
        return []
    return [problems[split] for split in splits if split in problems]


def _tasks_behind(model: str) -> Iterator[str]:
    """The tasks that an exported model was trained on, by the file that its phase left beside it, and the models that
    it started from; none for a model from elsewhere."""
    for _ in range(LONGEST_LINEAGE):
        lineage = Path(model) / LINEAGE
        if not lineage.is_file():
            return
        content = read_json(lineage)
        try:
            tasks, model = content["phase"]["train"], str(content["init"])
        except (KeyError, TypeError):
            raise UserError(f"{lineage} does not say what the model was trained on; delete it, or export the model "
                            "again") from None  # fmt: skip
        yield from map(str, tasks)
