"""What a resumed phase must know besides the engine's own state, and which model it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from stilts_ds.phase_status import Best, TaskBest

SELECTION = "selection"  # tag of the number that selects the model; `selection/<task>` is a task's part of it


@dataclass
class Progress:
    """What a resumed run must know besides the engine's own state."""

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    since_best: int = 0
    skipped_in_a_row: int = 0
    selected_step: int = 0  # the step after which dev was evaluated last
    decay: float = 1.0  # what weight decay alone has made of a weight that never had a gradient
    kept: dict[str, float] = field(default_factory=dict)  # task -> dev score of the exported model
    peaks: dict[str, tuple[float, int]] = field(default_factory=dict)  # task -> its best dev score, and the step
    # SHA-256 and bytes of metrics.jsonl as rank 0 has written it so far. "": nothing yet, or an earlier version's.
    curve: str = ""
    curve_bytes: int = 0

    def record_evaluation(self, scores: Mapping[str, float]) -> bool:
        """Take in an evaluation on English dev after `step`; returns whether the model is the best so far."""
        self.selected_step = self.step
        parts = {tag.removeprefix(f"{SELECTION}/"): v for tag, v in scores.items() if tag.startswith(f"{SELECTION}/")}
        for task, score in parts.items():
            if score > self.peaks.get(task, (-math.inf,))[0]:
                self.peaks[task] = (score, self.step)
        if scores[SELECTION] <= self.best_score:
            self.since_best += 1
            return False
        self.best_score, self.best_step, self.since_best, self.kept = scores[SELECTION], self.step, 0, parts
        return True

    def chosen(self) -> Best:
        """The exported model's dev scores beside each task's own best, as the phase's status keeps them."""
        tasks = {
            task: TaskBest(score=self.kept[task], best=best, best_step=step)
            for task, (best, step) in self.peaks.items()
        }
        return Best(step=self.best_step, of=self.step, selection=self.best_score, tasks=tasks)
