"""Every task by name."""

from __future__ import annotations

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.tasks import intermediate, targets
from stilts_ds.tasks.spec import Task

TASKS: dict[str, Task] = {task.name: task for task in (*intermediate.TASKS, *targets.TASKS)}


def get_task(name: str) -> Task:
    """The task called `name`. Raises UserError with the nearest names for an unknown one."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}")
    return TASKS[name]
