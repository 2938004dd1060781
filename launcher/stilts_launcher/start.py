"""From recipe to ranks: make the run folder, plan, and start what the plan needs."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stilts_ds.config import Recipe, recipe_yaml, written_recipe
from stilts_ds.errors import UserError
from stilts_ds.hub_client import cache_home, go_offline_without_network
from stilts_ds.model_hub import ensure_model, is_hub_model, pin_model
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir, write_atomically
from stilts_launcher import local
from stilts_launcher.discover import discover
from stilts_launcher.rank_place import RankPlace

log = logging.getLogger(__name__)


def run_of(recipe: Recipe) -> RunDir:
    return RunDir(recipe.output_dir / recipe.name)


def prepare_run(recipe: Recipe, lacking: dict[str, str] | None = None) -> Plan:
    """Make the run folder, generate the toy world where asked, plan, and write recipe and plan. Returns the plan.

    With a dict as `lacking`, tasks without data are noted there, with what to do, in place of an error; such a plan
    is for looking at and not written, since its phases' names are not final.
    """
    from stilts_ds.data.data import Data, hub_commits_path
    from stilts_ds.model_files import check_folder, fingerprint, model_path
    from stilts_ds.plan import check_tasks, make_plan

    check_tasks(recipe)
    run = run_of(recipe)
    run.check_links()
    if recipe.data.source == "toy":
        from stilts_ds.toy.world import ensure_toy_world

        ensure_toy_world(run.root / "data", recipe.data.seed)
    path = model_path(recipe.model.name_or_path)
    check_folder(path)
    recipe = pin_model(recipe, hub_commits_path(recipe, run.root), ask=lacking is None)
    data = Data(recipe, run.root)

    def data_hash(task: str) -> str:
        try:
            return data.hash_of(task)
        except UserError as problem:
            if lacking is None:
                raise
            lacking[task] = str(problem)
            return "not here"

    plan = make_plan(recipe, fingerprint(path, recipe.model.revision), data_hash)
    if lacking:
        return plan
    write_atomically(run.recipe, recipe_yaml(recipe))
    plan.save(run.plan)
    return plan


def run_recipe(recipe: Recipe, only: str | None = None, phases: list[str] | None = None) -> int:
    """Run a recipe on this machine's ranks, or as one rank of several. Returns the exit status."""
    run = run_of(recipe)
    place = discover(os.environ)
    if uses_hub(recipe) and (unreachable := go_offline_without_network()):
        log.warning("%s; only the cache in HF_HOME=%s is looked at", unreachable, cache_home())
    if place is not None:
        return _as_a_rank(place, recipe, run, only, phases or [])
    with run_lock(run):
        prepare_run(recipe)
        ensure_model(written_recipe(run.recipe))
        count = rank_count(recipe)
        arguments = [str(run.root), *(phases or []), *(["--only", only] if only else [])]
        os.environ["STILTS_COLLECTIVE_TIMEOUT"] = str(recipe.engine.collective_timeout)
        return local.start_ranks(arguments, count, recipe.launch.omp_num_threads)


def _as_a_rank(place: RankPlace, recipe: Recipe, run: RunDir, only: str | None, phases: list[str]) -> int:
    from stilts_ds.phases import run_ranks

    os.environ.update(place.variables())
    os.environ["STILTS_COLLECTIVE_TIMEOUT"] = str(recipe.engine.collective_timeout)

    with ExitStack() as until_the_end:

        def before() -> None:
            until_the_end.enter_context(run_lock(run))
            prepare_run(recipe)
            ensure_model(written_recipe(run.recipe))

        return run_ranks(run, phases, only, before)


def uses_hub(recipe: Recipe) -> bool:
    return recipe.data.source == "hub" or is_hub_model(recipe)


def rank_count(recipe: Recipe) -> int:
    if recipe.launch.nproc != "auto":
        return recipe.launch.nproc
    import torch

    return max(1, torch.cuda.device_count())


@contextmanager
def run_lock(run: RunDir) -> Iterator[None]:
    """Only one `stilts run` or `submit` works in a run folder at a time."""
    with folder_lock(run.root, f"another stilts is at work in {run.root}; wait for it, or give another name=..."):
        yield


def no_link(path: str, flags: int) -> int:
    """Opens a file, but not through a link, which could stand for any file of the user's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}); delete it if it is a link") from None


@contextmanager
def folder_lock(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder's lock; raises UserError with `refusal` where another process has it. A dead holder lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", opener=no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(refusal) from None
        yield
