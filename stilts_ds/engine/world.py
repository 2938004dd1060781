"""The group of ranks: joining it, making sure it is the right one, small collectives, and leaving it.

Ranks come in through torchrun's five variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), which the
launcher sets for every kind of start.
"""

from __future__ import annotations

import datetime
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.errors import UserError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns on every import that it found no GPU

log = logging.getLogger(__name__)
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process's place. Objects travel over a gloo group of their own, so that they never touch a GPU."""

    rank: int
    local_rank: int
    size: int
    device: torch.device
    objects: Any

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

    def all_gather(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.objects)
        return found

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
    """Join the ranks described by the environment, check that all belong to the same run, and leave cleanly."""
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UserError(f"{', '.join(missing)} not set; start ranks with `stilts run`, torchrun, mpirun or srun")
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory operator at start-up, which serves inference only: a minute of
    # compiler time, and a build that was killed leaves a lock on which later jobs wait in silence.
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    device = _device(int(os.environ["LOCAL_RANK"]))
    timeout = datetime.timedelta(seconds=timeout_seconds)
    deepspeed.init_distributed(
        dist_backend="nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False,
        timeout=timeout,
    )
    try:
        objects = dist.new_group(backend="gloo", timeout=timeout)
        world = World(dist.get_rank(), int(os.environ["LOCAL_RANK"]), dist.get_world_size(), device, objects)
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
