"""What is left of a run: seconds of each phase by what phases like it took, and hours of ranks so far and to go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from stilts_ds.phase_status import PhaseStatus
from stilts_ds.plan_file import Phase


@dataclass(frozen=True)
class PhaseState:
    """A phase, its status file's value, the last step of its curve (0: none), and whether a process works on it."""

    phase: Phase
    status: PhaseStatus
    step: int
    running: bool


@dataclass(frozen=True)
class Outlook:
    """Hours are of ranks, which on GPUs are GPU hours. None: nothing done so far says how long the rest takes."""

    hours_so_far: float
    hours_to_go: float | None
    seconds_left: float | None

    def text(self) -> str:
        words = [f"{self.hours_so_far:.2f} rank-hours so far (GPU hours, where ranks have GPUs)"]
        if self.hours_to_go:
            words.append(f"about {self.hours_to_go:.2f} to go")
        return ", ".join(words)


def outlook(states: Sequence[PhaseState], now: float | None = None) -> Outlook:
    """What a run has cost and what is left. Phases that run go on side by side; the rest follow at their number."""
    now = time.time() if now is None else now
    left = [seconds_left(state, states, now) for state in states if state.status.state != "done"]
    known = [seconds for seconds in left if seconds is not None]
    so_far = sum(_spent(state, now) * (state.status.world_size or 1) for state in states) / 3600
    if len(known) < len(left):
        return Outlook(so_far, None, None)
    width = max((state.status.world_size or 1 for state in states), default=1)
    side_by_side = sum(state.running for state in states)
    total = sum(known)
    # Where nothing runs, how long it takes depends on when somebody, or the queue, starts it.
    seconds = total / side_by_side if side_by_side else None
    return Outlook(so_far, total * width / 3600, seconds if left else 0.0)


def seconds_left(state: PhaseState, states: Sequence[PhaseState], now: float) -> float | None:
    """Seconds that a phase which is not done still takes: by finished phases of the same tasks, else by its own steps,
    else by finished phases of its kind. None where there are none."""
    phase, status = state.phase, state.status
    spent = _spent(state, now)
    same = [finished for finished in states if _tasks(finished.phase) == _tasks(phase)]
    if expected := _mean_seconds(same):
        return max(0.0, expected - spent)
    # Evaluation behind the last step is not in it; nobody knows yet how long that takes.
    if state.running and state.step and status.steps:
        return spent / state.step * max(0, status.steps - state.step)
    alike = _mean_seconds([finished for finished in states if finished.phase.kind == phase.kind])
    return None if alike is None else max(0.0, alike - spent)


def _tasks(phase: Phase) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    return phase.kind, tuple(phase.train), tuple(phase.evaluate)


def _mean_seconds(states: Sequence[PhaseState]) -> float | None:
    seconds = [s.status.seconds for s in states if s.status.state == "done" and s.status.seconds is not None]
    return mean(seconds) if seconds else None


def _spent(state: PhaseState, now: float) -> float:
    """Seconds of all its starts so far. The status file of a running phase counts up to its last change."""
    since = now - state.status.at if state.running and state.status.at is not None else 0.0
    return (state.status.seconds or 0.0) + max(0.0, since)
