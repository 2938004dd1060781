"""The group of ranks: joining it, making sure it is the right one, small collectives, and leaving it.

Ranks come in through torchrun's five variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), which the
launcher sets for every kind of start.
"""

from __future__ import annotations

import datetime
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.errors import UserError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns on every import that it found no GPU

log = logging.getLogger(__name__)
MEETING = datetime.timedelta(minutes=5)  # until the last node of a job has started its ranks
PATIENCE = datetime.timedelta(hours=2)  # for what rank 0 does alone: reading and tokenising everything, mining
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process's place. Objects travel over gloo groups of their own, so that they never touch a GPU: `objects`
    is patient, because ranks wait there while rank 0 reads, decodes or mines; `prompt` is for the steps of training,
    where all ranks do the same."""

    rank: int
    local_rank: int
    size: int
    device: torch.device
    objects: Any
    prompt: Any

    @property
    def first(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        dist.barrier(group=self.objects)

    def gather(self, value: Any) -> list[Any]:
        """The ranks' values in rank order, on rank 0; [] elsewhere."""
        found: list[Any] | None = [None] * self.size if self.first else None
        dist.gather_object(value, found, dst=0, group=self.objects)
        return found or []

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.objects)
        return box[0]

    def all_gather(self, value: Any, prompt: bool = False) -> list[Any]:
        """The ranks' values in rank order, on every rank."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.prompt if prompt else self.objects)
        return found

    def on_rank_0(self, work: Callable[[], None] | None) -> None:
        """Do `work` on rank 0 while the others wait; its UserError ends all of them alike."""
        message = None
        if self.first and work is not None:
            try:
                work()
            except UserError as problem:
                message = str(problem)
        message = self.broadcast(message)
        if message is not None:
            raise UserError(message)

    def who_is_missing(self, seconds: int = 10) -> str:
        """After a collective failed: a clause that names the ranks that no longer answer, or nothing (a collective)."""
        try:
            patience = datetime.timedelta(seconds=seconds)
            dist.monitored_barrier(group=self.objects, timeout=patience, wait_all_ranks=True)
        except RuntimeError as problem:
            if found := re.search(r"Ranks? ([0-9, ]+) failed", str(problem)):
                return f" [rank {found[1].strip()} does not answer]"
            if not self.first:
                return " [rank 0 does not answer]"
        return ""

    def agree(self, error: BaseException | None, what: str) -> None:
        """Raise on every rank if any of them failed, so that none waits for another that is gone."""
        messages = self.all_gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        failed = [(rank, message) for rank, message in enumerate(messages) if message]
        if failed:
            raise RuntimeError(f"{what} failed on rank {failed[0][0]}: {failed[0][1]}")


@contextmanager
def joined(token: str, timeout_seconds: int) -> Iterator[World]:
    """Join the ranks described by the environment, check that all belong to the same run, and leave cleanly.

    A collective of a training step that takes longer than `timeout_seconds` is an error on the ranks that wait.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        starters = "`stilts run`, torchrun, mpirun or a cluster's launcher"
        raise UserError(f"{', '.join(missing)} not set; start ranks with {starters}")
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory operator at start-up, which serves inference only: a minute of
    # compiler time, and a build that was killed leaves a lock on which later jobs wait in silence.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
    timeout = datetime.timedelta(seconds=timeout_seconds)
    # The groups that DeepSpeed makes for itself would wait 30 minutes (gloo) whatever it was asked for.
    backend.TorchBackend.new_group = lambda self, ranks: dist.new_group(ranks, timeout=timeout)
    device = _device(int(os.environ["LOCAL_RANK"]))
    deepspeed.init_distributed(
        dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False,
        timeout=max(timeout, MEETING),
    )
    try:
        dist.distributed_c10d._set_pg_timeout(timeout)
        objects = dist.new_group(backend="gloo", timeout=max(timeout, PATIENCE))
        prompt = dist.new_group(backend="gloo", timeout=timeout)
        world = World(dist.get_rank(), int(os.environ["LOCAL_RANK"]), dist.get_world_size(), device, objects, prompt)
        if len(set(world.all_gather(token))) > 1:
            raise UserError(
                "ranks of different runs met at one address and port; start the run again, which draws a new port"
            )
        yield world
    finally:
        # Leaving without this ends in SIGABRT now and then, and a job that finished would count as failed.
        dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"local rank {local_rank} has no GPU ({torch.cuda.device_count()} seen); start fewer ranks")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
