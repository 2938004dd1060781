"""The verbs that look at what came out of a run: `score`, `report`, `push` and `submission`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stilts_ds.errors import UserError
from stilts_launcher.options import say

if TYPE_CHECKING:
    from stilts_ds.run_dir import PhaseDir, RunDir


def finish(folder: RunDir, figures: Sequence[Any] | None = None, qa_f1: bool = False, **settings: Any) -> None:
    from stilts_ds.report.stats import ComparisonSettings
    from stilts_ds.report.write import report_path, write_report

    say(f"\n{write_report(folder, ComparisonSettings(**settings), figures or (), qa_f1)}")
    say(f"Report with every language: {report_path(folder, '.html')} (and .md, .csv, .tex)")
    say(f"Curves: tensorboard --logdir {folder.tensorboard}")


def score(given: argparse.Namespace) -> int:
    if given.run_dir is None or given.verdicts or given.perturbed:
        from stilts_launcher.score_folders import score_folders

        say(score_folders(given))
        return 0
    from stilts_ds.data.data import Data
    from stilts_ds.evaluate.score_run import score_phase
    from stilts_ds.plan_file import Plan
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.recipes import recipe_of_run

    folder = RunDir(given.run_dir)
    # From the run's folder, not from today's shipped recipe: scores belong to what was trained.
    recipe = recipe_of_run(folder)
    # A run's benchmark decides which targets there are, so another one cannot be filled from its predictions.
    if given.benchmark not in (None, recipe.benchmark):
        raise UserError(f"--benchmark {given.benchmark}: this run's recipe names {recipe.benchmark}; leave it out")
    data = Data(recipe, folder.root)
    for phase in Plan.load(folder.plan).phases:
        if phase.evaluate:
            score_phase(folder, recipe, phase, data)
    # The report is made of the scores, and would be outdated from here on.
    return report(given)


def report(given: argparse.Namespace) -> int:
    from stilts_ds.run_dir import RunDir

    folder = RunDir(given.run_dir)
    options = ("resamples", "level", "figures", "qa_f1")  # `stilts score` ends in a report too, with their defaults
    if getattr(given, "at_scale", None) and not given.page:
        raise UserError("--at-scale is a part of a study's page; give --page FILE, too")
    finish(folder, **{name: getattr(given, name) for name in options if hasattr(given, name)})
    if getattr(given, "page", None):
        _write_page(folder, given.page, given.at_scale)
    return 0


def _write_page(folder: RunDir, file: Path, at_scale: str | None) -> None:
    from stilts_ds.report.study_page import write_study_page
    from stilts_ds.run_dir import read_json
    from stilts_launcher.recipes import recipe_of_run
    from stilts_launcher.show.plan import plan_sheet

    # Of the file, not of what is in memory: the same page can be made of a kept results.json.
    results = read_json(folder.results)
    write_study_page(file, results, recipe_of_run(folder), plan_sheet(at_scale) if at_scale else None)
    say(f"Page: {file}")


def push(given: argparse.Namespace) -> int:
    from stilts_ds.report.push import push as push_phase

    say(push_phase(_phase_at(given.phase_dir), given.repo, given.private, given.dry_run))
    return 0


def _phase_at(path: Path) -> PhaseDir:
    """The phase in a folder, or the one that RUN/NAME stands for (`runs/x/none/seed1/xnli`)."""
    from stilts_ds.plan_file import Plan
    from stilts_ds.run_dir import PhaseDir
    from stilts_launcher.export import named_phase, split_phase

    if path.is_dir():
        return PhaseDir(path)
    run, name = split_phase(path)
    return run.phase(named_phase(list(Plan.load(run.plan).phases), name, run).id)


def submission(given: argparse.Namespace) -> int:
    from stilts_ds.evaluate.run_submission import write_run_submission
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.recipes import recipe_of_run

    folder = RunDir(given.run_dir)
    output = given.output or folder.root / "submission"
    say(write_run_submission(folder, recipe_of_run(folder), output, given.condition, given.best, given.seed))
    return 0
