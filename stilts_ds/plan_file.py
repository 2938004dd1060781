"""What stands in plan.json: the phases of a run, which of them each condition uses, and what made the plan.

`stilts_ds.planner` makes a `Plan` of a recipe; everything else reads one. No torch here: a login node can plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from stilts_ds.config import TrainingPart, check_training
from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.run_dir import Provenance, read_json, write_json
from stilts_ds.task_files import add_definitions
from stilts_ds.tasks.registry import get_task
from stilts_ds.values import JsonList, Value, check_value

Kind = Literal["intermediate", "target", "retrieval"]
PHASE_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"  # ids become names of folders, so nothing else may stand in them


class Phase(Value):
    """One node of the graph. `init` is the phase whose encoder it starts from; empty: the pretrained model.

    `lengths` are the settings that each of several tasks' rows depend on; a task alone has those of `training`.
    """

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")
    id: str = Field(pattern=PHASE_ID)
    kind: Kind
    condition: str
    init: str = Field(pattern=f"^$|{PHASE_ID}")
    train: JsonList[str]
    evaluate: JsonList[str]
    seed: int = Field(ge=0, lt=2**32)
    # Kept as they were written, and not as a TrainingPart: they are part of the file's bytes, and a phase that trains
    # nothing has none.
    training: dict[str, Any]
    lengths: dict[str, dict[str, int | str]]

    @model_validator(mode="after")
    def _tasks_and_settings_fit(self) -> Phase:
        for name in (*self.train, *self.evaluate):
            get_task(name)
        for settings in (self.training, *self.lengths.values()):
            check_training(settings)
        # The kind says whether a phase trains, and only a phase that trains has settings.
        if bool(self.train) == (self.kind == "retrieval") or bool(self.train) != bool(self.training):
            raise ValueError(f"phase {self.id!r} is called {self.kind} and trains {list(self.train)}")
        return self

    def trains(self, only: str | None) -> bool:
        """Whether a start takes steps in it that does `only` that part of each phase (None: all)."""
        return bool(self.train) and only != "evaluate"

    def setting(self, task: str = "") -> TrainingPart:
        """The phase's training settings, with those that the rows of one of its tasks depend on."""
        return TrainingPart(**{**self.training, **self.lengths.get(task, {})})

    @property
    def label(self) -> str:
        """The name that people read: condition, seed and what the phase is for, such as `none/seed1/xnli`."""
        if self.kind == "retrieval":
            purpose = "retrieval"
        else:
            purpose = "+".join(self.evaluate) if self.evaluate else "intermediate"
        # Retrieval from the pretrained model depends on no seed: all seeds have it in common.
        return f"{self.condition}/seed{self.seed}/{purpose}" if self.seed else f"{self.condition}/{purpose}"

    @property
    def title(self) -> str:
        tasks = "+".join(self.train) if self.kind != "retrieval" else "retrieval"
        return f"{self.kind} {tasks} (after {self.condition}, seed {self.seed})"

    def to_json(self) -> dict[str, Any]:
        return self.model_dump()


class Plan(Value):
    """A run's plan. `phases` stand after the ones that they start from; `use` names the phases of each condition.

    `tasks` holds those of the study that are not shipped with this program, as data: whoever reads a run needs no file
    of the person who made it.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    name: str
    model: str
    source: str
    seeds: JsonList[int] = Field(min_length=1)
    targets: JsonList[str]
    phases: JsonList[Phase]
    use: dict[str, JsonList[str]] = Field(min_length=1)
    provenance: Provenance
    tasks: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _hangs_together(self) -> Plan:
        known = {phase.id for phase in self.phases}
        for condition, ids in self.use.items():
            unknown = [phase_id for phase_id in ids if phase_id not in known]
            if unknown:
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

    @classmethod
    def load(cls, path: Path) -> Plan:
        """A run's plan, checked; its tasks are known from then on. Raises UserError naming the file."""
        raw = read_json(path)
        # Before the check, which looks every task up.
        tasks = raw.get("tasks") if isinstance(raw, dict) else None
        add_definitions(tasks if isinstance(tasks, dict) else {}, str(path))
        return check_value(cls, raw, path, "run the same `stilts run` again, it plans anew")

    def named(self, names: Sequence[str], path: Path) -> list[Phase]:
        """The phases that are named by id or label, in the plan's order; all where none is named. Raises UserError for
        a name that the plan, which is that of `path`, has not."""
        known = {name for phase in self.phases for name in (phase.id, phase.label)}
        for name in names:
            if name not in known:
                raise UserError(f"{path} has no phase {name}{did_you_mean(name, known)}")
        return [phase for phase in self.phases if not names or phase.id in names or phase.label in names]

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        # The provenance leaves out what is not known, which a plain dump would write as empty text.
        # Plans of shipped tasks stay as they were, to the byte.
        without = {"tasks"} if not self.tasks else set()
        return {**self.model_dump(exclude=without), "provenance": self.provenance.to_json()}
