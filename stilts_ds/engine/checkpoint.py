"""Checkpoints committed by a manifest: a kill at any moment leaves the newest whole one usable.

DeepSpeed writes its shards into `checkpoints/step-000500/`; every rank hashes its own files; rank 0 writes
`manifest.json` last, atomically: that is the commit. Reading goes newest first and skips what is torn or damaged,
saying so. No tag directory at all is the only way to start from nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_file, read_json, write_json

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


def trust_only_tensors() -> None:
    """Make torch.load refuse pickled code, also where DeepSpeed asks for it, but for DeepSpeed's own plain classes."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    torch.serialization.add_safe_globals([LossScaler, ZeroStageEnum, fragment_address])


def save(engine: Any, folder: Path, step: int, state: dict[str, Any], world: World, keep: int) -> None:
    """Write and commit a checkpoint of step `step` (steps done so far); keep the newest `keep`. A collective."""
    tag = f"step-{step:06d}"
    target = folder / tag
    if world.first and target.exists():
        shutil.rmtree(target)  # torn, or of a run that was continued from an older one
    world.barrier()
    error: BaseException | None = None
    try:
        engine.save_checkpoint(str(folder), tag=tag, client_state={}, save_latest=False)
    except (OSError, RuntimeError) as problem:
        error = problem
    world.agree(error, f"saving checkpoint {target} (is the disk full?)")
    # All shards are written now; each rank hashes its share of the files.
    mine = {str(p.relative_to(target)): _describe(p) for p in _files(target)[world.rank :: world.size]}
    merged: dict[str, dict[str, Any]] = {}
    for described in world.gather(mine):
        merged |= described
    if world.first:
        write_json(target / MANIFEST, {"step": step, "state": state, "world_size": world.size, "files": merged})
        _prune(folder, keep)
    world.barrier()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": hash_file(path)}


def _prune(folder: Path, keep: int) -> None:
    committed = [tag for tag in sorted(folder.glob("step-*")) if (tag / MANIFEST).exists()]
    for old in committed[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint; None when there is no tag directory. Raises UserError when all are damaged."""
    tags = sorted(folder.glob("step-*"), reverse=True)
    for tag in tags:
        problem = damage(tag)
        if problem is None:
            return tag
        log.warning("checkpoint %s is not used: %s", tag.name, problem)
    if any((tag / MANIFEST).exists() for tag in tags):
        raise UserError(
            f"every checkpoint in {folder} is damaged; delete the folder to train this phase from its start"
        )
    return None  # the first checkpoint ever was torn: nothing was committed


def damage(tag: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    if not (tag / MANIFEST).exists():
        return "it was never committed (the job ended while saving)"
    try:
        described = read_json(tag / MANIFEST)["files"]
    except (UserError, KeyError) as error:
        return str(error)
    for name, expected in described.items():
        path = tag / name
        if not path.exists():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"] or hash_file(path) != expected["sha256"]:
            return f"{name} changed since it was written"
    return None


def load(engine: Any, folder: Path, world: World) -> dict[str, Any] | None:
    """Load the newest whole checkpoint into the engine; returns {"step", "state"} or None to start at step 0."""
    chosen: str | None = None
    error: BaseException | None = None
    if world.first:
        try:
            found = newest(folder)
            chosen = None if found is None else found.name
        except UserError as problem:
            error = problem
    world.agree(error, "choosing a checkpoint")
    chosen = world.broadcast(chosen)
    if chosen is None:
        return None
    manifest = read_json(folder / chosen / MANIFEST)
    if manifest["world_size"] != world.size:
        raise UserError(
            f"{folder / chosen} was written by {manifest['world_size']} ranks, this run has {world.size}; "
            "start as many ranks as before, or delete the folder to train this phase from its start"
        )
    engine.load_checkpoint(str(folder), tag=chosen)
    return manifest
