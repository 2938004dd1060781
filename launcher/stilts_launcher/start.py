"""From recipe to ranks: make the run folder, plan, and start what the plan needs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from stilts_ds.config import Recipe, recipe_yaml, written_recipe
from stilts_ds.display import CONSOLE
from stilts_ds.errors import UserError, counted
from stilts_ds.hub_client import cache_home, go_offline_without_network
from stilts_ds.locks import phase_lock, run_lock
from stilts_ds.model_hub import ensure_model, is_hub_model, pin_model
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir, write_atomically
from stilts_launcher import local
from stilts_launcher.discover import discover
from stilts_launcher.imports import heavy_imports
from stilts_launcher.rank_place import RankPlace, usable_cores

if TYPE_CHECKING:
    # Imports numpy with the families, which `stilts --help` does without.
    from stilts_ds.named_tasks import NamedTasks

log = logging.getLogger(__name__)


def run_of(recipe: Recipe) -> RunDir:
    return RunDir(recipe.output_dir / recipe.name)


def ensure_toy_data(run: RunDir, seed: int, tasks: NamedTasks) -> None:
    """Generate the toy world's files that a study of these tasks reads, where they are not there yet."""
    from stilts_ds.families.registry import family_of
    from stilts_ds.toy.world import ensure_toy_world

    # Running text is half of the work of generating the world, and only masked language modelling reads it.
    reads_text = any(not family_of(task).labelled for task in tasks.trained)
    ensure_toy_world(run.root / "data", seed, reads_text)


def prepare_run(recipe: Recipe, lacking: dict[str, str] | None = None, wanted: Sequence[str] = ()) -> Plan:
    """Make the run folder, generate the toy world where asked, plan, and write recipe and plan. Returns the plan.

    With a dict as `lacking`, tasks without data are noted there, with what to do, in place of an error; such a plan
    is for looking at and not written, since its phases' names are not final. `wanted` are the phases that will run (all
    of them: none is named): a phase alone needs no files of others.
    """
    from stilts_ds.data.data import Data, hub_commits_path
    from stilts_ds.model_files import check_folder, fingerprint, model_path
    from stilts_ds.named_tasks import check_tasks
    from stilts_ds.phase_names import EarlierPhases
    from stilts_ds.planner import make_plan
    from stilts_ds.unread import unread_settings
    from stilts_launcher.needs import check_files

    tasks = check_tasks(recipe)
    # Not refused: a shipped recipe keeps its settings when it is run with other targets.
    if unread := unread_settings(recipe):
        log.warning("set in the recipe, and read by nothing in this run: %s", ", ".join(unread))
    run = run_of(recipe)
    # Through a link out of the folder, this run would write into another one's files.
    run.check_links()
    if recipe.data.source == "toy":
        ensure_toy_data(run, recipe.data.seed, tasks)
    path = model_path(recipe.model.name_or_path)
    check_folder(path)
    # A plan that is only looked at asks the hub nothing; the commit is then the cached one.
    recipe = pin_model(recipe, hub_commits_path(recipe, run.root), ask=lacking is None)
    data = Data(recipe, run.root)
    # Before files are hashed, which takes minutes for a whole study.
    if lacking is None and not wanted:
        check_files(recipe, data)

    def data_hash(task: str) -> str:
        try:
            return data.hash_of(task)
        except UserError as problem:
            if lacking is None:
                raise
            lacking[task] = str(problem)
            # Goes into the phases' ids in place of a hash, which is why such a plan is never written.
            return "not here"

    # Phases that an earlier version named otherwise keep their folders, so that they are not trained again.
    earlier = EarlierPhases.of(run, recipe, path, data.used_whole)
    plan = make_plan(recipe, fingerprint(path, recipe.model.revision), data_hash, earlier)
    if lacking:
        return plan
    write_atomically(run.recipe, recipe_yaml(recipe))
    plan.save(run.plan)
    complete_records(run, recipe, plan)
    return plan


def complete_records(run: RunDir, recipe: Recipe, plan: Plan) -> None:
    """Write the hashes of weights into what an earlier version left without them, while they are still the same."""
    from stilts_ds.evaluate.stamp import complete_stamps
    from stilts_ds.lineage import predicting_weights, save_start

    begun = [phase for phase in plan.phases if run.phase(phase.id).status_json.exists()]
    for phase in begun:
        folder = run.phase(phase.id)
        with suppress(UserError), phase_lock(folder):  # a job that works there keeps its own records
            save_start(run, recipe, phase)
            complete_stamps(folder, predicting_weights(run, recipe, phase))


