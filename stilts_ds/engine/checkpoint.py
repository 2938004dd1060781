"""Checkpoints that any number of ranks and any ZeRO stage can go on from, and that a kill at any moment cannot tear.

    checkpoints/step-000500/
      shard-00000.safetensors ...   one a rank: float32 weights and Adam's two moments, about as many bytes in each
      manifest.json                 written last: sizes and hashes of the shards, the step, the loop's state
    checkpoints/best-000400/        the best model on dev that some of the checkpoints know (export.py writes it)

Parameters are stored by name, whole or as runs of their rows (`weight/NAME@FIRST_ROW`), so nothing in the files depends
on how they were sharded (Adam's moments follow the weights: 12 bytes a parameter). Saving gathers one kind of state of
one parameter at a time; writing and hashing then go on
in the background while training continues. Rank 0 writes the manifest when all shards are on disk: that is the commit.
Reading goes newest first and passes over what is torn or damaged, saying so; a checkpoint is one thing with the best
model that it names. What is torn, or later than the checkpoint that a start continues from, is removed: these steps are
taken again, and what they left must not be taken for what comes. No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import errno
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from stilts_ds.engine import zero_state
from stilts_ds.engine.shards import MOMENTS, WEIGHT, owned_tensors, stored_tensors
from stilts_ds.engine.world import World
from stilts_ds.errors import UnreadableError, UserError
from stilts_ds.model import masks
from stilts_ds.model.multitask import MultiTask
from stilts_ds.run_dir import (
    VISIBLE_SECONDS,
    PhaseDir,
    await_visible,
    best_model,
    checksum,
    model_damage,
    open_to_others,
    read_json,
    read_sealed,
    reading,
    write_json,
    write_sealed,
)

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
CHECKSUM = "xxh3_128"
WRITING_SECONDS = 3600.0  # what rank 0 grants the other ranks to write their shards


class Saver:
    """Writes the checkpoints of one phase. All methods are collectives but for the writing itself."""

    def __init__(self, folder: Path, world: World, keep: int) -> None:
        self.folder, self.world, self.keep = folder, world, keep
        self.writing: threading.Thread | None = None
        self.written, self.given_up = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self.last_step = -1  # of the newest whole checkpoint: written, or continued from
        self.last_time = time.monotonic()

    def save(self, engine: Any, step: int, state: Mapping[str, Any]) -> None:
        """Copy the state of step `step` (steps done so far) to host memory and start to write it."""
        self.wait()
        if step == self.last_step:  # a stop right after a save or a start: never replace what is committed
            return
        self.last_step, self.last_time = step, time.monotonic()
        tensors = owned_tensors(engine, self.world)
        scalars = zero_state.scalars(engine)
        head = {
            "step": step,
            "state": dict(state),
            "world_size": self.world.size,
            "optimizer": scalars,
            "masks": masks.SCHEME,
        }
        target = self.folder / f"step-{step:06d}"
        if self.world.first:
            shutil.rmtree(target, ignore_errors=True)  # torn, or of a run that was continued from an older one
            target.mkdir(parents=True)
        # The folder has to be there before another rank writes its shard into it.
        self.world.barrier()
        self.written.clear()
        # A daemon: a process that leaves by an error must not wait for it.
        self.writing = threading.Thread(target=self._write, args=(target, tensors, head), daemon=True)
        self.writing.start()

    def drop_unnamed_best(self, step: int) -> None:
        """Remove the best model of `step` (0: none yet), for which there is a better one, if no checkpoint names it."""
        if step > self.last_step:
            shutil.rmtree(best_model(self.folder, step), ignore_errors=True)

    def overdue(self, minutes: float) -> bool:
        """Whether this rank wants a checkpoint: since the last one (or the start) is `minutes` old, which only rank 0
        says, because clocks differ; never where `minutes` is 0. Or since it could not write the last one: the next save
        raises what failed on all ranks, before more steps are lost with it.
        """
        is_old = minutes > 0 and time.monotonic() - self.last_time >= 60 * minutes
        return self.error is not None or (self.world.first and is_old)

    def wait(self) -> None:
        """Return when the last checkpoint is committed on all ranks; raises if that failed on any."""
        if self.writing is None:
            return
        self.written.wait()
        try:
            self._agree()  # before rank 0 is waited for, which waits for every rank's part
        except BaseException:
            self.given_up.set()
            raise
        finally:
            self.writing.join()
            self.writing = None
        self._agree()

    def _agree(self) -> None:
        error, self.error = self.error, None
        self.world.agree(error, f"saving a checkpoint in {self.folder}")

    def _write(self, target: Path, tensors: dict[str, torch.Tensor], head: dict[str, Any]) -> None:
        try:
            require_space(target, sum(tensor.nbytes for tensor in tensors.values()))
            write_shard(target, self.world.rank, tensors)
            self.written.set()
            if self.world.first and (files := _await_shards(target, self.world.size, self.given_up)):
                write_sealed(target / MANIFEST, {**head, "files": files})
                _prune(target, self.keep)
        except OSError as problem:
            free = shutil.disk_usage(self.folder).free
            self.error = UserError(
                f"checkpoint {target} was not written: {problem} ({free / 1e9:.2f} GB free); older ones are untouched. "
                "Free some space, and the same command continues"
            )
        except BaseException as problem:  # reported by the next wait(), on every rank
            self.error = problem
        finally:
            self.written.set()


def require_space(folder: Path, needed: int) -> None:
    """Raises OSError where a file of `needed` bytes would not fit: better nothing written than a part of it."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed / 1e9:.3f} GB are needed")


