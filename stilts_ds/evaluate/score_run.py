"""Scores of a run's phases from their prediction files: `results/<task>.json` in each phase."""

from __future__ import annotations

from typing import Any

from stilts_ds.config import Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_file
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.plan import Phase
from stilts_ds.run_dir import RunDir, provenance, write_json
from stilts_ds.tasks.spec import Task


def score_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data) -> None:
    """Score what the phase predicted; a language without labels or predictions is listed, never guessed."""
    for name in phase.evaluate:
        write_json(run.phase(phase.id).results / f"{name}.json", score_task(run, recipe, phase, name, data))


def score_task(run: RunDir, recipe: Recipe, phase: Phase, name: str, data: Data) -> dict[str, Any]:
    task = data.task(name)
    split = data.scored_split(task)
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
    return {
        "task": name,
        "split": split,
        "pivot": task.pivot,
        "condition": phase.condition,
        "seed": phase.seed,
        "phase": phase.id,
        "languages": scores,
        "main": main,
        "missing": missing,
        "unlabelled": unlabelled,
        "mean": sum(main.values()) / len(main) if main and not missing else None,
        "mean_of_present": sum(main.values()) / len(main) if main else None,
        "settings": _settings(recipe, task),
        "provenance": provenance(),
    }


def _settings(recipe: Recipe, task: Task) -> dict[str, Any]:
    """What a reader must know to compare the numbers."""
    part = recipe.evaluation
    return {
        "model": recipe.model.name_or_path,
        "data": recipe.data.source,
        "max_examples": part.max_examples,
        **family_of(task).settings(part),
    }
