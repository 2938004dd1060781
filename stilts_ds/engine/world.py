"""The group of ranks: joining it, making sure it is the right one, small collectives, and leaving it.

Ranks come in through torchrun's five variables (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), which the
launcher sets for every kind of start.
"""

from __future__ import annotations

import datetime
import hmac
import importlib
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.engine import heartbeat, pulse, wire
from stilts_ds.errors import UserError

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns on every import that it found no GPU

log = logging.getLogger(__name__)
LOOKING = datetime.timedelta(seconds=20)  # for ranks that are all there
RESOLVING = datetime.timedelta(seconds=60)  # until a name server knows a node that has just come up
MEETING = datetime.timedelta(minutes=5)  # until the last node of a job has started its ranks
PATIENCE = datetime.timedelta(hours=2)  # for what rank 0 does alone: reading and tokenising everything, mining
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class World:
    """This process's place. Objects travel over gloo groups of their own, so that they never touch a GPU: `objects`
    is patient, because ranks wait there while rank 0 reads, decodes or mines; `prompt` is for the steps of training,
    where all ranks do the same. They are plain values and arrays (engine/wire.py)."""

    rank: int
    local_rank: int
    size: int
    device: torch.device
    objects: Any
    prompt: Any

    @property
    def first(self) -> bool:
        return self.rank == 0

    def alone(self) -> World:
        """This rank as if it were the only one, for work in which ranks do not wait for each other."""
        return replace(self, rank=0, size=1, objects=None, prompt=None)

    def barrier(self) -> None:
        if self.objects is not None:
            dist.barrier(group=self.objects)

    def gather(self, value: Any) -> list[Any]:
        """The ranks' values in rank order, on rank 0; [] elsewhere."""
        if self.objects is None:
            return [value]
        message, lengths = _measured(value, self.size, self.objects)
        buffers = [torch.empty_like(message) for _ in range(self.size)] if self.first else None
        dist.gather(message, buffers, dst=0, group=self.objects)
        return _decode_all(buffers or [], lengths)

    def scatter(self, values: Sequence[Any]) -> Any:
        """The value that rank 0 has for this rank: `values` is a list of one for each rank, and not looked at
        elsewhere."""
        if self.objects is None:
            return values[0]
        messages = [_as_tensor(wire.to_bytes(value)) for value in values] if self.first else []
        lengths = self.broadcast([len(message) for message in messages])
        # gloo scatters messages of one length.
        longest = max(lengths)
        padded = [torch.nn.functional.pad(message, (0, longest - len(message))) for message in messages]
        received = torch.empty(longest, dtype=torch.uint8)
        dist.scatter(received, padded or None, src=0, group=self.objects)
        return wire.from_bytes(received[: lengths[self.rank]].numpy().tobytes())

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.objects is None:
            return value
        message = _as_tensor(wire.to_bytes(value)) if self.first else None
        length = torch.tensor([0 if message is None else len(message)])
        dist.broadcast(length, src=0, group=self.objects)
        sent = torch.empty(int(length), dtype=torch.uint8) if message is None else message
        dist.broadcast(sent, src=0, group=self.objects)
        return wire.from_bytes(sent.numpy().tobytes())

    def maximum(self, numbers: Sequence[int], prompt: bool = False) -> list[int]:
        """The ranks' largest number at each position, on every rank: one small all-reduce."""
        if self.objects is None:
            return list(numbers)
        largest = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self.prompt if prompt else self.objects)
        return largest.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """The ranks' values in rank order, on every rank."""
        if self.objects is None:
            return [value]
        message, lengths = _measured(value, self.size, self.objects)
        buffers = [torch.empty_like(message) for _ in range(self.size)]
        dist.all_gather(buffers, message, group=self.objects)
        return _decode_all(buffers, lengths)

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
            if named := re.search(r"Ranks? ([0-9, ]+) failed", str(problem)):
                return f" [rank {named[1].strip()} does not answer]"
            if not self.first:
                return " [rank 0 does not answer]"
        return ""

    def agree(self, error: BaseException | None, action: str) -> None:
        """Raise on every rank if any of them failed, so that none waits for another that is gone."""
        messages = self.all_gather(None if error is None else f"{type(error).__name__}: {error}")
        if error is not None:
            raise error
        failed = [(rank, message) for rank, message in enumerate(messages) if message]
        if failed:
            raise RuntimeError(f"{action} failed on rank {failed[0][0]}: {failed[0][1]}")


def _as_tensor(message: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(message), dtype=torch.uint8)


