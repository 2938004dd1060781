"""Settings that a recipe changes and that nothing in its run reads: a slip, or what other tasks would read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stilts_ds.config import EvaluationPart, Recipe
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.model_files import fit_retrieval_length
from stilts_ds.plan_file import Phase
from stilts_ds.planner import make_plan
from stilts_ds.tasks.registry import get_task

# Settings of `evaluation` that say where and how fast every task is scored, or name their tasks themselves.
FOR_EVERY_TASK = {"per_device_eval_batch_size", "languages", "splits"}
# Sections that are read by phases of some kind only.
OF_SOME_PHASES = ("sampling", "intermediate_training", "target_training", "multitask_training", "mlm_training")


def unread_settings(recipe: Recipe) -> list[str]:
    """Their names. Raises UserError as the plan of the recipe does."""
    # What `limit` caps and what the model's longest row lowers is nobody's slip.
    default = Recipe(name=recipe.name, model=recipe.model, targets=recipe.targets, limit=recipe.limit)
    recipe, default = fit_retrieval_length(recipe), fit_retrieval_length(default)
    return [*_of_evaluation(recipe, default), *_of_training(recipe, default)]


def _of_evaluation(recipe: Recipe, default: Recipe) -> Iterator[str]:
    """Settings that no target's scores depend on."""
    asked = recipe.evaluation
    families = [family_of(get_task(name)) for name in recipe.targets]

    def read(evaluation: EvaluationPart) -> list[object]:
        return [(family.settings(evaluation), family.limit(evaluation)) for family in families]

    for name in EvaluationPart.model_fields:
        without = asked.model_copy(update={name: getattr(default.evaluation, name)})
        if name not in FOR_EVERY_TASK and without != asked and read(without) == read(asked):
            yield f"evaluation.{name}"


def _of_training(recipe: Recipe, default: Recipe) -> Iterator[str]:
    """Sections without which every phase would be the same."""
    changes = {name: {name: getattr(default, name)} for name in OF_SOME_PHASES}
    for task in recipe.task_training:
        others = {name: section for name, section in recipe.task_training.items() if name != task}
        changes[f"task_training.{task}"] = {"task_training": others}

    phases = _phases(recipe)
    for name, change in changes.items():
        without = recipe.model_copy(update=change)
        if without != recipe and _same(without, phases):
            yield name


def _same(recipe: Recipe, phases: Sequence[Phase]) -> bool:
    """Whether a recipe has these phases. Without a setting that another one needs there are none."""
    try:
        return _phases(recipe) == phases
    except UserError:
        return False


def _phases(recipe: Recipe) -> Sequence[Phase]:
    return make_plan(recipe, "", lambda task: "").phases
