"""The number that selects a model: the mean of its training tasks' scores on English dev, and nothing else.

Masked language modelling beside other tasks is measured, and does not select: its text is in many languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.data.data import Data
from stilts_ds.engine.progress import SELECTION
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.predict import Predictor
from stilts_ds.families.base import evaluation_masking
from stilts_ds.families.metrics import scores_of
from stilts_ds.families.registry import family_of, main_metric, metrics_of
from stilts_ds.plan_file import Phase
from stilts_ds.tasks.spec import Task


def dev_scores(
    forward: Any, tasks: Mapping[str, Task], data: Data, phase: Phase, world: World
) -> dict[str, float]:
    """Scores by TensorBoard tag on English dev (rank 0; {} elsewhere).

    `selection/<task>` is a task's main score, `selection` the mean over the tasks with labels; text alone selects by
    its masked accuracy. Tasks and their translations share the English dev split, which is scored once.
    """
    scores: dict[str, float] = {}
    predictor = Predictor(forward, data.tokenizer, data.recipe.evaluation.per_device_eval_batch_size, world)
    chosen = {name: data.task(name) for name in sorted({task.origin for task in tasks.values()})}
    for name, task in chosen.items():
        trained = next(trained for trained in phase.train if data.task(trained).origin == name)
        by_metric = _task_scores(predictor, task, data, phase.setting(trained))
        scores |= {_tag(task, metric): value for metric, value in by_metric.items()}
        scores[f"{SELECTION}/{name}"] = main_metric(task).of_scores(by_metric) if by_metric else 0.0
    labelled = [name for name, task in chosen.items() if family_of(task).labelled] or list(chosen)
    return {**scores, SELECTION: float(np.mean([scores[f"{SELECTION}/{name}"] for name in labelled]))}


def _tag(task: Task, metric: str) -> str:
    """`eval/<task>/<language>/<metric>`, without a language where dev holds them all."""
    language = "" if family_of(task).multilingual else f"{task.pivot}/"
    return f"eval/{task.name}/{language}{metric}"


def _task_scores(predictor: Predictor, task: Task, data: Data, setting: TrainingPart) -> dict[str, float]:
    """Every metric of a task on its dev examples (rank 0; {} elsewhere). A collective."""
    family, split, part = family_of(task), data.dev(task.name, setting), data.recipe.evaluation
    rows = split.rows(setting)
    outputs = predictor.outputs(family, task.head_name, rows, setting)
    if not predictor.first:
        return {}
    records = split.records()
    gold: Any
    if family.trained.dev_gold is not None:
        gold = family.trained.dev_gold(rows, evaluation_masking(data.tokenizer, setting.mlm_probability))
    else:
        gold = family.label_values(family, task, records)
    if gold is None:
        raise UserError(f"{split.title} has examples without a label; select on a labelled dev split")
    part = family.trained.tune(records, rows, outputs, part)
    predicted = family.trained.decode(records, rows, outputs, split.labels, part)
    return scores_of(metrics_of(task), gold, predicted, task.pivot)
