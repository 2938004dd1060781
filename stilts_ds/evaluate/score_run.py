"""Scores of a run's phases from their prediction files: `results/<task>.json` in each phase."""

from __future__ import annotations

from typing import cast

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.evaluate.result import Result, SplitName
from stilts_ds.evaluate.score import score_file
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir, provenance
from stilts_ds.tasks.spec import Task


def score_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data) -> None:
    """Score what the phase predicted; a language without labels or predictions is listed, never guessed."""
    for name in phase.evaluate:
        score_task(run, recipe, phase, name, data).save(run.phase(phase.id).result(name))


def score_task(run: RunDir, recipe: Recipe, phase: Phase, name: str, data: Data) -> Result:
    task = data.task(name)
    split = data.scored_split(task)
    settings = _settings(recipe, task)
    languages, left_out = data.languages(task, split)
    scores: dict[str, dict[str, float]] = {}
    unlabelled: list[str] = []
    for language in languages:
        file = family_of(task).files(task).name(split, language)
        predictions, labels = run.phase(phase.id).predictions / name / file, run.labels / name / file
        if not predictions.exists():
            raise UserError(f"{predictions} is missing; run `stilts evaluate {run.root}` first")
        if not labels.exists():
            unlabelled.append(language)
            continue
        scores[language] = score_file(predictions, labels, task, language)
    main = {language: main_metric(task).of_scores(found) for language, found in scores.items()}
    missing = [*left_out, *unlabelled]
    mean_of_present = sum(main.values()) / len(main) if main else None
    return Result(
        task=name,
        split=cast(SplitName, split),  # a recipe may hold any text there; the value checks it
        pivot=task.pivot,
        condition=phase.condition,
        seed=phase.seed,
        phase=phase.id,
        languages=scores,
        main=main,
        missing=tuple(missing),
        unlabelled=tuple(unlabelled),
        mean=None if missing else mean_of_present,
        mean_of_present=mean_of_present,
        settings=settings,
        provenance=provenance(),
    )


def _settings(recipe: Recipe, task: Task) -> dict[str, str | int | float | None]:
    """What a reader must know to compare the numbers."""
    part = recipe.evaluation
    return {
        "model": recipe.model.name_or_path,
        "data": recipe.data.source,
        "max_examples": part.max_examples,
        **family_of(task).settings(part),
    }
