"""What `stilts run` and `stilts plan` do, for notebooks and scripts: `stilts_ds.run` and `stilts_ds.plan`."""

from __future__ import annotations

import json

import pandas

from stilts_ds.errors import UserError
from stilts_ds.report.write import write_report
from stilts_ds.study import Run, load
from stilts_launcher.execute_run import execute_run
from stilts_launcher.recipes import resolved_recipe
from stilts_launcher.show.plan import show_plan
from stilts_launcher.start import run_of, run_recipe


def plan(recipe: str, *overrides: str) -> pandas.DataFrame:
    """One row for each phase of a recipe, with steps, tokens, memory and what is done already. Nothing is trained.

    `plan("quickstart", "seeds=[1,2]")`: `overrides` are words as on the command line. `phase` is the name that people
    read. `attrs["lacking"]` of the result holds a sentence for each task whose data are not there. Raises UserError
    naming the setting at fault.
    """
    # By way of the text that `stilts plan --json` prints, so that notebooks and command lines see one description.
    described = json.loads(show_plan(resolved_recipe(recipe, overrides), as_json=True))
    frame = pandas.DataFrame(described["phases"]).rename(columns={"name": "phase", "id": "phase_id"})
    frame.attrs["lacking"] = described["lacking"]
    return frame


def run(recipe: str, *overrides: str) -> Run:
    """Train, evaluate, score and report a recipe on this machine's ranks, or go on where it was. Returns the run.

    The ranks are processes of their own, and their log goes where this one's output goes. Raises UserError for a faulty
    recipe and where the run ends early: the log, and runs/NAME/logs, say why.
    """
    resolved = resolved_recipe(recipe, overrides)
    status = run_recipe(resolved)
    folder = run_of(resolved)
    # The ranks are other processes: of their errors only an exit status arrives here, so the message points at the log.
    if status:
        raise UserError(f"the run ended early, with exit status {status}; its log and {folder.root} say why")
    execute_run(folder)
    # `load` reads the scores of the phases alone; the report is for people, and `stilts run` ends in one, too.
    write_report(folder)
    return load(folder.root)
