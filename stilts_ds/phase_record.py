"""What is told of a run while its phases run: the status file of each, and the milestones of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from stilts_ds.data.data import Data
from stilts_ds.display import MILESTONE, PhaseWork, StudyWork, carrying, duration
from stilts_ds.engine.cost import Cost
from stilts_ds.engine.preempt import Stopped
from stilts_ds.engine.world import World
from stilts_ds.errors import counted, redacted
from stilts_ds.evaluate.result import scores_in_words
from stilts_ds.evaluate.zero_shot import wanted
from stilts_ds.phase_status import PhaseStatus
from stilts_ds.plan_file import Phase
from stilts_ds.planning.sizes import steps_and_tokens
from stilts_ds.run_dir import PhaseDir, RunDir

log = logging.getLogger(__name__)


class PhaseRecord:
    """The status file of a phase that runs: its state, what it has cost so far, and why it failed."""

    def __init__(self, folder: PhaseDir, world: World) -> None:
        self.folder, self.world = folder, world
        self.cost = Cost(folder.read_status() if world.first else PhaseStatus(), world)

    def save(self, state: str, **details: Any) -> None:
        """Write a state with the cost so far. A collective."""
        spent = self.cost.so_far()
        if self.world.first:
            self.folder.set_status(state, **spent, **details)

    @contextmanager
    def of_failures(self) -> Iterator[None]:
        """Write down what ends the phase before its time."""
        try:
            yield
        # No failure: the checkpoint is written, and the same command goes on.
        except Stopped as stopped:
            self.save(f"stopped:{stopped}")
            raise
        except Exception as problem:
            if self.world.first:
                with suppress(OSError):  # a full disk must not hide what failed
                    error = redacted(f"{type(problem).__name__}: {problem}")
                    # The cost of this rank only: another rank may be gone, and a collective would wait for it.
                    self.folder.set_status("failed", **self.cost.of_this_rank(), error=error)
            raise


class StudyLog:
    """The milestones of a start, as rank 0 logs them: what there is to do, how each phase ended, and the end."""

    def __init__(self, run: RunDir, phases: Sequence[Phase], world: World) -> None:
        self.run, self.phases, self.told = run, phases, world.first
        self.begun = time.monotonic()
        if self.told:
            ranks = counted(world.size, "rank")
            log.log(MILESTONE, "%s on %s: reading the data", counted(len(phases), "phase"), ranks)

    def has_read(self, data: Data, only: str | None) -> None:
        """The data is at hand: say how much is to be trained and predicted."""
        if self.told:
            work = StudyWork(tuple(work_of(self.run, phase, data, only) for phase in self.phases))
            files = counted(sum(phase.files for phase in work.phases), "prediction file")
            log.info("%s to do", files, extra=carrying(work))

    @contextmanager
    def of_phase(self, number: int, phase: Phase) -> Iterator[None]:
        """One phase, counted from 1."""
        begun = time.monotonic()
        if self.told:
            log.info("phase %d/%d: %s", number, len(self.phases), phase.title)
        yield
        if self.told:
            folder = self.run.phase(phase.id)
            words = ", ".join([folder.status(), *scores_in_words(folder, phase)])
            ended = f"{phase.label} {words} in {duration(time.monotonic() - begun)}"
            log.log(MILESTONE, "%d/%d  %s", number, len(self.phases), ended)

    def ends(self) -> None:
        if self.told:
            spent = duration(time.monotonic() - self.begun)
            log.log(MILESTONE, "done in %s: %s", spent, counted(len(self.phases), "phase"))


def work_of(run: RunDir, phase: Phase, data: Data, only: str | None) -> PhaseWork:
    """What a phase has to do in this start, as far as its files say."""
    state = run.phase(phase.id).read_status()
    to_train = 0.0 if state.trained or only == "evaluate" else steps_and_tokens(phase, data)[1]
    if state.state == "done" or only == "train":
        return PhaseWork(phase.label, to_train, 0)
    return PhaseWork(phase.label, to_train, sum(1 for _ in wanted(phase, data)))
