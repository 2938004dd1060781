"""What a phase's training is made of, as one value."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from stilts_ds.batches.collate import TaskRows
from stilts_ds.config import EnginePart, SamplingPart, TrainingPart
from stilts_ds.engine.world import World
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import PhaseDir
from stilts_ds.trackers import Tracking

Forward = Callable[..., Any]


@dataclass
class TrainingSetup:
    """Everything a training phase needs. `evaluate(forward)` returns dev scores by TensorBoard tag, and the one number
    that selects the best model under SELECTION; `export(parameters, step)` writes encoder and heads to
    `folder.best(step)` (rank 0). `concern` is the level of the log for doubts about what is learned."""

    title: str
    model: MultiTask
    tokenizer: Tokenizer
    tasks: Mapping[str, TaskRows]
    setting: TrainingPart
    sampling: SamplingPart
    engine_part: EnginePart
    seed: int
    folder: PhaseDir
    tracking: Tracking
    world: World
    # Functions, not modules: the engine stands before evaluation and export in the order of imports.
    evaluate: Callable[[Forward], dict[str, float]]
    export: Callable[[dict[str, torch.Tensor], int], None]
    concern: int = logging.WARNING
