"""Recipe to plan: a graph of phases, each named by the hash of everything that its result depends on.

A finished phase is skipped, an unfinished one is resumed, and a phase that two conditions share (the baseline, SQuAD
training for XQuAD and MLQA) stands in the plan once. No torch here: a login node can plan.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stilts_ds.config import NAME, Recipe, TrainingPart, check_training
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.run_dir import hash_json, provenance, read_json
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

Kind = Literal["intermediate", "target", "retrieval"]
PHASE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"


@dataclass(frozen=True)
class Phase:
    """One node of the graph. `init` is the phase whose encoder it starts from; empty: the pretrained model.

    `lengths` are the row lengths of each of several tasks; a task alone has those of `training`.
    """

    id: str
    kind: Kind
    condition: str
    init: str
    train: tuple[str, ...]
    evaluate: tuple[str, ...]
    seed: int
    training: dict[str, Any]
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)

    def setting(self, task: str = "") -> TrainingPart:
        """The phase's training settings, with the row lengths of one of its tasks."""
        return TrainingPart(**{**self.training, **self.lengths.get(task, {})})

    @property
    def title(self) -> str:
        what = "+".join(self.train) if self.kind != "retrieval" else "retrieval"
        return f"{self.kind} {what} (after {self.condition}, seed {self.seed})"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Phase:
        return cls(**{**value, "train": tuple(value["train"]), "evaluate": tuple(value["evaluate"])})


class PlanFile(BaseModel):
    """What stands in plan.json. Ids become names of folders, so nothing else may stand in them."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    name: str
    model: str
    source: str
    seeds: list[int] = Field(min_length=1)
    targets: list[str]
    phases: list[PhaseFile]
    use: dict[str, list[str]] = Field(min_length=1)
    provenance: ProvenanceFile

    @model_validator(mode="after")
    def _hang_together(self) -> PlanFile:
        known = {phase.id for phase in self.phases}
        for condition, ids in self.use.items():
            if unknown := [one for one in ids if one not in known]:
                raise ValueError(f"condition {condition!r} uses phase {unknown[0]!r}, which is not in the plan")
        if len(known) < len(self.phases):
            raise ValueError("two phases have one id")
        for phase in self.phases:
            if phase.condition not in self.use:
                raise ValueError(f"phase {phase.id!r} belongs to {phase.condition!r}, which is no condition")
            if phase.init and phase.init not in known:
                raise ValueError(f"phase {phase.id!r} starts from {phase.init!r}, which is not in the plan")
        for name in self.targets:
            get_task(name)
        return self


class ProvenanceFile(BaseModel):
    """What made a plan."""

    model_config = ConfigDict(strict=True)
    git_commit: str
    versions: dict[str, str]
    model_hash: str = ""
    platform: str = ""


class PhaseFile(BaseModel):
    """One phase in plan.json."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    id: str = Field(pattern=PHASE_ID)
    kind: Kind
    condition: str
    init: str = Field(pattern=f"^$|{PHASE_ID}")
    train: list[str]
    evaluate: list[str]
    seed: int = Field(ge=0, lt=2**32)
    training: dict[str, Any]
    lengths: dict[str, dict[str, int]]

    @model_validator(mode="after")
    def _settings(self) -> PhaseFile:
        for name in (*self.train, *self.evaluate):
            get_task(name)
        for part in (self.training, *self.lengths.values()):
            check_training(part)
        if bool(self.train) == (self.kind == "retrieval") or bool(self.train) != bool(self.training):
            raise ValueError(f"phase {self.id!r} is called {self.kind} and trains {self.train}")
        return self


def read_plan(path: Path) -> dict[str, Any]:
    """A run's plan, checked. Raises UserError naming the file."""
    planned = read_json(path)
    again = "run the same `stilts run` again, it plans anew"
    lacking = [key for key in PlanFile.model_fields if not isinstance(planned, dict) or key not in planned]
    if lacking:
        raise UserError(f"{path} lacks {lacking[0]!r}; {again}")
    try:
        PlanFile.model_validate(planned)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}; {again}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}; {again}") from None
    return planned


def phases_in(path: Path) -> list[Phase]:
    """The phases of a run's plan.json, in order. Raises UserError naming the file."""
    return [Phase.from_json(phase) for phase in read_plan(path)["phases"]]


def train_task_of(task: Task) -> str:
    """The task whose English train split a target is fine-tuned on."""
    return task.train_on or task.name


def make_plan(recipe: Recipe, model_hash: str, data_hash: Callable[[str], str]) -> dict[str, Any]:
    """The plan as JSON: `phases`, each after the one it starts from, and `use`: the phases of each condition.

    `data_hash(task)` is the hash of a task's train and dev files. Raises UserError for unknown or unfit tasks.
    """
    check_tasks(recipe)
    phases: dict[str, Phase] = {}
    use: dict[str, list[str]] = {condition: [] for condition in recipe.intermediate}
    for condition, names in recipe.intermediate.items():
        for seed in recipe.seeds:
            init = ""
            if names:
                first = _phase(recipe, "intermediate", condition, "", model_hash, names, [], seed, data_hash)
                phases.setdefault(first.id, first)
                init = first.id
            for phase in _after(recipe, condition, init, init or model_hash, seed, data_hash):
                phases.setdefault(phase.id, phase)
                use[condition] += [phase.id] if phase.id not in use[condition] else []
    return {
        "name": recipe.name, "model": recipe.model.name_or_path, "source": recipe.data.source, "seeds": recipe.seeds,
        "targets": recipe.targets, "phases": [phase.to_json() for phase in phases.values()], "use": use,
        "provenance": {**provenance(), "model_hash": model_hash},
    }


