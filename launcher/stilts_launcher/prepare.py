"""`stilts prepare`: make the rows of a study before its phases run, on as many CPU nodes as wanted.

Started on several nodes at once, the processes divide the work among themselves (stilts_ds/data/prepare.py). `stilts
submit` puts a job that does this before phases that ask for GPUs; its ranks come in by `main`.
"""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from stilts_ds.engine.preempt import die_with
from stilts_ds.errors import UserError, counted
from stilts_ds.run_dir import RunDir
from stilts_launcher.options import add_overrides, recipe_of, recipes_help, run_folder, say
from stilts_launcher.rank_place import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=prepare)
    parser.add_argument("recipe", help=f"{recipes_help()}, or the folder of a run that is planned")
    add_overrides(parser)
    parser.add_argument("--processes", type=int, metavar="N", help="processes on this machine (default: its cores)")


def prepare(given: argparse.Namespace) -> int:
    processes = usable_cores() if given.processes is None else given.processes
    if processes < 1:
        raise UserError(f"--processes={processes}: give at least 1")
    planned = RunDir(run_folder(given.recipe))
    if not planned.plan.exists():
        planned = _plan(given)
    elif given.overrides:
        raise UserError(f"{given.overrides[0]}: {planned.root} is planned already; give its recipe to plan it anew")
    prepare_rows(planned, processes)
    return 0


def _plan(given: argparse.Namespace) -> RunDir:
    """Plan a recipe as `stilts run` does; returns its run's folder."""
    from stilts_ds.hub_client import go_offline_without_network
    from stilts_ds.locks import run_lock
    from stilts_launcher.start import prepare_run, run_of, uses_hub

    recipe = recipe_of(given)
    if uses_hub(recipe):
        go_offline_without_network()
    run = run_of(recipe)
    with run_lock(run):
        prepare_run(recipe)
    return run


def prepare_rows(run: RunDir, processes: int) -> None:
    """Make the rows of a planned run, and say which are there."""
    from stilts_ds.data.prepare import prepare_run_data

    run.check_links()
    # A process of the pool would wait for ever for a parent that was killed.
    end_together = partial(die_with, os.getpid())
    count, elsewhere = prepare_run_data(run, processes, lambda title: say(f"{title}: ready"), end_together)
    others = f", {elsewhere} of them made by another process" if elsewhere else ""
    say(f"{counted(count, 'set')} of rows ready for {run.root}{others}")


def main(folder: str) -> int:
    """One rank of a job that prepares. Returns the exit status."""
    try:
        prepare_rows(RunDir(Path(folder)), usable_cores())
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0
