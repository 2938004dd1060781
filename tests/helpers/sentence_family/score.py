"""The metrics."""

from __future__ import annotations

from collections.abc import Mapping

from stilts_ds.families.metrics import ACCURACY, Metric
from stilts_ds.tasks.spec import Task


def metrics(task: Task) -> Mapping[str, Metric]:
    return {"accuracy": ACCURACY}
