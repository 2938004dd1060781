"""`stilts clean`: what of a run can go, shown first, and removed with `--yes`."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import get_args

from stilts_ds.config import Keep
from stilts_ds.errors import counted
from stilts_ds.run_dir import RunDir
from stilts_launcher.options import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb=clean)
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--keep", choices=get_args(Keep), help="models that stay (default: the recipe's `keep`)")
    parser.add_argument("--unplanned", action="store_true", help="also phases that the run's plan has not (any more)")
    parser.add_argument("--yes", action="store_true", help="remove what is shown")


def clean(given: argparse.Namespace) -> int:
    from stilts_ds.disk import leftovers, removals, remove, unplanned
    from stilts_ds.locks import run_lock
    from stilts_ds.plan_file import Plan
    from stilts_launcher.recipes import recipe_of_run

    run = RunDir(given.run_dir)
    recipe, plan = recipe_of_run(run), Plan.load(run.plan)
    # No start may go on in between: what it is about to read would be gone.
    with run_lock(run):
        chosen = [*removals(run, plan, given.keep or recipe.keep), *leftovers(run, plan)]
        folders = unplanned(run, plan) if given.unplanned else []
        for removal in [*chosen, *folders]:
            say(f"{removal.bytes / 1e9:9.3f} GB  {removal.phase_id}  {removal.names} ({removal.reason})")
        freed = sum(removal.bytes for removal in [*chosen, *folders])
        if not freed:
            say("nothing to remove" + ("" if given.unplanned else "; --unplanned also looks at phases of other plans"))
            return 0
        count = counted(len(chosen) + len(folders), "phase")
        if not given.yes:
            say(f"{freed / 1e9:.3f} GB of {count}; nothing is removed yet: add --yes")
            return 0
        gone = [removal for removal in chosen if remove(run, removal)]
        for removal in folders:
            shutil.rmtree(run.phase(removal.phase_id).root)
        removed = [*gone, *folders]
        freed = sum(removal.bytes for removal in removed)
        say(f"removed {freed / 1e9:.3f} GB of {counted(len(removed), 'phase')}")
    return 0
