"""How a phase stands and what it has cost: the value of its status.json. `PhaseDir` reads and writes the file."""

from __future__ import annotations

from typing import Any

from stilts_ds.values import Value

# What a new state keeps of the status before it. Joules are not kept: a start that could not count them (a crash, a
# rank without a counter) would leave a sum that lacks its share.
KEPT = ("seconds", "world_size", "best", "curve", "dtype", "started_from", "steps")


class TaskBest(Value):
    """One task's English dev score: of the exported model, and the best of any step, both in percent."""

    score: float
    best: float
    best_step: int


class Best(Value):
    """The exported model: the step that it is of, of how many, and its scores on English dev in percent.

    `selection` is the mean that chose it. It may be NaN, where the model's numbers were.
    """

    step: int
    of: int
    selection: float
    tasks: dict[str, TaskBest]


class PhaseStatus(Value):
    """What status.json tells. None: the file says nothing about it, and the key is not in it.

    `state` is `running`, `trained`, `done`, `stopped:<signal>`, `failed`, or `pending` where there is no file yet.
    `trained`: the model is exported. `token` tells one start of the ranks from another. `at` is in seconds since 1970.
    `seconds` (wall time), `joules` (all GPUs) and `world_size` are of all starts so far. `curve` is the SHA-256 of
    metrics.jsonl as training wrote it. `dtype` is what `engine.dtype: auto` chose for the phase. `started_from` is the
    hash of the encoder's weights that the phase started from (stilts_ds.lineage). `steps` is how many training takes.
    """

    state: str = "pending"
    trained: bool = False
    token: str = ""
    at: float | None = None
    seconds: float | None = None
    world_size: int | None = None
    joules: float | None = None
    best: Best | None = None
    curve: str | None = None
    error: str | None = None
    dtype: str | None = None
    started_from: str | None = None
    steps: int | None = None

    @property
    def pending(self) -> bool:
        """Whether nothing ran yet."""
        return self.state == "pending"

    def to_json(self, before: PhaseStatus) -> dict[str, Any]:
        """The file's content, without the seal. What the status `before` knew already stands first in the file."""
        known = self.model_dump(exclude_none=True)
        first = [key for key in KEPT if getattr(before, key) is not None]
        return {key: known[key] for key in dict.fromkeys([*first, *known])}
