"""The few collectives sharded search needs, over mpi4py, torch.distributed or a single process.

    collectives_of(MPI.COMM_WORLD)    collectives_of(torch.distributed.group.WORLD)    collectives_of(None)

`Collectives.agree` runs one rank's share of work so that an error on any rank raises on every rank: nobody is left
waiting in a collective the failed rank never reaches. Only JSON and the bytes of tensors travel: nothing that a rank
receives is unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

Result = TypeVar("Result")
MPI_BYTES = 1 << 28  # of one message: MPI counts bytes in 32 bits
FIRST_BYTES = 1 << 10  # of an item's text that travel with its length
LENGTH_BYTES = 8


class Pending:
    """Messages under way; `requests` have a `wait` each."""

    def __init__(self, requests: list[Any]) -> None:
        self.requests = requests

    def wait(self) -> None:
        """Returns when all have arrived."""
        for request in self.requests:
            request.wait()
        self.requests = []


class Collectives:
    """One process on its own; also the interface of the two below."""

    rank, size = 0, 1

    def gather(self, item: Any) -> list[Any]:
        """Every rank's item, in rank order, on every rank: text, numbers, and lists and dicts of them (JSON)."""
        # JSON and not pickle: a rank must not run what another one sends.
        text = json.dumps(item).encode()
        # Most items are short: an exchange that waits for all ranks costs more than some bytes that mean nothing.
        first = len(text).to_bytes(LENGTH_BYTES, "little") + text[:FIRST_BYTES].ljust(FIRST_BYTES)
        firsts = [bytes(message.tolist()) for message in self._gather_alike(bytes_of(first))]
        lengths = [int.from_bytes(message[:LENGTH_BYTES], "little") for message in firsts]
        texts = [message[LENGTH_BYTES:][:length] for message, length in zip(firsts, lengths)]
        if max(lengths) > FIRST_BYTES:
            rests = self.gather_rows(bytes_of(text[FIRST_BYTES:]))
            texts = [begin + bytes(rest.tolist()) for begin, rest in zip(texts, rests)]
        return [json.loads(text) for text in texts]

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Every rank's CPU tensor, in rank order, on every rank; they may differ in their number of rows alone."""
        # Counts first, since backends exchange tensors of one shape only.
        count = torch.tensor([len(rows)], dtype=torch.int64, device="cpu")
        counts = torch.cat(self._gather_alike(count))
        padded = torch.zeros(int(counts.max()), *rows.shape[1:], dtype=rows.dtype, device="cpu")
        padded[: len(rows)] = rows
        if padded.numel() == 0:
            return [padded for _ in range(self.size)]
        return [alike[:count] for alike, count in zip(self._gather_alike(padded), counts.tolist())]

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank, on every rank; the cheapest exchange that waits for all."""
        return flag

    def _gather_alike(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's contiguous CPU tensor of one shape, in rank order, on every rank."""
        return [tensor]

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        """Fills a contiguous CPU tensor with the owner's; shapes and dtypes must match."""
        del owner
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        """Every rank's tensor of one shape, in rank order, on the owner; an empty list elsewhere."""
        del owner
        return [tensor]

    def collect_rows(self, rows: Tensor, owner: int) -> list[Tensor]:
        """Every rank's CPU tensor, in rank order, on the owner; an empty list elsewhere. They may differ in their
        number of rows alone."""
        counts = self.gather(len(rows))
        if not any(counts):
            return [rows for _ in counts] if self.rank == owner else []
        padded = torch.zeros(max(counts), *rows.shape[1:], dtype=rows.dtype, device="cpu")
        padded[: len(rows)] = rows
        return [alike[:count] for alike, count in zip(self.collect(padded, owner), counts)]

    def shift(self, outgoing: Tensor, incoming: Tensor) -> Pending:
        """Starts sending a contiguous CPU tensor to the next rank, of the last one to rank 0, and receiving into
        `incoming` what the rank before sends. Both are the caller's again after `wait()`. An empty tensor is not sent;
        the rank that would receive it gives an empty one, too."""
        incoming.copy_(outgoing)
        return Pending([])

    def agree(self, work: Callable[[], Result]) -> Result:
        """work(), or ValueError on all ranks naming every rank where it raised."""
        result, problem = None, ""
        try:
            result = work()
        except Exception as error:  # whatever it is, the other ranks must hear of it
            problem = f"{type(error).__name__}: {error}" if not isinstance(error, ValueError) else str(error)
        # Texts travel only where there are some: a flag takes a third of the CPU time.
        if self.any_rank(bool(problem)):
            problems = self.gather(problem)
            raise ValueError("; ".join(f"rank {i}: {text}" for i, text in enumerate(problems) if text))
        return result  # type: ignore[return-value]