def _after(
    recipe: Recipe, condition: str, init: str, origin: str, seed: int, data_hash: Callable[[str], str]
) -> Iterable[Phase]:
    """Target phases (targets with one train task share one) and the retrieval phase of one encoder."""
    targets = [get_task(name) for name in recipe.targets]
    retrieval = [task.name for task in targets if not task.trains]
    if retrieval:  # nothing is drawn at random: the pretrained encoder's retrieval is the same for every seed
        yield _phase(recipe, "retrieval", condition, init, origin, [], retrieval, seed if init else 0, data_hash)
    for source in dict.fromkeys(train_task_of(task) for task in targets if task.trains):
        scored = [task.name for task in targets if task.trains and train_task_of(task) == source]
        yield _phase(recipe, "target", condition, init, origin, [source], scored, seed, data_hash)


def _phase(
    recipe: Recipe, kind: Kind, condition: str, init: str, origin: str, train: list[str], evaluate: list[str],
    seed: int, data_hash: Callable[[str], str],
) -> Phase:
    tasks = [get_task(name) for name in train]
    # A target keeps its own settings when it trains on another task's data (XNLI on MNLI, XQuAD on SQuAD).
    alone = "" if not tasks else tasks[0].origin if kind == "target" else only_task(tasks)
    defaults = get_task(evaluate[0] if kind == "target" else alone).training if alone else {}
    mlm, several = any(task.family == "text" for task in tasks), bool(tasks) and not alone
    training = recipe.training(kind, defaults, alone, several, mlm).model_dump() if train else {}
    lengths = {task.name: recipe.lengths(task.training, task.origin) for task in tasks} if several else {}
    content = {
        "kind": kind, "origin": origin, "train": sorted(train), "seed": seed, "training": training, "lengths": lengths,
        "evaluate": sorted(evaluate) if kind == "retrieval" else [],
        "sampling": recipe.sampling.model_dump() if len(train) > 1 or mlm else {}, "dtype": recipe.engine.dtype,
        "dropout": recipe.model.dropout, "max_train_examples": recipe.data.max_train_examples,
        "train_split": {t: s for t, s in recipe.data.train_split.items() if t in train},
        "data": {task: data_hash(task) for task in sorted(train)},
    }
    label = "-".join(train) if 0 < len(train) <= 2 else condition
    return Phase(f"{kind}-{label}-{hash_json(content)[:12]}", kind, condition, init, tuple(train), tuple(evaluate),
                 seed, training, lengths)


def only_task(tasks: Sequence[Task]) -> str:
    """The one task that a phase trains, whose settings it takes: translations of it and `mlm` beside it do not count.

    Empty where there are several.
    """
    names = {task.origin for task in tasks if task.family != "text"} or {task.origin for task in tasks}
    return names.pop() if len(names) == 1 else ""


def check_tasks(recipe: Recipe) -> None:
    """Every named task exists and can be used where it is named."""
    for condition, names in recipe.intermediate.items():
        _check_condition(recipe, condition, names)
    for name in recipe.targets:
        task = _task(name, "targets")
        if task.family == "text":
            raise UserError(f"targets: {name} is running text and has no score; leave it out")
        if task.translation:
            raise UserError(f"targets: {name} is training data; score {task.origin}")
    for section in ("task_training", "data.train_split", "evaluation.splits"):
        for name in operator.attrgetter(section)(recipe):
            if _task(name, section).translation:
                raise UserError(f"{section}: {name} follows {get_task(name).origin}; give that one")
    _check_weights(recipe)


def _task(name: str, where: str) -> Task:
    """The task of that name. Raises UserError naming the key that it stands under."""
    try:
        return get_task(name)
    except UserError as problem:
        raise UserError(f"{where}: {problem}") from None


def _check_condition(recipe: Recipe, condition: str, names: Sequence[str]) -> None:
    if not re.fullmatch(NAME, condition):  # it becomes part of folder and job names
        raise UserError(f"intermediate: {condition!r} is no name; use letters, digits, '.', '_' and '-'")
    if len(set(names)) < len(names):
        raise UserError(f"intermediate.{condition} names a task twice; sampling.weights sets how often a task is drawn")
    for task in (_task(name, f"intermediate.{condition}") for name in names):
        if not task.trains:
            problem = f"intermediate.{condition}: {task.name} is retrieval and has nothing to train on"
            raise UserError(f"{problem}; leave it out")


def _check_weights(recipe: Recipe) -> None:
    """Fixed weights name each task of the phases that mix tasks, and no other."""
    weights = recipe.sampling.weights
    if not isinstance(weights, dict):
        return
    mixed = {name for names in recipe.intermediate.values() if len(names) > 1 for name in names}
    mixed -= {"mlm"} if recipe.sampling.mlm_share is not None else set()
    for name in sorted(mixed - set(weights)):
        raise UserError(f"sampling.weights has no weight for {name}, which a condition mixes with others; give it one")
    for name in sorted(set(weights) - mixed):
        raise UserError(f"sampling.weights.{name}: no condition mixes {name} with others{did_you_mean(name, mixed)}")
