"""Checkpoints that any number of ranks and any ZeRO stage can go on from, and that a kill at any moment cannot tear.

    checkpoints/step-000500/
      shard-00000.safetensors ...   one a rank: float32 weights and Adam's two moments, about as many bytes in each
      manifest.json                 written last: sizes and hashes of the shards, the step, the loop's state
    checkpoints/best-000400/        the best model on dev that some of the checkpoints know (export.py writes it)

Parameters are stored by name, whole or as runs of their rows (`weight/NAME@FIRST_ROW`), so nothing in the files depends
on how they were sharded (Adam's moments follow the weights: 12 bytes a parameter). Saving gathers one kind of state of
one parameter at a time; writing and hashing then go on in the background while training continues (saver.py). Rank 0
writes the manifest when all shards are on disk: that is the commit.

Reading goes newest first and passes over what is torn or damaged, saying so; a checkpoint is one thing with the best
model that it names. Each rank compares its share of the files with their hashes, and reads the numbers that it keeps.
What is torn, or did not lead to the checkpoint that a start continues from, is removed: these steps are taken again,
and what they left must not be taken for what comes. Where it cannot be removed, the lineage in the manifests tells it
from what comes: each start has a number, and the newest checkpoint is the last one of the last start. No pickle is
written or read.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stilts_ds.engine import zero_state
from stilts_ds.engine.shards import MOMENTS, WEIGHT, Index, StoredTensors, index_of
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
    read_sealed,
    reading,
)

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
# The starts that led to a checkpoint: [number of a start, last step of it that counts] each, the last start's last.
Lineage = list[list[int]]
FIRST_START: Lineage = [[1, 0]]
CHECKSUM = "xxh3_128"


def prune_best_models(folder: Path, until: float) -> None:
    """Remove the best models of steps up to `until` that no checkpoint names. Training may have left later ones, which
    no checkpoint can name yet."""
    named = {_named_best(tag) for tag in tags_in(folder)}
    for best in _numbered(folder, "best"):
        if step_of(best) <= until and step_of(best) not in named:
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
    return sorted(numbered, key=step_of)


def step_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk, and where its files hold what."""

    folder: Path
    manifest: dict[str, Any]
    index: Index

    def weights_into(self, model: nn.Module) -> None:
        """Copy the weights into a model that no engine has sharded yet, on rank 0, which sends them to the others.

        Raises UserError where the checkpoint is of another model.
        """
        parameters = dict(model.named_parameters())
        with torch.no_grad(), StoredTensors(self.folder, self.index) as stored:
            names = stored.names(WEIGHT)
            for name in names:
                value = stored.whole(WEIGHT, name)
                if name not in parameters or parameters[name].shape != value.shape:
                    raise UserError(
                        f"{self.folder}: {name} {list(value.shape)} does not fit the model of this recipe "
                        "(was engine.vocabulary_rows changed?); delete the folder to train this phase from its start"
                    )
                parameters[name].copy_(value)
        if missing := sorted(set(parameters) - set(names)):
            raise UserError(f"{self.folder} has no {missing[0]}; delete the folder to train this phase from its start")

    def optimizer_into(self, engine: Any) -> None:
        """Set exact weights, Adam's moments and its step number in an engine of any stage. A collective.

        Each rank reads what it keeps. At stage 0, where that is everything, rank 0 reads and sends it.
        """
        parameters = dict(engine.module.named_parameters())
        zero_state.make_optimizer_state(engine, self.manifest["optimizer"])
        with StoredTensors(self.folder, self.index) as stored:
            for kind in (WEIGHT, *MOMENTS):
                for name in stored.names(kind):
                    parameter = parameters[name]
                    if zero_state.is_whole(engine):
                        value = stored.whole(kind, name) if torch.distributed.get_rank() == 0 else None
                        zero_state.send_whole_state(engine, parameter, kind, value)
                        continue
                    values = stored.numbers(kind, name, *zero_state.kept_numbers(engine, parameter))
                    zero_state.set_kept_numbers(engine, parameter, kind, values)

    def warn_of_masks(self, model: MultiTask) -> None:
        """Say so where the steps before drew dropout masks in another way than those that follow will."""
        if self.manifest.get("masks") != masks.SCHEME and model.drops:
            log.warning(
                "%s was written by a version that drew other dropout masks: the phase goes on, but its curve from here "
                "on is not the one that a start from step 0 draws. Delete %s to train the phase anew",
                self.folder,
                self.folder.parent,
            )


def by_age(folder: Path) -> list[Path]:
    """Checkpoints, torn ones too, in the order in which starts wrote them: that of an earlier start may be of a later
    step, where it could not be removed when training went on before it."""
    return sorted(tags_in(folder), key=lambda tag: lineage_of(tag)[-1])


