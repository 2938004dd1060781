"""What a run keeps on disk, and what it takes at most while it runs.

Every trained phase leaves a whole model. `keep` says which of them stay once nothing else of the plan needs them:

    encoders  all of them (the default)
    heads     the heads alone: small, and enough to look at what was learnt
    best      of each fine-tuning the model that is best on English dev, over conditions and seeds
    scores    none: predictions, scores, curves and logs stay in any case

A phase whose model is gone is done all the same. Where a later plan needs the model again, the phase is trained again.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.config import Keep
from stilts_ds.errors import UserError
from stilts_ds.lineage import is_outdated, needs_start
from stilts_ds.locks import phase_lock
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import PhaseDir, RunDir, folder_bytes

log = logging.getLogger(__name__)
GOING = "going"  # what is being removed: a start that is killed meanwhile leaves no half model under its name
WEIGHT_BYTES, STATE_BYTES = 4, 12  # a parameter's: in a model (float32), in a checkpoint (and its two moments)


@dataclass(frozen=True)
class Removal:
    """Files of one phase that `keep` does not keep."""

    phase_id: str
    paths: tuple[Path, ...]
    bytes: int
    reason: str

    @property
    def names(self) -> str:
        return ", ".join(path.name for path in self.paths)


# --- what goes --------------------------------------------------------------------------------------------------------


def removals(run: RunDir, plan: Plan, keep: Keep) -> list[Removal]:
    """What of the finished phases' models need not be kept. Nothing that an unfinished phase starts from is in it."""
    # One that is outdated will be made again from what it starts from.
    done = {phase.id for phase in plan.phases if run.phase(phase.id).status() == "done" and not is_outdated(run, phase)}
    # A phase that is trained and not yet scored counts as unfinished: it may be begun anew.
    needed = {phase.init for phase in plan.phases if phase.id not in done}
    best = best_phases(plan.phases, done, lambda phase: _selection(run, phase)) if keep == "best" else set()
    removed = []
    for phase in plan.phases:
        if not phase.train or phase.id not in done or phase.id in needed | best:
            continue
        folder = run.phase(phase.id)
        paths = tuple(path for path in _dropped(folder, keep) if path.exists())
        if paths:
            removed.append(Removal(phase.id, paths, sum(map(_bytes, paths)), f"{phase.label}, keep={keep}"))
    return removed


def _dropped(folder: PhaseDir, keep: Keep) -> list[Path]:
    """The parts of a phase's model that go at a level, where it is not the best one."""
    if keep == "encoders":
        return []
    # heads.json stays: its hashes tell later starts which weights there were.
    return [folder.encoder] if keep == "heads" else [folder.encoder, folder.heads]


def best_phases(phases: Sequence[Phase], done: set[str], score: Callable[[Phase], float]) -> set[str]:
    """Of each fine-tuning (one train split) the finished phase with the best dev score; of equal ones the first."""
    best: dict[tuple[str, ...], Phase] = {}
    for phase in phases:
        if phase.kind == "target" and phase.id in done:
            leader = best.setdefault(phase.train, phase)
            if score(phase) > score(leader):
                best[phase.train] = phase
    return {phase.id for phase in best.values()}


def _selection(run: RunDir, phase: Phase) -> float:
    best = run.phase(phase.id).read_status().best
    return best.selection if best is not None and not math.isnan(best.selection) else -math.inf


def leftovers(run: RunDir, plan: Plan) -> list[Removal]:
    """Checkpoints of phases that are done: a start was killed before it removed them."""
    removed = []
    for phase in plan.phases:
        folder = run.phase(phase.id)
        paths = tuple(path for path in (folder.checkpoints, folder.root / GOING) if path.exists())
        if paths and folder.status() == "done":
            removed.append(Removal(phase.id, paths, sum(map(_bytes, paths)), f"{phase.label}, left by a killed start"))
    return removed


def unplanned(run: RunDir, plan: Plan) -> list[Removal]:
    """Whole phases that stand in the folder and not in the plan: earlier settings left them."""
    planned = {phase.id for phase in plan.phases}
    folders = sorted(path for path in (run.root / "phases").glob("*") if path.is_dir() and path.name not in planned)
    return [Removal(path.name, (path,), folder_bytes(path), "not in the plan, with its scores") for path in folders]


def remove(run: RunDir, removal: Removal) -> bool:
    """Remove one phase's files. Returns whether they are gone: a phase in which somebody works is left alone."""
    folder = run.phase(removal.phase_id)
    with suppress(UserError), phase_lock(folder):
        going = folder.root / GOING
        shutil.rmtree(going, ignore_errors=True)  # of a start that was killed here
        going.mkdir()
        for path in removal.paths:
            os.replace(path, going / path.name)
        shutil.rmtree(going, ignore_errors=True)
        return True
    log.info("a model stays, since somebody works on its phase: %s", removal.reason)
    return False


