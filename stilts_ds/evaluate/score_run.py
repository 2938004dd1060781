"""Scores of a run's phases from their prediction files: `results/<task>.json` in each phase."""

from __future__ import annotations

from typing import cast

from stilts_ds.batches.prepare import Data
from stilts_ds.config import Recipe
from stilts_ds.errors import UserError
from stilts_ds.evaluate import formats
from stilts_ds.evaluate.result import Result, SplitName
from stilts_ds.evaluate.score import main_score, score_file
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import RunDir, provenance


def score_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data) -> None:
    """Score what the phase predicted; a language without labels or predictions is listed, never guessed."""
    for name in phase.evaluate:
        score_task(run, recipe, phase, name, data).save(run.phase(phase.id).result(name))


def score_task(run: RunDir, recipe: Recipe, phase: Phase, name: str, data: Data) -> Result:
    task, split = data.task(name), data.split(data.task(name))
    languages, left_out = data.languages(task, split)
    scores: dict[str, dict[str, float]] = {}
    unlabelled: list[str] = []
    for language in languages:
        file = formats.file_name(formats.kind_of(task.family, task.metrics), split, language)
        predictions, labels = run.phase(phase.id).predictions / name / file, run.labels / name / file
        if not predictions.exists():
            raise UserError(f"{predictions} is missing; run `stilts evaluate {run.root}` first")
        if not labels.exists():
            unlabelled.append(language)
            continue
        scores[language] = score_file(predictions, labels, task, language)
    main = {language: main_score(task.family, found) for language, found in scores.items()}
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
        settings=_settings(recipe, task.family),
        provenance=provenance(),
    )


def _settings(recipe: Recipe, family: str) -> dict[str, str | int | None]:
    """What a reader must know to compare the numbers."""
    part = recipe.evaluation
    common: dict[str, str | int | None] = {
        "model": recipe.model.name_or_path,
        "data": recipe.data.source,
        "max_examples": part.max_examples,
    }
    if family == "bitext":
        return {
            **common,
            "retrieval_layer": part.retrieval_layer,
            "retrieval_pooling": part.retrieval_pooling,
            "max_bitext": part.max_bitext,
            "max_seq_length": part.retrieval_max_seq_length,
        }
    return common
