"""The number that selects a model: the mean of its training tasks' scores on English dev, and nothing else.

Masked language modelling beside other tasks is measured, and does not select: its text is in many languages.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.data.data import Data
from stilts_ds.data.split import Split
from stilts_ds.engine.progress import SELECTION
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.families.base import evaluation_masking
from stilts_ds.families.metrics import scores_of
from stilts_ds.families.registry import family_of, main_metric, metrics_of
from stilts_ds.plan_file import Phase
from stilts_ds.tasks.spec import Task


def dev_scores(forward: Any, data: Data, phase: Phase, world: World) -> dict[str, float]:
    """Scores by TensorBoard tag on English dev (rank 0; {} elsewhere).

    `selection/<task>` is a task's main score, `selection` the mean over the tasks with labels; text alone selects by
    its masked accuracy.
    """
    scores: dict[str, float] = {}
    evaluation = data.recipe.evaluation
    predictor = Predictor(forward, data.tokenizer, evaluation.per_device_eval_batch_size, world)
    main: dict[str, float] = {}
    labelled: list[str] = []
    for name, (setting, split) in data.selection(phase).items():
        tag = _tag(split.task)
        by_metric, main[name] = split_scores(predictor, split, setting, evaluation)
        scores |= {f"{tag}/{metric}": value for metric, value in by_metric.items()}
        scores[f"{SELECTION}/{name}"] = main[name]
        labelled += [name] if split.family.labelled else []
    return {**scores, SELECTION: float(np.mean([main[name] for name in labelled or main]))}


def _tag(task: Task) -> str:
    """What the metrics stand under: `eval/<task>/<language>`, without a language where dev holds them all."""
    return f"eval/{task.name}" if family_of(task).multilingual else f"eval/{task.name}/{task.pivot}"


def split_scores(
    predictor: Predictor, split: Split, setting: TrainingPart, evaluation: EvaluationPart
) -> tuple[dict[str, float], float]:
    """Every metric of a dev split, and its main score (rank 0; {} and 0 elsewhere). A collective.

    Raises UserError where the split has no labels.
    """
    task, family = split.task, split.family
    verbs = family.verbs(predictor.sees)
    # Every rank computes its share, and the rest is rank 0's alone.
    whole = list(predictor.split_outputs([split], task.head_name, setting, evaluation))
    if not whole:
        return {}, 0.0
    [(_, records, rows, outputs)] = whole
    gold: Any
    # Masked text has no labels in its records: the masked tokens are the gold.
    if verbs.dev_gold is not None:
        gold = verbs.dev_gold(rows, evaluation_masking(predictor.tokenizer, setting.mlm_probability))
    else:
        gold = family.label_values(family, task, records)
    if gold is None:
        raise UserError(f"{split.title} has examples without a label; select on a labelled dev split")
    # Free parameters (the threshold for no answer) at their best on dev: what is selected is the model.
    tuned = verbs.tune(records, rows, outputs, evaluation)
    predicted = verbs.decode(records, rows, outputs, split.labels, tuned)
    metrics, main = metrics_of(task), main_metric(task)
    scores = scores_of(metrics, gold, predicted, task.pivot)
    return scores, main.of_scores(scores)
