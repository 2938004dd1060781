"""The few collectives sharded search needs, over mpi4py, torch.distributed or a single process.

    collectives_of(MPI.COMM_WORLD)    collectives_of(torch.distributed.group.WORLD)    collectives_of(None)

`Collectives.agree` runs one rank's share of work so that an error on any rank raises on every rank: nobody is left
waiting in a collective the failed rank never reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

Result = TypeVar("Result")


class Collectives:
    """One process on its own; also the interface of the two below."""

    rank, size = 0, 1

    def gather(self, item: Any) -> list[Any]:
        """Every rank's picklable item, in rank order, on every rank."""
        return [item]

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """Fills a contiguous CPU tensor with the owner's; shapes and dtypes must match."""
        del owner
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        """Every rank's tensor of one shape, in rank order, on the owner; an empty list elsewhere."""
        del owner
        return [tensor]

    def agree(self, work: Callable[[], Result]) -> Result:
        """work(), or ValueError on all ranks naming every rank where it raised."""
        result, problem = None, ""
        try:
            result = work()
        except Exception as error:  # whatever it is, the other ranks must hear of it
            problem = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        problems = self.gather(problem)
        if any(problems):
            raise ValueError("; ".join(f"rank {i}: {text}" for i, text in enumerate(problems) if text))
        return result  # type: ignore[return-value]


class MpiCollectives(Collectives):
    """An mpi4py communicator. Start programs with `python -m mpi4py`, so that a crash ends all ranks."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def gather(self, item: Any) -> list[Any]:
        return self.comm.allgather(item)

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        self.comm.Bcast(as_bytes(tensor), root=owner)
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        if self.rank != owner:
            self.comm.Gather(as_bytes(tensor), None, root=owner)
            return []
        parts = torch.empty(self.size, *tensor.shape, dtype=tensor.dtype, device=tensor.device)
        self.comm.Gather(as_bytes(tensor), as_bytes(parts), root=owner)
        return list(parts)


class TorchCollectives(Collectives):
    """A torch.distributed process group whose backend moves CPU tensors (gloo)."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def gather(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(items, item, group=self.group)
        return items

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        torch.distributed.broadcast(as_bytes(tensor), self._everywhere(owner), group=self.group)
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == owner else []
        torch.distributed.gather(
            as_bytes(tensor), [as_bytes(part) for part in parts] or None, dst=self._everywhere(owner), group=self.group
        )
        return parts

    def _everywhere(self, rank: int) -> int:
        return torch.distributed.get_global_rank(self.group, rank)


def as_bytes(tensor: Tensor) -> Tensor:
    """The same memory as uint8 [bytes], which every backend can send whatever the dtype."""
    return tensor.view(-1).view(torch.uint8)


def collectives_of(comm: Any) -> Collectives:
    """Wraps None, an mpi4py communicator or a torch.distributed group. Raises ValueError for anything else."""
    if comm is None:
        return Collectives()
    if isinstance(comm, Collectives):
        return comm
    if hasattr(comm, "Get_rank"):
        return MpiCollectives(comm)
    if torch.distributed.is_available() and isinstance(comm, torch.distributed.ProcessGroup):
        return TorchCollectives(comm)
    raise ValueError(
        f"cannot communicate over {type(comm).__name__}: pass None, an mpi4py communicator or a process group"
    )
