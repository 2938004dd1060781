"""The recipe that a command works with: as its words say, or as it stands in a run's folder."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stilts_ds.config import NAME, Recipe, load_recipe
from stilts_ds.errors import UserError
from stilts_ds.recipe_paths import resolve_paths
from stilts_ds.run_dir import RunDir


def resolved_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """A shipped recipe or a YAML file with `key=value` overrides: its paths absolute, its model's commit the run's.

    Raises UserError naming the file or the word at fault.
    """
    from stilts_ds.data.data import hub_commits_path
    from stilts_ds.ds_files import base_config
    from stilts_ds.model_files import fit_retrieval_length
    from stilts_ds.model_hub import pin_model
    from stilts_ds.task_files import add_recipe_tasks

    recipe = resolve_paths(load_recipe(name, list(overrides)))
    add_recipe_tasks(recipe)  # from here on they are tasks like any other
    base_config(recipe.engine)  # a faulty DeepSpeed file is told before data are read
    # Whoever looks at the model's files looks at the commit that the run keeps; the hub is asked later.
    recipe = pin_model(recipe, hub_commits_path(recipe, recipe.output_dir / recipe.name), ask=False)
    return fit_retrieval_length(recipe)


def recipe_of_run(run: RunDir) -> Recipe:
    """The resolved recipe inside a run folder, for work in just that folder, also where it was copied or moved.

    Raises UserError where there is none, or the folder has a name that no run can have.
    """
    from stilts_ds.plan_file import Plan
    from stilts_ds.report.load import read_recipe

    run.check_links()
    recipe, folder = read_recipe(run), run.root.resolve()
    if run.plan.exists():
        Plan.load(run.plan)  # which makes the tasks known that the recipe names and its user brought
    if not re.fullmatch(NAME, folder.name):
        raise UserError(f"{folder.name!r} is no name of a run; use letters, digits, '.', '_' and '-'")
    return recipe.model_copy(update={"output_dir": folder.parent, "name": folder.name})