class MpiCollectives(Collectives):
    """An mpi4py communicator. Start programs with `python -m mpi4py`, so that a crash ends all ranks."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def any_rank(self, flag: bool) -> bool:
        count = torch.tensor([flag], dtype=torch.int64, device="cpu")
        total = torch.empty_like(count)
        self.comm.Allreduce(count, total)  # adds
        return bool(total)

    def _gather_alike(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        gathered[self.rank].copy_(tensor)
        # One broadcast a rank, not one Allgather: its buffer would hold all ranks' bytes under one 32-bit count.
        return [self.broadcast(share, owner) for owner, share in enumerate(gathered)]

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        for message in as_bytes(tensor).split(MPI_BYTES):
            self.comm.Bcast(message, root=owner)
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        if self.rank != owner:
            self.comm.Gather(as_bytes(tensor), None, root=owner)
            return []
        shares = torch.empty(self.size, *tensor.shape, dtype=tensor.dtype, device=tensor.device)
        self.comm.Gather(as_bytes(tensor), as_bytes(shares), root=owner)
        return list(shares)

    def shift(self, outgoing: Tensor, incoming: Tensor) -> Pending:
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        sent, received = as_bytes(outgoing).split(MPI_BYTES), as_bytes(incoming).split(MPI_BYTES)
        requests = [self.comm.Irecv(message, source=before) for message in received if len(message)]
        requests += [self.comm.Isend(message, dest=after) for message in sent if len(message)]
        return Pending(requests)


class TorchCollectives(Collectives):
    """A torch.distributed process group whose backend moves CPU tensors (gloo)."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank, self.size = torch.distributed.get_rank(group), torch.distributed.get_world_size(group)

    def any_rank(self, flag: bool) -> bool:
        highest = torch.tensor([flag], dtype=torch.uint8, device="cpu")
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX, group=self.group)
        return bool(highest)

    def _gather_alike(self, tensor: Tensor) -> list[Tensor]:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        torch.distributed.all_gather([as_bytes(share) for share in gathered], as_bytes(tensor), group=self.group)
        return gathered

    def broadcast(self, tensor: Tensor, owner: int) -> Tensor:
        torch.distributed.broadcast(as_bytes(tensor), self._everywhere(owner), group=self.group)
        return tensor

    def collect(self, tensor: Tensor, owner: int) -> list[Tensor]:
        shares = [torch.empty_like(tensor) for _ in range(self.size)] if self.rank == owner else []
        # Only the owner gives torch a list to receive into.
        buffers = [as_bytes(share) for share in shares] or None
        torch.distributed.gather(as_bytes(tensor), buffers, dst=self._everywhere(owner), group=self.group)
        return shares

    def shift(self, outgoing: Tensor, incoming: Tensor) -> Pending:
        if self.size == 1:  # gloo sends nothing to oneself
            return super().shift(outgoing, incoming)
        after, before = (self.rank + 1) % self.size, (self.rank - 1) % self.size
        requests = []
        if incoming.numel():
            received = as_bytes(incoming)
            requests.append(torch.distributed.irecv(received, self._everywhere(before), group=self.group))
        if outgoing.numel():
            requests.append(torch.distributed.isend(as_bytes(outgoing), self._everywhere(after), group=self.group))
        return Pending(requests)

    def _everywhere(self, rank: int) -> int:
        # Point-to-point calls name ranks of the whole job, whatever the group.
        return torch.distributed.get_global_rank(self.group, rank)


def bytes_of(text: bytes) -> Tensor:
    """The bytes as uint8 [length], in memory of its own."""
    if not text:
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


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
