"""Start a trial: a few real steps of the largest phase on this machine's ranks, in a temporary folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from stilts_ds.config import Recipe, recipe_yaml
from stilts_ds.errors import UserError
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir, write_atomically
from stilts_ds.trial_file import Trial
from stilts_launcher import local
from stilts_launcher.discover import discover
from stilts_launcher.start import rank_count
from stilts_launcher.worlds import world_count


def run_trial(recipe: Recipe, run: RunDir, plan: Plan, phase: Phase) -> Trial:
    """Measure a few steps of `phase`; returns what stilts_ds.trial wrote.

    Only tokenised rows stay, in the run's cache, where the run itself finds them. Raises UserError where the ranks
    fail, and where this is itself one of several ranks.
    """
    if discover(os.environ) is not None:
        raise UserError("--trial starts its own ranks: call it once, without torchrun, mpirun or a cluster's launcher")
    with tempfile.TemporaryDirectory(prefix="stilts-trial-") as folder:
        trial = RunDir(Path(folder))
        # The rows are those of the run: its cache is kept, so that the run need not tokenise again.
        data = recipe.data.model_copy(update={"cache": recipe.data.cache or run.root / "cache"})
        if recipe.data.source == "toy":
            # The toy world lies in the run folder, where the ranks of a run look for it.
            (trial.root / "data").symlink_to(run.root / "data")
        write_atomically(trial.recipe, recipe_yaml(recipe.model_copy(update={"data": data})))
        plan.save(trial.plan)
        # The run's plan: one made anew in this folder could name the phase otherwise.
        arguments = [str(trial.root), phase.id]
        ranks = rank_count(recipe)
        ranks //= world_count(recipe, ranks, plan.phases)
        status = local.start_ranks(arguments, ranks, recipe.launch.omp_num_threads, program="stilts_ds.trial")
        if status != 0:
            raise UserError(f"the trial of {phase.label} failed with status {status}; what its ranks said stands above")
        return Trial.load(trial.trial)