def _measured(value: Any, size: int, group: Any) -> tuple[torch.Tensor, list[int]]:
    """This rank's message with room behind it for the longest one, and the length of each rank's (a collective)."""
    message = _as_tensor(wire.to_bytes(value))
    lengths = [torch.zeros(1, dtype=torch.long) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(message)]), group=group)
    sizes = [int(length) for length in lengths]
    return torch.nn.functional.pad(message, (0, max(sizes) - len(message))), sizes


def _decode_all(messages: list[torch.Tensor], lengths: list[int]) -> list[Any]:
    return [wire.from_bytes(message[:length].numpy().tobytes()) for message, length in zip(messages, lengths)]


@contextmanager
def joined(token: str, timeout_seconds: int) -> Iterator[World]:
    """Join the ranks described by the environment, check that all belong to the same run, and leave cleanly.

    A collective of a training step that takes longer than `timeout_seconds` is an error on the ranks that wait.
    """
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        starters = "`stilts run`, torchrun, mpirun or a cluster's launcher"
        raise UserError(f"{', '.join(missing)} not set; start ranks with {starters}")
    check_accelerator()
    import deepspeed

    # On CPUs DeepSpeed would compile a shared-memory operator at start-up, which serves inference only: a minute of
    # compiler time, and a build that was killed leaves a lock on which later jobs wait in silence.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
    timeout = datetime.timedelta(seconds=timeout_seconds)
    # The groups that DeepSpeed makes for itself would wait 30 minutes (gloo) whatever it was asked for.
    backend.TorchBackend.new_group = lambda self, ranks: dist.new_group(ranks, timeout=timeout)
    device = _device(int(os.environ["LOCAL_RANK"]))
    name = "nccl" if device.type == "cuda" else "gloo"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = _meeting_place(rank, size, MEETING)
    _check_token(store, token, rank, size)
    beats = dist.PrefixStore(_restart_count(), _own_connection(heartbeat.patience(timeout_seconds)))
    bound: dict[str, Any] = {"device_id": device} if device.type == "cuda" and size > 1 else {}  # as DeepSpeed does
    dist.init_process_group(
        name, store=dist.PrefixStore("ranks", store), rank=rank, world_size=size, timeout=max(timeout, MEETING), **bound
    )
    try:
        deepspeed.init_distributed(dist_backend=name, auto_mpi_discovery=False, verbose=False, timeout=timeout)
        dist.distributed_c10d._set_pg_timeout(timeout)
        objects = dist.new_group(backend="gloo", timeout=max(timeout, PATIENCE))
        prompt = dist.new_group(backend="gloo", timeout=timeout)
        world = World(dist.get_rank(), int(os.environ["LOCAL_RANK"]), dist.get_world_size(), device, objects, prompt)
        here = pulse.here(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        with heartbeat.watched(beats, rank, size, timeout_seconds, here):
            yield world
    finally:
        # Leaving without this ends in SIGABRT now and then, and a job that finished would count as failed.
        dist.destroy_process_group()


def _meeting_place(rank: int, size: int, patience: datetime.timedelta) -> dist.Store:
    """The store in which ranks find each other; rank 0 keeps it, or torchrun. On one machine (a loopback address) it
    listens there only, and so do the connections that gloo makes afterwards."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    keeps = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listening: dict[str, Any] = {}
    if here := _loopback(address):
        for interface in {name for _, name in socket.if_nameindex()} & {"lo", "lo0"}:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        if keeps:
            try:
                server = socket.create_server((here, port), backlog=2048)
            except OSError as error:
                raise RuntimeError(f"rank 0 cannot listen on {here}:{port} ({error.strerror})") from error
            port = server.getsockname()[1]
            listening = {"master_listen_fd": server.detach()}  # the store's from now on
    else:
        check_interfaces()
    _await_address(address)
    if not keeps:
        _await_listener(address, port, patience)
    store = dist.TCPStore(address, port, size, keeps, patience, wait_for_workers=False, **listening)
    os.environ["STILTS_STORE"] = f"{address} {port}"
    return dist.PrefixStore(_restart_count(), store)


def _own_connection(patience: datetime.timedelta) -> dist.Store:
    """Another connection to the store: calls of one wait for each other."""
    address, port = os.environ["STILTS_STORE"].split()
    return dist.TCPStore(address, int(port), None, False, patience, wait_for_workers=False)


def _restart_count() -> str:
    """Torchrun's store outlives ranks that it starts again, and so does what they laid into it."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _await_address(address: str) -> None:
    """Raise UserError, in a sentence and in time, where the address of rank 0 means nothing here."""
    deadline = time.monotonic() + RESOLVING.total_seconds()
    while True:
        try:
            socket.getaddrinfo(address, None)
            return
        except (OSError, UnicodeError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"the address of rank 0, {address}, cannot be resolved here ({error}); set STILTS_MASTER_ADDR (or "
                    "MASTER_ADDR) to one that every node knows"
                ) from None
        time.sleep(0.5)


def _await_listener(address: str, port: int, patience: datetime.timedelta) -> None:
    """Wait until rank 0, or torchrun for it, listens. Raises UserError after `patience`: torch would try for twice as
    long, and end in a trace of C++ frames."""
    deadline = time.monotonic() + patience.total_seconds()
    while True:
        try:
            socket.create_connection((address, port), timeout=10).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"rank 0 does not listen at {address}:{port} after {patience.total_seconds():.0f} s "
                    f"({error.strerror or error}); look whether it was started and whether its node can be reached"
                ) from None
        time.sleep(0.5)