def write_shard(target: Path, rank: int, tensors: dict[str, torch.Tensor]) -> None:
    """Write one rank's file and, when it is on disk, its description beside it."""
    path = target / f"shard-{rank:05d}.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    open_to_others(path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    write_json(path.with_suffix(".json"), {path.name: {"bytes": path.stat().st_size, CHECKSUM: checksum(path)}})


def _await_shards(target: Path, size: int, given_up: threading.Event) -> dict[str, dict[str, Any]]:
    """Descriptions of all ranks' files; {} when `given_up`. They are read from disk, because a thread must not use
    collectives."""
    deadline = time.monotonic() + WRITING_SECONDS
    while len(described := sorted(target.glob("shard-*.json"))) < size:
        if time.monotonic() > deadline:
            raise OSError(f"only {len(described)} of {size} ranks wrote their part within an hour")
        if given_up.wait(0.02):
            return {}
    merged: dict[str, dict[str, Any]] = {}
    for path in described:
        merged |= read_json(path)
        path.unlink()
    return merged


def _prune(written: Path, keep: int) -> None:
    """Leave `keep` checkpoints: `written`, which was committed just now, and the newest others."""
    # Torn ones do not count as kept, and are left to the next start.
    others = [tag for tag in tags_in(written.parent) if is_committed(tag) and tag != written]
    for old in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)
    _prune_best_models(written.parent, until=_step(written))


def _prune_best_models(folder: Path, until: float) -> None:
    """Remove the best models of steps up to `until` that no checkpoint names. Training may have left later ones, which
    no checkpoint can name yet."""
    named = {_named_best(tag) for tag in tags_in(folder)}
    for best in _numbered(folder, "best"):
        if _step(best) <= until and _step(best) not in named:
            shutil.rmtree(best, ignore_errors=True)


def _named_best(tag: Path) -> int:
    """Step of the best model that a checkpoint names; 0 where it names none, or is torn or damaged."""
    try:
        return int(read_sealed(tag / MANIFEST)["state"]["best_step"])
    except UnreadableError:
        raise
    except (UserError, KeyError):
        return 0


def tags_in(folder: Path) -> list[Path]:
    """Checkpoints, torn ones too, oldest first; by number, since a millionth step has a seventh digit."""
    return _numbered(folder, "step")


