"""Trainings of the small model by real ranks (programs/train_small.py): their settings and their start."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import forked
import pytest
import ranks

run = partial(ranks.run, start=forked.start)
PROGRAM = ranks.PROGRAMS / "train_small.py"
# adam_epsilon is raised because Adam turns rounding noise of near-zero gradients into full steps otherwise.
TRAINING = {
    "max_steps": 6,
    "train_batch_size": 12,
    "per_device_train_batch_size": 3,
    "max_grad_norm": 0.5,
    "learning_rate": 1e-3,
    "logging_steps": 3,
    "adam_epsilon": 1e-4,
}
# Stage 3's bucket is smaller than the largest parameter and larger than the others; nothing stays unpartitioned.
ZERO = {
    0: {},
    1: {"reduce_bucket_size": 500, "allgather_bucket_size": 500},
    2: {"reduce_bucket_size": 500, "allgather_bucket_size": 500},
    3: {"reduce_bucket_size": 5000, "stage3_param_persistence_threshold": 0},
}


def settings(folder: Path, stage: int, unit: str = "example", offload: bool = False, **more: Any) -> str:
    config = folder / f"zero{stage}.json"
    config.write_text(json.dumps({"zero_optimization": {"stage": stage, **ZERO.get(stage, {})}}))
    engine = {"ds_config": str(config), "offload_optimizer": offload}
    return json.dumps({"stage": stage, "engine": engine, "sampling": {"unit": unit}, "training": TRAINING, **more})


def some_slow(cells: list[Any], slow: list[Any]) -> list[Any]:
    return [pytest.param(*cell, marks=pytest.mark.slow) if cell in slow else cell for cell in cells]
