"""`stilts fetch`: bring everything that a recipe needs onto this machine, and see that it loads without a network.

    python -m stilts_launcher.fetch RUN_DIR     the check alone, as `stilts fetch` runs it under HF_HUB_OFFLINE=1

For login nodes: no torch is needed. Hub models and data sets go into the Hugging Face cache (HF_HOME), tokenised rows
into the run's. Of local files, each missing one is named.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from stilts_ds.config import Recipe, written_recipe
from stilts_ds.data.data import Data, prepare_data
from stilts_ds.errors import UserError, counted, redacted
from stilts_ds.model_files import TOKENIZER_FILES, check_folder, check_weights, model_folder, model_path
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir
from stilts_launcher.needs import ensure_local, needs_of
from stilts_launcher.start import prepare_run, run_of

PROBE_SECONDS = 10.0


def fetch_recipe(recipe: Recipe) -> str:
    """Fetch, tokenise and check. Returns what to print; raises UserError naming everything that is missing."""
    run = run_of(recipe)
    unreachable = go_offline_without_network() if uses_hub(recipe) else None
    if recipe.data.source == "toy":
        from stilts_ds.toy.world import ensure_toy_world

        ensure_toy_world(run.root / "data", recipe.data.seed)
    data = Data(recipe, run.root)
    needs, problems = needs_of(recipe, data)
    problems = [*_model_problems(recipe, unreachable), *problems]
    for need in needs:
        problems += ensure_local(need, data)
    if problems:
        raise UserError(_report(list(dict.fromkeys(problems)), recipe, unreachable))
    plan = prepare_run(recipe)
    prepare_data(data, plan.phases)
    _check_offline(run)
    return "\n".join(_summary(recipe, data, len(needs)))


def uses_hub(recipe: Recipe) -> bool:
    return recipe.data.source == "hub" or not Path(model_path(recipe.model.name_or_path)).exists()


def go_offline_without_network() -> str | None:
    """None where the hub answers; otherwise why it does not, and from then on only the cache is looked at.

    To be called before huggingface_hub is imported, which reads the environment once.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set (unset it to use the network)"
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(endpoint, timeout=PROBE_SECONDS):
            return None
    except urllib.error.HTTPError:
        return None  # something answers; what it says to the real requests counts
    except (OSError, ValueError) as error:
        os.environ["HF_HUB_OFFLINE"] = "1"
        return f"{endpoint} cannot be reached ({redacted(str(getattr(error, 'reason', error)))})"


def _model_problems(recipe: Recipe, unreachable: str | None) -> list[str]:
    name, revision = recipe.model.name_or_path, recipe.model.revision
    try:
        check_folder(model_path(name))
        folder = model_folder(name, revision)
        if not Path(model_path(name)).exists() and unreachable is None:
            folder = _download_model(name, revision)
        if folder is None:
            return [f"model {name} is not in the Hugging Face cache"]
        check_weights(folder)
    except UserError as problem:
        return [str(problem)]
    return []


def _download_model(name: str, revision: str | None) -> Path:
    """Configuration, tokenizer and weights of a hub model, into the cache. Raises UserError with the hub's reason."""
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(name, revision=revision)
        return Path(snapshot_download(name, revision=revision, allow_patterns=model_files_of(files)))
    except Exception as error:  # the hub client raises many kinds
        reason = redacted(str(error) or type(error).__name__).strip().split("\n")[0][:200]
        raise UserError(f"cannot fetch model {name} from the hub: {reason}") from None


def model_files_of(files: list[str]) -> list[str]:
    """Patterns of what training needs of a model repository: one format of the weights, safetensors where offered."""
    safe = any(file.endswith(".safetensors") and "/" not in file for file in files)
    weights = (
        ["model*.safetensors", "model.safetensors.index.json"]
        if safe
        else ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
    )
    wanted = ("config.json", *TOKENIZER_FILES, *weights)
    return [file for file in files if "/" not in file and any(Path(file).match(one) for one in wanted)]


def _report(problems: list[str], recipe: Recipe, unreachable: str | None) -> str:
    count = f"{counted(len(problems), 'thing is', 'things are')} missing or cannot be used:"
    lines = [count, *(f"- {problem}" for problem in problems)]
    if uses_hub(recipe) and unreachable is not None:
        lines.append(
            f"{unreachable}, so only the cache in HF_HOME={cache_home()} was looked at. Run `stilts fetch` where there "
            "is a network and the same HF_HOME is seen, or set HF_HOME to a cache that was filled"
        )
    return "\n".join(lines)


def cache_home() -> str:
    """The Hugging Face cache that counts, by the library's own rule."""
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return os.path.expanduser(os.environ.get("HF_HOME", os.path.join(base, "huggingface")))


def _check_offline(run: RunDir) -> None:
    """Load everything once more in a process that may not use the network."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    command = [sys.executable, "-m", "stilts_launcher.fetch", str(run.root)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        told = redacted(done.stdout).strip().split("\n")[-1]
        raise UserError(f"fetched, but it does not load with HF_HUB_OFFLINE=1: {told.removeprefix('error: ')}")


def check_run(run: RunDir) -> None:
    """Open the model, the tokenizer, every split and all rows of a planned run; UserError for what is not there."""
    recipe = written_recipe(run.recipe)
    folder = model_folder(recipe.model.name_or_path, recipe.model.revision)
    if folder is None:
        raise UserError(f"model {recipe.model.name_or_path} is not in the cache")
    check_weights(folder)
    data = Data(recipe, run.root)
    _ = data.tokenizer
    needs, problems = needs_of(recipe, data)
    for need in needs:
        problems += ensure_local(need, data)
    if problems:
        raise UserError(problems[0])
    prepare_data(data, Plan.load(run.plan).phases)


def _summary(recipe: Recipe, data: Data, splits: int) -> list[str]:
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
