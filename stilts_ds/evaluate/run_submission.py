"""A run's submission to XTREME: one condition's predictions as the nine folders, checked before they are sent."""

from __future__ import annotations

from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError, counted, did_you_mean
from stilts_ds.evaluate.submission import write_submission
from stilts_ds.families.files import Expected
from stilts_ds.families.registry import family_of
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir
from stilts_ds.tasks.spec import Task


def write_run_submission(run: RunDir, recipe: Recipe, condition: str | None, output: Path) -> str:
    """Write the submission of `condition` (default: the run's last) into `output`. Returns what to tell the user.

    Raises UserError listing everything that is missing or malformed, and for a run that left test rows out.
    """
    limits = [k for k in ("max_examples", "max_bitext") if getattr(recipe.evaluation, k) is not None]
    if limits:
        raise UserError(f"evaluation.{limits[0]} leaves test rows out; run the recipe without it before submitting")
    use = Plan.load(run.plan).use
    chosen = condition or list(use)[-1]
    if chosen not in use:
        raise UserError(f"the run has no condition {chosen!r}{did_you_mean(chosen, use)}")
    data = Data(recipe, run.root)
    tasks = {name: data.task(name) for name in recipe.targets}
    expected = {(name, code): found for name, task in tasks.items() for code, found in _expected(task, data).items()}
    written = write_submission([run.phase(i).predictions for i in use[chosen]], output, tasks, expected)
    files = counted(len(written), "file")
    return f"{files} of condition {chosen} written to {output}; every language and line is there"


def _expected(task: Task, data: Data) -> dict[str, Expected]:
    """What the test files of a task ask for, by language."""
    files = family_of(task).files(task)
    languages = data.languages(task, "test")[0]
    return {language: files.expect(data.evaluation(task, "test", language).records()) for language in languages}