def drop_unneeded(run: RunDir, plan: Plan, keep: Keep) -> None:
    """Remove what `keep` does not keep and no phase needs any more."""
    for removal in removals(run, plan, keep):
        if remove(run, removal):
            log.info("%.3f GB of a model removed: %s", removal.bytes / 1e9, removal.reason)


def train_again(run: RunDir, plan: Plan, chosen: Iterable[Phase]) -> None:
    """Take up phases again whose model is gone and that a phase of the plan starts from, which is not trained yet.

    Raises UserError where such a phase is not among the chosen ones.
    """
    known = {phase.id: phase for phase in plan.phases}
    wanted = {phase.id for phase in chosen}
    # From the last to the first: a phase that is trained again may itself start from one whose model is gone.
    for phase in reversed(plan.phases):
        if not phase.init or not needs_start(run, phase) or not run.phase(phase.init).model_is_gone():
            continue
        start = known[phase.init]
        if start.id in wanted:
            log.warning("%s is trained again: its model was not kept, and %s starts from it", start.label, phase.label)
            run.phase(start.id).status_json.unlink(missing_ok=True)
        elif phase.id in wanted:
            problem = f"{phase.label} starts from {start.label}, whose model was not kept (keep)"
            raise UserError(f"{problem}; `stilts run` without --phase trains both")


# --- what it takes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DiskUse:
    """Bytes of models and checkpoints: now, at the end of the plan, and at most in between; `phase` are those of the
    checkpoints of one phase that is still to train, at most."""

    now: int
    end: int
    peak: int
    phase: int

    @property
    def more(self) -> int:
        """Bytes that are yet to be written at most."""
        return self.peak - self.now


def checkpoint_bytes(phase: Phase, parameters: int) -> int:
    """Most bytes of a phase's checkpoints and best models while it trains.

    A checkpoint holds 12 bytes a parameter (weights and two moments in float32), and one more stands beside the kept
    ones while it is written. Each may name a best model of its own, of 4 bytes a parameter, and one more is newer than
    all of them.
    """
    checkpoints = phase.setting().save_total_limit + 1
    return parameters * (STATE_BYTES * checkpoints + WEIGHT_BYTES * (checkpoints + 1))


def disk_use(run: RunDir, plan: Plan, keep: Keep, parameters: int, at_once: int = 1) -> DiskUse:
    """The bytes of a plan of whose phases `at_once` train side by side (worlds), from where the run stands now.

    `parameters` are the encoder's: heads, tokenizers, predictions and cached rows are small beside it, and not counted.
    Of phases side by side the one that began first ends first, and one that another starts from before that begins.
    """
    model = WEIGHT_BYTES * parameters
    models: dict[str, int] = {}
    checkpoints = {phase.id: folder_bytes(run.phase(phase.id).checkpoints) for phase in plan.phases}
    done: set[str] = set()
    for phase in plan.phases:
        folder = run.phase(phase.id)
        if folder.encoder.is_dir():
            models[phase.id] = folder_bytes(folder.encoder)
        if folder.status() == "done":
            done.add(phase.id)
    now = peak = sum(models.values()) + sum(checkpoints.values())
    largest = 0
    training: list[str] = []  # phases at work, by their begin

    def end(phase_id: str) -> None:
        if phase_id in training:
            training.remove(phase_id)
            models[phase_id] = model
        checkpoints[phase_id] = 0
        done.add(phase_id)
        _forget(models, plan, keep, done)

    for phase in plan.phases:
        if phase.init in training:
            end(phase.init)
        if not phase.train or not needs_start(run, phase):
            end(phase.id)
            continue
        if len(training) == at_once:
            end(training[0])
        # What an earlier start left in the folder is replaced or removed. The published model is a second name of the
        # best one, so it takes no more than the checkpoints beside it.
        training.append(phase.id)
        checkpoints[phase.id] = max(checkpoints[phase.id], checkpoint_bytes(phase, parameters))
        peak = max(peak, sum(models.values()) + sum(checkpoints.values()))
        largest = max(largest, checkpoints[phase.id])
    while training:
        end(training[0])
    return DiskUse(now, sum(models.values()), peak, largest)


def _forget(models: dict[str, int], plan: Plan, keep: Keep, done: set[str]) -> None:
    """Take out the models that would be removed by then. Which phase will be best is not known: the first stands for
    it, since all are of one size."""
    if keep == "encoders":
        return
    needed = {phase.init for phase in plan.phases if phase.id not in done}
    best = best_phases(plan.phases, done, lambda phase: 0.0) if keep == "best" else set()
    for name in [name for name in models if name in done and name not in needed | best]:
        del models[name]


def _bytes(path: Path) -> int:
    return folder_bytes(path) if path.is_dir() else path.stat().st_size
