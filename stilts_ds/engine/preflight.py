"""Look at the ranks before anything is paid for: do they agree, see one run folder, and add up right?

Runs at every start in about a second; a finding is a UserError that names the node and the remedy.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.run_dir import VISIBLE_SECONDS, git_commit
from stilts_ds.versions import untested_versions, versions

log = logging.getLogger(__name__)


def check_ranks(world: World, folder: Path, needed_bytes: int) -> None:
    """Check all ranks. `needed_bytes` is what the study may yet write into `folder`. A collective.

    Raises UserError on every rank where versions differ, the folder is not one folder, disk space is short or an
    all-reduce gives a wrong sum.
    """
    marker = folder / f".preflight-{world.broadcast(f'{socket.gethostname()}-{os.getpid()}' if world.first else None)}"
    if world.first:
        marker.touch()
    world.barrier()
    facts_of_this_rank = _facts(world, marker)
    facts = world.all_gather(facts_of_this_rank)
    world.barrier()
    if world.first:
        marker.unlink()
        log.info("ranks: %s", "; ".join(_on_nodes(facts)))
        if untested := untested_versions():
            log.warning(untested)
    problem = _problem(facts, folder, needed_bytes)
    if problem is not None:
        raise UserError(problem)


def check_same_start(world: World, given: Mapping[str, Any]) -> None:
    """Check that every rank was started with the same settings: rank 0's recipe is written and used by all of them.

    Raises UserError on every rank, naming the first setting that differs. A collective.
    """
    # As JSON text, in which equal settings are equal.
    flat = {key: json.dumps(value, sort_keys=True) for key, value in flattened(given)}
    starts = world.all_gather(flat)
    for rank, settings in enumerate(starts):
        for key in sorted({*settings, *starts[0]}):
            if settings.get(key) != starts[0].get(key):
                raise UserError(
                    f"rank {rank} was started with {key}={settings.get(key, '(none)')}, rank 0 with "
                    f"{starts[0].get(key, '(none)')}; start all ranks with one recipe and the same settings"
                )


def flattened(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of nested sections by dotted name."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flattened(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def node_name() -> str:
    """The name of this node, as the launcher knows it."""
    return os.environ.get("STILTS_NODE") or socket.gethostname()


def _facts(world: World, marker: Path) -> dict[str, Any]:
    return {
        "node": node_name(),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU",
        "gpu": _gpu_identity(world.device),
        "versions": {**versions(), "commit": git_commit()},
        "sees": _appears(marker),
        "free": shutil.disk_usage(marker.parent).free,
        "sum": _sum_of_ranks(world),
        "size": world.size,
    }


def _gpu_identity(device: torch.device) -> str:
    """What tells this rank's GPU, or part of one (MIG), from the others of its node; empty for a CPU."""
    if device.type != "cuda":
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    index = device.index or 0
    if index < len(visible) and visible[index].startswith("MIG-"):
        return visible[index]
    return str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))


def shared_gpu(facts: list[dict[str, Any]]) -> str | None:
    """Which two ranks work on one GPU, or None."""
    seen: dict[tuple[str, str], int] = {}
    for rank, fact in enumerate(facts):
        if not fact["gpu"]:
            continue
        first = seen.setdefault((fact["node"], fact["gpu"]), rank)
        if first != rank:
            where = f"ranks {first} and {rank} on {fact['node']}"
            return f"{where} were given one and the same GPU ({fact['gpu']}); start one rank for each GPU"
    return None


def _appears(marker: Path) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    while time.monotonic() < deadline:
        try:
            if marker.name in os.listdir(marker.parent):  # listing, because a missing name may be cached
                return True
        except OSError:
            return False
        time.sleep(0.2)
    return False


def _sum_of_ranks(world: World) -> float:
    # Every rank another number, so that a missing or doubled one shows in the sum.
    value = torch.full((1024,), float(world.rank + 1), device=world.device)
    dist.all_reduce(value)
    return float(value.min()) if bool((value == value[0]).all()) else float("nan")


def _problem(facts: list[dict[str, Any]], folder: Path, needed_bytes: int) -> str | None:
    first, size = facts[0], len(facts)
    for rank, fact in enumerate(facts):
        where = f"rank {rank} on {fact['node']}"
        if not fact["sees"]:
            return f"{where} does not see {folder} as rank 0 does; put output_dir on a file system that all nodes share"
        for name, version in fact["versions"].items():
            if version != first["versions"].get(name):
                return (
                    f"{where} has {name} {version}, rank 0 on {first['node']} {first['versions'].get(name)}; "
                    "start all ranks in one environment"
                )
        if fact["sum"] != size * (size + 1) / 2:
            return f"{where}: an all-reduce gave {fact['sum']} in place of {size * (size + 1) / 2}; check its network"
    if shared := shared_gpu(facts):
        return shared
    if first["free"] < needed_bytes:
        return (
            f"{folder} has {first['free'] / 1e9:.1f} GB free, and the study may write {needed_bytes / 1e9:.1f} GB more "
            "(models that are kept, and checkpoints); free some, keep less (keep=best), or lower save_total_limit"
        )
    return None


def _on_nodes(facts: list[dict[str, Any]]) -> list[str]:
    nodes: dict[str, list[str]] = {}
    for fact in facts:
        nodes.setdefault(fact["node"], []).append(fact["device"])
    return [f"{node}: {len(devices)} x {devices[0]}" for node, devices in nodes.items()]
