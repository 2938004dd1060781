"""Writing checkpoints (checkpoint.py says what they are) in the background, and removing those that are too many."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stilts_ds.engine import zero_state
from stilts_ds.engine.checkpoint import CHECKSUM, MANIFEST, Lineage, by_age, is_committed, prune_best_models, step_of
from stilts_ds.engine.shards import owned_tensors
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError, no_room
from stilts_ds.model import masks
from stilts_ds.run_dir import best_model, checksum, open_to_others, read_json, write_json, write_sealed

WRITING_SECONDS = 3600.0  # what rank 0 grants the other ranks to write their shards


class Saver:
    """Writes the checkpoints of one phase. All methods are collectives but for the writing itself."""

    def __init__(self, folder: Path, world: World, keep: int, lineage: Lineage) -> None:
        self.folder, self.world, self.keep, self.lineage = folder, world, keep, lineage
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
            "lineage": [*self.lineage[:-1], [self.lineage[-1][0], step]],
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
            room = f"{free / 1e9:.2f} GB free on the disk"
            if full := no_room(problem):
                room = f"{full}; {room}"  # of a quota, free space says nothing
            self.error = UserError(
                f"checkpoint {target} was not written: {problem} ({room}); older ones are untouched. "
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
    others = [tag for tag in by_age(written.parent) if is_committed(tag) and tag != written]
    for old in others[: max(0, len(others) - (keep - 1))]:
        shutil.rmtree(old, ignore_errors=True)
    prune_best_models(written.parent, until=step_of(written))
