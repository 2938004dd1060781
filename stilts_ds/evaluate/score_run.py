"""Scores of a run's phases from their prediction files: `results/<task>.json` in each phase."""

from __future__ import annotations

import logging
from typing import cast

from stilts_ds.config import EvaluationPart, Recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.evaluate.result import Result, Settings, SplitName
from stilts_ds.evaluate.score import centred_scores, read_values, score_values
from stilts_ds.evaluate.sizes import benchmark_sizes
from stilts_ds.evaluate.stamp import Stamp
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.plan_file import Phase
from stilts_ds.run_dir import LINEAGE, RunDir, provenance, read_json
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)


def score_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data) -> None:
    """Score what the phase predicted; a language without labels or predictions is listed, never guessed."""
    for name in phase.evaluate:
        score_task(run, recipe, phase, name, data).save(run.phase(phase.id).result(name))


def score_task(run: RunDir, recipe: Recipe, phase: Phase, name: str, data: Data) -> Result:
    """The result of one task. Its settings are those that its predictions were made with.

    Raises UserError where predictions are missing, or were made with different settings for different languages.
    """
    task = data.task(name)
    split = data.scored_split(task)
    languages, left_out = data.languages(task, split)
    scores: dict[str, dict[str, float]] = {}
    examples: dict[str, int] = {}
    stamps: dict[str, Stamp] = {}
    settings: dict[str, Settings] = {}
    unlabelled: list[str] = []
    unexecuted: list[str] = []
    for language in languages:
        file = family_of(task).files(task).name(split, language)
        predictions, labels = run.phase(phase.id).predictions / name / file, run.labels / name / file
        if not predictions.exists():
            raise UserError(f"{predictions} is missing; run `stilts evaluate {run.root}` first")
        if not labels.exists():
            # XTREME's hidden test sets: predicted for the submission, but not to be scored here.
            unlabelled.append(language)
            continue
        to_do = family_of(task).unscored(predictions)
        if to_do is not None:
            # Where the run executes programs at its end, they wait for that, and nobody has to do anything.
            level = logging.INFO if recipe.execute.allow else logging.WARNING
            log.log(level, "%s %s is not scored yet: %s", name, language, to_do)
            unexecuted.append(language)
            continue
        gold, predicted = read_values(predictions, labels, task)
        examples[language] = len(gold)
        scores[language] = score_values(task, gold, predicted, language)
        scores[language] |= centred_scores(task, gold, predictions.parent, split, language)
        stamps[language] = Stamp.load(predictions)
        # Of the stamp, not of the recipe: that may have been changed since the predictions were made.
        settings[language] = settings_of(recipe, task, stamps[language].evaluation(predictions))
        settings[language] |= stamps[language].chosen
    _check_alike(settings, run, phase, name)
    main = {language: main_metric(task).of_scores(of_language) for language, of_language in scores.items()}
    missing = [*left_out, *unlabelled, *unexecuted]
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
        # Withheld: a mean over some languages is another number than the benchmark's.
        mean=None if missing else mean_of_present,
        mean_of_present=mean_of_present,
        settings=next(iter(settings.values()), settings_of(recipe, task, recipe.evaluation)),
        data={language: stamp.data for language, stamp in stamps.items()},
        examples=examples,
        benchmark=benchmark_sizes(task, split),
        head=_kept_head(run, phase),
        unexecuted=tuple(unexecuted),
        provenance=provenance(),
    )


def _kept_head(run: RunDir, phase: Phase) -> str:
    """Where a phase with `keep_head` has its head from, as its export says; "" for others."""
    if not phase.training.get("keep_head"):
        return ""
    kept = read_json(run.phase(phase.id).encoder / LINEAGE)["kept_heads"]
    return ", ".join(f"kept from {origin}" if origin else "new" for origin in kept.values())


def settings_of(recipe: Recipe, task: Task, evaluation: EvaluationPart) -> Settings:
    """What a reader must know to compare the numbers of a task that was predicted with the settings `evaluation`."""
    return {
        "model": recipe.model.name_or_path,
        "data": recipe.data.source,
        "max_examples": evaluation.max_examples,
        **family_of(task).settings(evaluation),
    }


def _check_alike(settings: dict[str, Settings], run: RunDir, phase: Phase, name: str) -> None:
    """A mean over languages is of one way to predict: an evaluation may have been changed and then stopped midway."""
    languages = list(settings)
    for language in languages[1:]:
        for key, value in settings[language].items():
            # Against the first: which of the two is the wanted one, nobody can tell here.
            first = settings[languages[0]][key]
            if value != first:
                raise UserError(
                    f"the {name} predictions of {phase.label} are of two kinds: {key} is {first} in {languages[0]} and "
                    f"{value} in {language}; run `stilts evaluate {run.root}`, it predicts the others again"
                )
