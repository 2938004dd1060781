"""The learning rate as a pure function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math

from stilts_ds.config import TrainingPart


def learning_rate(step: int, total_steps: int, setting: TrainingPart) -> float:
    """Rate of 0-based step `step`: linear from 0 over the warm-up, then linear to 0 at `total_steps`.

    A phase of one step has no warm-up: its only step would have rate 0 and train nothing.
    """
    # Rounded up, as transformers' get_warmup_steps does.
    warmup = math.ceil(setting.warmup_ratio * total_steps) if total_steps > 1 else 0
    if step < warmup:
        return setting.learning_rate * step / warmup
    return setting.learning_rate * max(0.0, (total_steps - step) / max(1, total_steps - warmup))
