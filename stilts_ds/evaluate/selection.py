"""The number that selects a model: the mean of its training tasks' scores on English dev, and nothing else.

Masked language modelling beside other tasks is measured, and does not select: its text is in many languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from stilts_ds.batches.collate import Draft, masked_count, pack_rows
from stilts_ds.batches.encode import Encoder
from stilts_ds.batches.prepare import Data
from stilts_ds.batches.rows import Rows
from stilts_ds.config import TrainingPart
from stilts_ds.engine.loop import SELECTION
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.evaluate.predict import decode, decode_questions, outputs, shard
from stilts_ds.evaluate.score import main_score, score_predictions
from stilts_ds.evaluate.spans import best_null_threshold
from stilts_ds.examples.records import Span
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
    chosen = {name: data.task(name) for name in sorted({task.origin for task in tasks.values()})}
    for name, task in chosen.items():
        setting = phase.setting(next(one for one in phase.train if data.task(one).origin == name))
        if task.family == "text":
            main = masked_accuracy(forward, data.dev_rows(name, setting), data.encoder, setting, world)
            scores[f"eval/{name}/masked_accuracy"] = main
        else:
            found = _task_scores(forward, task, data, setting, world)
            main = main_score(task.family, found) if found else 0.0
            scores |= {f"eval/{name}/{task.pivot}/{metric}": value for metric, value in found.items()}
        scores[f"{SELECTION}/{name}"] = main
    labelled = [name for name, task in chosen.items() if task.family != "text"] or list(chosen)
    return {**scores, SELECTION: float(np.mean([scores[f"{SELECTION}/{name}"] for name in labelled]))}


def _task_scores(forward: Any, task: Task, data: Data, setting: TrainingPart, world: World) -> dict[str, float]:
    rows, part = data.dev_rows(task.name, setting), data.recipe.evaluation
    found = outputs(forward, rows, task.head_name, task.family, data.encoder, part.per_device_eval_batch_size, world)
    if not world.first:
        return {}
    records, labels = data.dev_records(task.name, setting), data.labels(task.name)
    if any(isinstance(record, Span) and record.impossible for record in records):
        # SQuAD 2.0: the threshold for "no answer" is the one that suits dev best, as in its official scorer.
        decoded = decode_questions([r for r in records if isinstance(r, Span)], rows, found, part)
        threshold, _ = best_null_threshold([r for r in records if isinstance(r, Span)], decoded)
        part = part.model_copy(update={"null_threshold": threshold})
    predicted = decode(records, rows, found, task.family, labels, part)
    return score_predictions(task.family, task.metrics, records, predicted, task.pivot, labels)


def masked_accuracy(forward: Any, rows: Rows, encoder: Encoder, setting: TrainingPart, world: World) -> float:
    """Percent of masked tokens that the model fills in right; the masking is the same at every evaluation."""
    right = total = 0
    for items in shard(rows.item_lengths.tolist(), 32, world):
        stop_if_requested(world)
        batch, draft = pack_rows([(rows, i) for i in items], encoder), Draft("text")
        for begin, item in zip(batch.starts, items):
            length = int(rows.row_lengths[item])
            rng = np.random.default_rng([11, item])
            draft.mask(batch, begin, length, encoder, masked_count(length, setting.mlm_probability), rng)
            draft.end_item(1.0, 0)
        if items:
            batch.heads["mlm"] = draft.targets()
        logits = forward(batch.to(world.device), "logits")["mlm"]
        gold = batch.heads["mlm"].gold if items else torch.zeros(0)
        right += int((logits.argmax(-1).cpu() == gold).sum())
        total += len(gold)
    both = world.all_gather((right, total))
    return 100 * sum(r for r, _ in both) / max(1, sum(t for _, t in both))