def lineage_of(tag: Path) -> Lineage:
    """How a checkpoint came about. One that is torn or damaged counts as the newest of its step."""
    try:
        manifest = read_sealed(tag / MANIFEST)
    except UnreadableError:
        raise
    except (UserError, FileNotFoundError):
        return [[sys.maxsize, step_of(tag)]]
    # Earlier versions kept none: start 0.
    lineage: Lineage = manifest.get("lineage", [[0, step_of(tag)]])
    return lineage


def is_committed(tag: Path) -> bool:
    """Whether a checkpoint has its manifest. Raises UnreadableError where nobody can tell."""
    try:
        with reading(tag / MANIFEST):
            (tag / MANIFEST).stat()
    except FileNotFoundError:
        return False
    return True


def damage(tag: Path, rank: int = 0, ranks: int = 1) -> str | None:
    """What is wrong with a checkpoint or with the best model that it names, or None, as far as a rank looks: at each
    `ranks`-th file, from that of its own number.

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
    for name, expected in list(described.items())[rank::ranks]:
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
    # The last rank, because with fewer files than ranks it has none of those.
    if best and rank == ranks - 1 and (problem := model_damage(best_model(tag.parent, best))):
        return f"the best model that it names is damaged ({problem})"
    return None


def remove_lost(folder: Path, chosen: Path | None) -> None:
    """Remove what a start that goes on from `chosen` (None: at step 0) cannot use: torn checkpoints, those that did not
    lead to it, and best models that no other checkpoint names."""
    lineage = [] if chosen is None else lineage_of(chosen)
    for tag in tags_in(folder):
        if not _led_to(lineage, tag):
            log.warning("checkpoint %s is removed: it is torn, or later than where training goes on", tag.name)
            shutil.rmtree(tag, ignore_errors=True)
    prune_best_models(folder, until=math.inf)


def _led_to(lineage: Lineage, tag: Path) -> bool:
    """Whether a checkpoint is one on the way of a lineage."""
    start, step = lineage_of(tag)[-1]
    return any(start == of_start and step <= last_step for of_start, last_step in lineage)


def _next_lineage(folder: Path, chosen: Path | None) -> Lineage:
    """The lineage of what a start will write that goes on from `chosen` (None: at step 0)."""
    # Higher than any number that is there, also of checkpoints which could not be removed.
    starts = [lineage_of(tag)[-1][0] for tag in tags_in(folder) if is_committed(tag)]
    number = max((start for start in starts if start < sys.maxsize), default=0) + 1
    return [*([] if chosen is None else lineage_of(chosen)), [number, 0]]


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


def find(folder: Path, world: World) -> tuple[Checkpoint | None, Lineage]:
    """The newest whole checkpoint, the same on every rank, and the lineage of what follows; no checkpoint, to start at
    step 0. What lies after it is removed. A collective.

    Rank 0 names the checkpoints, and each rank compares its share of their files with their hashes.
    """
    names: list[str] = []
    world.on_rank_0(lambda: names.extend(tag.name for tag in by_age(folder)[::-1]))
    tags = [folder / name for name in world.broadcast(names if world.first else None)]
    chosen: Path | None = None
    for tag in tags:
        problem = _damage_to_any(tag, world)
        if problem is None:
            chosen = tag
            break
        if world.first:
            log.warning("checkpoint %s is not used: %s", tag.name, problem)
    found: list[Any] = []

    def settle() -> None:
        # A first checkpoint that was torn is no loss: nothing was committed.
        if chosen is None and any(is_committed(tag) for tag in tags):
            raise UserError(
                f"every checkpoint in {folder} is damaged; delete the folder to train this phase from its start"
            )
        remove_lost(folder, chosen)
        lineage = _next_lineage(folder, chosen)
        if chosen is None:
            found.extend((None, None, lineage))
        else:
            manifest = read_sealed(chosen / MANIFEST)
            found.extend((manifest, index_of(chosen, manifest["files"]), lineage))

    world.on_rank_0(settle)
    manifest, index, lineage = world.broadcast(found if world.first else None)
    return None if chosen is None else Checkpoint(chosen, manifest, index), lineage


def _damage_to_any(tag: Path, world: World) -> str | None:
    """What the ranks together find wrong with a checkpoint, or None. A collective."""
    problem, unreadable = None, None
    # A network file system may take its time to show it on another node.
    await_visible(tag / MANIFEST, 0.0 if world.first else VISIBLE_SECONDS)
    try:
        problem = damage(tag, world.rank, world.size)
    except UnreadableError as error:
        unreadable = error
    world.agree(unreadable, f"reading {tag}")
    return next((answer for answer in world.all_gather(problem) if answer is not None), None)