def check_accelerator() -> None:
    """Raise UserError for a DS_ACCELERATOR left in the environment that DeepSpeed would follow into an error."""
    wanted = os.environ.get("DS_ACCELERATOR", "")
    if wanted not in ("", "cpu", "cuda"):
        raise UserError(f"DS_ACCELERATOR={wanted}: training runs on `cuda` and `cpu` only; unset it")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "DS_ACCELERATOR=cuda is set, but torch sees no GPU here; unset it to train on the CPU, or look at the "
            "driver and CUDA_VISIBLE_DEVICES"
        )


def check_interfaces() -> None:
    """Raise UserError for network devices in GLOO_SOCKET_IFNAME that this machine has not got; gloo's own error does
    not name the variable."""
    value = os.environ.get("GLOO_SOCKET_IFNAME", "")
    present = [name for _, name in socket.if_nameindex()]
    absent = [name for name in value.split(",") if name and name not in present]
    if absent:
        raise UserError(
            f"GLOO_SOCKET_IFNAME={value}: {socket.gethostname()} has no network device {absent[0]!r}; unset the "
            f"variable, or name one of {', '.join(present)}"
        )


def _loopback(address: str) -> str:
    """The loopback address that `address` means (127.0.0.1 for localhost); empty for any other machine or address."""
    try:
        resolved = socket.gethostbyname(address)
    except OSError:  # the store will say so
        return ""
    return resolved if resolved.startswith("127.") else ""


def _check_token(store: dist.Store, token: str, rank: int, size: int) -> None:
    """Raise UserError on every rank where one is of another run, before anything else is exchanged.

    What ranks lay into the store are hashes that only who knows the token can make, each for its own rank, and they are
    compared as bytes.
    """

    def mark(of: int) -> str:
        return hmac.digest(token.encode(), f"rank {of}".encode(), "sha256").hex()

    store.set(f"mark/{rank}", mark(rank))
    others = range(1, size) if rank == 0 else [0]
    _await_marks(store, list(others), size)
    same = all([hmac.compare_digest(store.get(f"mark/{peer}"), mark(peer).encode()) for peer in others])
    store.set(f"compared/{rank}", "")
    if rank == 0 and size > 1:  # the store ends with rank 0: the others must have looked
        with suppress(RuntimeError):
            store.wait([f"compared/{peer}" for peer in others], LOOKING)
    if not same:
        raise UserError(
            "ranks of different runs met at one address and port; start the run again, which draws a new port"
        )


def _await_marks(store: dist.Store, others: list[int], size: int) -> None:
    """Wait for the other ranks. Raises UserError that names those that did not come."""
    deadline = time.monotonic() + MEETING.total_seconds()
    missing = others
    while missing := [peer for peer in missing if not store.check([f"mark/{peer}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
            raise UserError(
                f"{len(missing)} of {size} ranks did not come within {MEETING.total_seconds():.0f} s (rank {names}); "
                "look into their logs, and whether their nodes can be reached"
            )
        time.sleep(0.05)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # A launcher may show each rank just the one that is its own (--gpus-per-task, --gpu-bind): that is number 0 to it.
    # Whether two ranks were given the same one is looked at when they have met (engine/preflight.py).
    index = 0 if count == 1 else local_rank
    if index >= count:
        raise UserError(
            f"local rank {local_rank} has no GPU, since {count} are seen on its node; start one rank for each, or let "
            "the launcher show each rank one GPU"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
