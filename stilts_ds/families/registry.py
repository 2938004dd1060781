"""Every family by name. A new one is a folder and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.families.base import Family
from stilts_ds.families.bitext import BITEXT
from stilts_ds.families.choice import CHOICE
from stilts_ds.families.generate import GENERATE
from stilts_ds.families.metrics import Metric
from stilts_ds.families.pair import PAIR
from stilts_ds.families.ranking import RANKING
from stilts_ds.families.regression import REGRESSION
from stilts_ds.families.span import SPAN
from stilts_ds.families.tag import TAG
from stilts_ds.families.text import TEXT
from stilts_ds.tasks.spec import Task

FAMILIES: dict[str, Family] = {
    family.name: family for family in (PAIR, REGRESSION, CHOICE, SPAN, TAG, TEXT, BITEXT, RANKING, GENERATE)
}


def family_of(task: Task) -> Family:
    """The family that a task's literal names. Raises UserError with the nearest names for an unknown one."""
    return get_family(task.family)


def get_family(name: str) -> Family:
    if name not in FAMILIES:
        raise UserError(f"unknown family {name!r}{did_you_mean(name, FAMILIES)}")
    return FAMILIES[name]


def settings_of_others(family: Family) -> set[str]:
    """The evaluation settings that only other families' predictions depend on."""
    return {key for rival in FAMILIES.values() for key in rival.own_settings} - set(family.own_settings)


def chooses_on_dev(task: Task) -> bool:
    """Whether predicting the task's test split applies what its dev split chose (mining's threshold)."""
    return "dev" in family_of(task).predicted_splits(task, "test")


def pool_size(families: Iterable[Family], setting: TrainingPart) -> int:
    """How many consecutive items of a step one loss term sees: 1 where no family trains retrieval."""
    pooled = any(family.pooled for family in families)
    return setting.pool_size if pooled else 1


def metrics_of(task: Task) -> list[Metric]:
    """The metrics that a task's literal names, in its order. Raises UserError for one that its family has not."""
    known = family_of(task).metrics(task)
    return [_metric(known, task, name) for name in task.metrics]


def main_metric(task: Task) -> Metric:
    """The one number that ranks models on a task and selects checkpoints (paper, Scoring)."""
    return _metric(family_of(task).metrics(task), task, task.main_score)


def _metric(known: Mapping[str, Metric], task: Task, name: str) -> Metric:
    if name not in known:
        raise UserError(f"{task.name}: family {task.family!r} has no metric {name!r}{did_you_mean(name, known)}")
    return known[name]
