"""`stilts fetch`: bring everything that a recipe needs onto this machine, and see that it loads without a network.

    python -m stilts_launcher.fetch RUN_DIR     the check alone, as `stilts fetch` runs it under HF_HUB_OFFLINE=1

For login nodes: no torch is needed. Hub models and data sets go into the Hugging Face cache (HF_HOME), tokenised rows
into the run's. Of local files, each missing one is named.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from stilts_ds.config import Recipe, written_recipe
from stilts_ds.data.data import Data, hub_commits_path
from stilts_ds.data.prepare import prepare_data
from stilts_ds.errors import UserError, counted, redacted
from stilts_ds.hub_client import cache_home, go_offline_without_network
from stilts_ds.model_files import check_folder, model_folder, model_path
from stilts_ds.model_hub import download_model, is_hub_model, model_files_of, pin_model
from stilts_ds.named_tasks import check_tasks
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir
from stilts_ds.weight_files import check_weights
from stilts_launcher.needs import ensure_local, needs_of
from stilts_launcher.start import ensure_toy_data, prepare_run, run_of, uses_hub

__all__ = ["fetch_recipe", "model_files_of"]  # what is fetched of a model is asked of this module


def fetch_recipe(recipe: Recipe) -> str:
    """Fetch, tokenise and check. Returns what to print; raises UserError naming everything that is missing."""
    run = run_of(recipe)
    # One probe, in place of a timeout at each file. A recipe of local files asks no network anything.
    unreachable = go_offline_without_network() if uses_hub(recipe) else None
    if recipe.data.source == "toy":
        ensure_toy_data(run, recipe.data.seed, check_tasks(recipe))
    recipe, model_problems = _fetch_model(recipe, run, unreachable)
    data = Data(recipe, run.root)
    needs, problems = needs_of(recipe, data)
    # All problems are gathered before any is raised: somebody with a slow line must not learn of them one at a time.
    problems = [*model_problems, *problems]
    for need in needs:
        problems += ensure_local(need, data)
    if problems:
        raise UserError(_report(list(dict.fromkeys(problems)), recipe, unreachable))
    # Only now: the ids of phases hash the data.
    plan = prepare_run(recipe)
    prepare_data(data, plan.phases)
    # Without a network, a file that only seemed to be cached would fail a job after hours in the queue.
    _check_offline(run)
    return "\n".join(_summary(recipe, data, len(needs)))


def _fetch_model(recipe: Recipe, run: RunDir, unreachable: str | None) -> tuple[Recipe, list[str]]:
    """The recipe with its model at a commit, and what is wrong with the model's files."""
    name = recipe.model.name_or_path
    try:
        check_folder(model_path(name))
        recipe = pin_model(recipe, hub_commits_path(recipe, run.root), ask=True)
        folder = model_folder(name, recipe.model.revision)
        if is_hub_model(recipe) and unreachable is None:
            folder = download_model(name, recipe.model.revision)
        if folder is None:
            return recipe, [f"model {name} is not in the Hugging Face cache"]
        # A download that broke off is noticed here, not by a job.
        check_weights(folder)
    except UserError as problem:
        return recipe, [str(problem)]
    return recipe, []


def _report(problems: list[str], recipe: Recipe, unreachable: str | None) -> str:
    count = f"{counted(len(problems), 'thing is', 'things are')} missing or cannot be used:"
    lines = [count, *(f"- {problem}" for problem in problems)]
    if uses_hub(recipe) and unreachable is not None:
        lines.append(
            f"{unreachable}, so only the cache in HF_HOME={cache_home()} was looked at. Run `stilts fetch` where there "
            "is a network and the same HF_HOME is seen, or set HF_HOME to a cache that was filled"
        )
    return "\n".join(lines)


def _check_offline(run: RunDir) -> None:
    """Load everything once more in a process that may not use the network."""
    # In a process of its own: the hub's libraries read these variables once, when they are imported.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "stilts_launcher.fetch", str(run.root)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        last_line = redacted(done.stdout).strip().split("\n")[-1]
        raise UserError(f"fetched, but it does not load with HF_HUB_OFFLINE=1: {last_line.removeprefix('error: ')}")


def check_run(run: RunDir) -> None:
    """Open the model, the tokenizer, every split and all rows of a planned run; UserError for what is not there."""
    recipe = written_recipe(run.recipe)
    folder = model_folder(recipe.model.name_or_path, recipe.model.revision)
    if folder is None:
        raise UserError(f"model {recipe.model.name_or_path} is not in the cache")
    check_weights(folder)
    data = Data(recipe, run.root)
    # Loaded for the errors that this raises.
    _ = data.tokenizer
    needs, problems = needs_of(recipe, data)
    for need in needs:
        problems += ensure_local(need, data)
    if problems:
        raise UserError(problems[0])
    prepare_data(data, Plan.load(run.plan).phases)


def _summary(recipe: Recipe, data: Data, splits: int) -> list[str]:
    # The manifest is written last, so a folder without one is half done.
    rows = [folder for folder in data.store.folder.iterdir() if (folder / "manifest.json").exists()]
    megabytes = sum(file.stat().st_size for folder in rows for file in folder.iterdir()) / 1e6
    lines = [
        f"model {recipe.model.name_or_path}: {model_folder(recipe.model.name_or_path, recipe.model.revision)}",
        f"data: {counted(splits, 'split')} by language, {recipe.data.source}",
        f"rows: {counted(len(rows), 'set')}, {megabytes:.1f} MB in {data.store.folder}",
        "checked: everything loads with HF_HUB_OFFLINE=1",
    ]
    return [*lines, f"jobs must see HF_HOME={cache_home()}"] if uses_hub(recipe) else lines


def main(arguments: list[str]) -> int:
    try:
        check_run(RunDir(Path(arguments[0])))
    except UserError as problem:
        print(f"error: {problem}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