def _numbered(folder: Path, kind: str) -> list[Path]:
    numbered = [path for path in folder.glob(f"{kind}-*") if path.name.removeprefix(f"{kind}-").isdecimal()]
    return sorted(numbered, key=_step)


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    folder: Path
    manifest: dict[str, Any]

    def weights_into(self, model: nn.Module) -> None:
        """Copy the weights into a model that no engine has sharded yet.

        Raises UserError where the checkpoint is of another model.
        """
        parameters = dict(model.named_parameters())
        seen = set()
        with torch.no_grad():
            for key, value in stored_tensors(self.folder, self.manifest["files"], WEIGHT):
                if key not in parameters or parameters[key].shape != value.shape:
                    raise UserError(
                        f"{self.folder}: {key} {list(value.shape)} does not fit the model of this recipe "
                        "(was engine.vocabulary_rows changed?); delete the folder to train this phase from its start"
                    )
                parameters[key].copy_(value)
                seen.add(key)
        if missing := sorted(set(parameters) - seen):
            raise UserError(f"{self.folder} has no {missing[0]}; delete the folder to train this phase from its start")

    def optimizer_into(self, engine: Any) -> None:
        """Set exact weights, Adam's moments and its step number in an engine of any stage. A collective."""
        parameters = dict(engine.module.named_parameters())
        zero_state.make_optimizer_state(engine, self.manifest["optimizer"])
        for kind in (WEIGHT, *MOMENTS):
            for key, value in stored_tensors(self.folder, self.manifest["files"], kind):
                zero_state.set_whole_state(engine, parameters[key], kind, value)

    def warn_of_masks(self, model: MultiTask) -> None:
        """Say so where the steps before drew dropout masks in another way than those that follow will."""
        if self.manifest.get("masks") != masks.SCHEME and model.drops:
            log.warning(
                "%s was written by a version that drew other dropout masks: the phase goes on, but its curve from here "
                "on is not the one that a start from step 0 draws. Delete %s to train the phase anew",
                self.folder,
                self.folder.parent,
            )


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; None when there is no tag directory. Raises UserError when all are damaged."""
    tags = tags_in(folder)[::-1]
    for tag in tags:
        problem = damage(tag)
        if problem is None:
            return tag
        log.warning("checkpoint %s is not used: %s", tag.name, problem)
    if any(is_committed(tag) for tag in tags):
        raise UserError(
            f"every checkpoint in {folder} is damaged; delete the folder to train this phase from its start"
        )
    return None  # the first checkpoint ever was torn: nothing was committed


def is_committed(tag: Path) -> bool:
    """Whether a checkpoint has its manifest. Raises UnreadableError where nobody can tell."""
    try:
        with reading(tag / MANIFEST):
            (tag / MANIFEST).stat()
    except FileNotFoundError:
        return False
    return True


def damage(tag: Path) -> str | None:
    """What is wrong with a checkpoint or with the best model that it names, or None.

    Raises UnreadableError where a file cannot be read: it may be whole, so nobody may decide that it is lost.
    """
    if not is_committed(tag):
        return "it was never committed (the job ended while saving)"
    try:
        manifest = read_sealed(tag / MANIFEST)
        described, best = manifest["files"], int(manifest["state"]["best_step"])
    except UnreadableError:
        raise
    except (UserError, KeyError) as error:
        return f"its manifest is damaged ({error})"
    for name, expected in described.items():
        if CHECKSUM not in expected:
            return f"it was written by another version of this program, without {CHECKSUM}"
        path = tag / name
        try:
            with reading(path):
                size = path.stat().st_size
            if size != expected["bytes"] or checksum(path) != expected[CHECKSUM]:
                return f"{name} changed since it was written"
        except FileNotFoundError:
            return f"{name} is missing"
    if best and (problem := model_damage(best_model(tag.parent, best))):
        return f"the best model that it names is damaged ({problem})"
    return None


def remove_lost(folder: Path, chosen: Path | None) -> None:
    """Remove what a start that goes on from `chosen` (None: at step 0) cannot use: torn checkpoints, later ones, and
    best models that no other checkpoint names."""
    for tag in tags_in(folder):
        if chosen is None or _step(tag) > _step(chosen) or not is_committed(tag):
            log.warning("checkpoint %s is removed: it is torn, or later than where training goes on", tag.name)
            shutil.rmtree(tag, ignore_errors=True)
    _prune_best_models(folder, until=math.inf)


def await_saved(phase: PhaseDir, seconds: float = VISIBLE_SECONDS) -> None:
    """Wait for the checkpoint of a phase that was stopped, which saved before it left, as its status says. Says so
    where none appears."""
    folder, status = phase.checkpoints, phase.read_status()
    if not status.state.startswith("stopped:") or status.trained or not phase.metrics.exists():
        return
    deadline = time.monotonic() + seconds
    while not ((tags := tags_in(folder)) and is_committed(tags[-1])):
        if time.monotonic() >= deadline:
            log.warning("%s: the phase was %s, and its last checkpoint is not here", folder, status.state)
            return
        if folder.exists():
            os.listdir(folder)  # makes a network file system look again
        time.sleep(0.2)


def find(folder: Path, world: World) -> Checkpoint | None:
    """The newest whole checkpoint, the same on every rank; None to start at step 0. What lies after it is removed. A
    collective."""
    chosen: str | None = None
    error: BaseException | None = None
    if world.first:
        try:
            latest = newest(folder)
            chosen = None if latest is None else latest.name
            remove_lost(folder, latest)
        except UserError as problem:
            error = problem
    world.agree(error, "choosing a checkpoint")
    chosen = world.broadcast(chosen)
    if chosen is not None:
        await_visible(folder / chosen / MANIFEST)
    return None if chosen is None else Checkpoint(folder / chosen, read_sealed(folder / chosen / MANIFEST))