def run_recipe(recipe: Recipe, only: str | None = None, phases: list[str] | None = None) -> int:
    """Run a recipe on this machine's ranks, or as one rank of several. Returns the exit status."""
    run = run_of(recipe)
    # Somebody waits for this command and wants milestones; `-q` and `-v` have set something else by now.
    os.environ.setdefault(CONSOLE, "milestones")
    rank_place = discover(os.environ)
    # Before anything imports huggingface_hub, which reads HF_HUB_OFFLINE once.
    if uses_hub(recipe) and (unreachable := go_offline_without_network()):
        log.warning("%s; only the cache in HF_HOME=%s is looked at", unreachable, cache_home())
    if rank_place is not None:
        if recipe.launch.worlds != 1:
            raise UserError(
                f"launch.worlds={recipe.launch.worlds} divides ranks that `stilts run` starts itself, and these were "
                f"started by {rank_place.starter}; leave it out"
            )
        return _as_a_rank(rank_place, recipe, run, only, phases or [])
    from stilts_launcher.worlds import run_worlds, world_count

    # Held to the end: two starts of one run would train into the same folders.
    with run_lock(run):
        plan = prepare_run(recipe, wanted=phases or [])
        # The written recipe has the model's commit, so that all ranks find the same files in the cache.
        ensure_model(written_recipe(run.recipe))
        ranks, chosen = rank_count(recipe), plan.named(phases or [], run.plan)
        os.environ["STILTS_COLLECTIVE_TIMEOUT"] = str(recipe.engine.collective_timeout)
        worlds = world_count(recipe, ranks, chosen, only)
        if worlds > 1:
            return run_worlds(run, recipe, chosen, ranks, worlds, only)
        count = fed_ranks(ranks, chosen, only)
        arguments = [str(run.root), *(phases or []), *(["--only", only] if only else [])]
        return local.start_ranks(arguments, count, recipe.launch.omp_num_threads)


def _as_a_rank(rank_place: RankPlace, recipe: Recipe, run: RunDir, only: str | None, phases: list[str]) -> int:
    with heavy_imports():
        from stilts_ds.phases import run_ranks

    os.environ.update(rank_place.variables())
    # Through the environment, since ranks make their process groups before they read a recipe.
    os.environ["STILTS_COLLECTIVE_TIMEOUT"] = str(recipe.engine.collective_timeout)

    with ExitStack() as until_the_end:
        # On rank 0 alone, while the others wait: one rank plans and downloads, for all.
        def before() -> None:
            until_the_end.enter_context(run_lock(run))
            prepare_run(recipe, wanted=phases)
            ensure_model(written_recipe(run.recipe))

        # `launch` is how ranks are started on one machine, and these are started.
        given = {**recipe.model_dump(mode="json", exclude={"launch"}), "--only": only, "--phase": phases}
        return run_ranks(run, phases, only, before, given)


def uses_hub(recipe: Recipe) -> bool:
    return recipe.data.source == "hub" or is_hub_model(recipe)


def fed_ranks(count: int, phases: Iterable[Phase], only: str | None = None) -> int:
    """How many of `count` ranks the phases can use: no more than the smallest step has examples, where any is taken."""
    from stilts_ds.planner import most_ranks

    most = most_ranks(phases, only)
    if most is None or most >= count:
        return count
    log.warning("%s are started and not %d: train_batch_size gives no more of them work", counted(most, "rank"), count)
    return most


def rank_count(recipe: Recipe) -> int:
    """Ranks to start on this machine, of all worlds. Raises UserError for more than there are GPUs, or cores without
    GPUs, unless the recipe says that this is meant."""
    wanted, worlds = recipe.launch.nproc, recipe.launch.worlds
    # One rank fits every machine: asking would only import torch, which takes seconds.
    if wanted == 1:
        return 1
    import torch

    devices = torch.cuda.device_count()
    if wanted == "auto" and devices:
        return devices
    key = f"launch.nproc={wanted}"
    if wanted == "auto":
        wanted, key = (1 if worlds == "auto" else worlds), f"launch.worlds={worlds}"
    available, unit = (devices, "GPU") if devices else (usable_cores(), "core")
    if wanted > available and not recipe.launch.oversubscribe:
        raise UserError(
            f"{key}, but this machine has {counted(available, unit)} to use; give a smaller number, or "
            "launch.oversubscribe=true"
        )
    return wanted
