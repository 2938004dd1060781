"""The story of a run, on every rank: for each phase of the plan, train -> export -> predict -> score.

Ranks find each other through torchrun's variables. `stilts_launcher.rank` starts this program for `stilts run` and for
batch jobs; torchrun may, too: `torchrun -m stilts_ds.phases RUN_DIR [PHASE_ID ...]`. Without phase ids, every phase of
the plan runs in order.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, written_recipe
from stilts_ds.data.data import Data
from stilts_ds.disk import drop_unneeded
from stilts_ds.engine.number_format import with_format
from stilts_ds.engine.preflight import check_same_start
from stilts_ds.engine.ranks import run_as_rank
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score_run import score_phase
from stilts_ds.evaluate.zero_shot import evaluate_phase
from stilts_ds.lineage import start_weights
from stilts_ds.locks import phase_lock
from stilts_ds.model.encoder import quiet
from stilts_ds.phase_record import PhaseRecord, StudyLog
from stilts_ds.phase_setup import check_folders, check_start, read_data, take_up, train_phase
from stilts_ds.phase_tracking import track_scores
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planning.sizes import steps_and_tokens
from stilts_ds.run_dir import RunDir, provenance, write_json


def run_phases(run: RunDir, names: list[str], only: str | None, world: World) -> None:
    """Run the wanted phases (all: []) of a planned run, by id or label."""
    recipe = written_recipe(run.recipe)
    plan = Plan.load(run.plan)
    chosen = plan.named(names, run.plan)
    check_start(run, recipe, chosen, plan, world, only)
    data = Data(recipe, run.root)

    told = StudyLog(run, chosen, world)
    world.on_rank_0(partial(check_folders, run, plan, chosen))
    read_data(data, chosen, world)
    told.has_read(data, only)
    for number, phase in enumerate(chosen, start=1):
        with told.of_phase(number, phase):
            with ExitStack() as until_it_ends:
                # Only rank 0 takes the lock: a second rank would find it taken.
                hold = partial(until_it_ends.enter_context, phase_lock(run.phase(phase.id)))
                world.on_rank_0(hold)
                run_phase(run, recipe, phase, data, only, world)
            # After the lock is given back: this phase's own model may be one that is not kept.
            world.on_rank_0(partial(drop_unneeded, run, plan, recipe.keep))
    told.ends()


def run_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, only: str | None, world: World) -> None:
    """One phase, resumed where it stands; its status file says how it went and what it cost."""
    folder = run.phase(phase.id)
    world.on_rank_0(lambda: take_up(run, phase, only))
    # Read once: on a shared file system other nodes may still see the old file.
    state, trained = world.broadcast((folder.status(), folder.is_trained()) if world.first else None)
    # Taken before the phase runs, so that a model which changes meanwhile is noticed.
    started_from = start_weights(run, recipe, phase) if world.first else ""
    record = PhaseRecord(folder, world)
    # A trained phase keeps the provenance of its training.
    if world.first and not trained:
        write_json(folder.phase_json, {**phase.to_json(), "provenance": provenance().to_json()})
    if world.first and phase.train:
        write_json(folder.duplicates, data.overlaps(phase).model_dump())
    world.barrier()
    with record.of_failures():
        if phase.train and not trained:
            if only == "evaluate":
                raise UserError(f"{phase.label} is not trained yet ({state}); `stilts run` trains it")
            chosen = with_format(recipe, folder.read_status().dtype if world.first else None, world)
            # The status keeps what `auto` chose: a later start, perhaps on another machine, goes on in that format.
            dtype = chosen.engine.dtype if recipe.engine.dtype == "auto" else None
            # A killed start leaves `running`, so that `stilts status` and the next start know that it began.
            steps = steps_and_tokens(phase, data)[0] if world.first else None
            record.save("running", dtype=dtype, started_from=started_from, steps=steps)
            progress = train_phase(run, chosen, phase, data, world)
            record.save("trained", best=progress.chosen(), curve=progress.curve)
        if world.first:  # the published model is what later phases and evaluation need
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        if only == "train" and phase.evaluate:
            return
        score(run, recipe, phase, data, world)
        # Once: a start that only looks at a finished phase has no news.
        if world.first and state != "done":
            track_scores(run, recipe, phase)
        record.save("done", started_from=None if phase.train else started_from)


def score(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> None:
    """Predict what the phase is scored on, and score it; nothing for an intermediate phase. A collective."""
    if phase.evaluate:
        evaluate_phase(run, recipe, phase, data, world)
        # Scores are made of the prediction files, which rank 0 has gathered.
        world.on_rank_0(lambda: score_phase(run, recipe, phase, data))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stilts_ds.phases", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("phases", nargs="*", help="phase ids; default: all")
    parser.add_argument("--only", choices=["train", "evaluate"], help="do only this part of each phase")
    given = parser.parse_args(arguments)
    return run_ranks(RunDir(given.run_dir), given.phases, given.only)


def run_ranks(
    run: RunDir,
    wanted: list[str],
    only: str | None = None,
    before: Callable[[], None] | None = None,
    given: Mapping[str, Any] | None = None,
) -> int:
    """Join the other ranks and run phases; rank 0 calls `before` first. `given`: what each rank was started with, which
    must be alike. Returns the exit status (engine/ranks.py)."""

    def work(world: World) -> None:
        # First: ranks that were started with different settings must not go on together.
        check_same_start(world, given or {})
        world.on_rank_0(before)
        run_phases(run, wanted, only, world)

    quiet()
    logs = run.logs / wanted[0] if len(wanted) == 1 else run.logs  # a phase run alone has its own folder
    return run_as_rank(run, logs, work)


if __name__ == "__main__":
    sys.exit(main())
