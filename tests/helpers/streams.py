"""A GPU's streams without a GPU: an accelerator for DeepSpeed whose streams keep the order of things and nothing else.

Work runs on the CPU as it is submitted. What a GPU might do otherwise follows from the order that streams, events and
collectives promise (vector clocks, Mattern 1989): of two accesses to the same memory, one of them a write, one must
come before the other; and memory that was let go of may be handed out again, on the stream that first had it, only
after all that was done with it. Collectives run on a stream of their group, as NCCL's do. Waits of the host are
counted by the place that asks for them.
"""

from __future__ import annotations

import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from deepspeed.accelerator import set_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.comm.torch import TorchBackend
from torch.distributed import ProcessGroup
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Stream:
    """`seen`: of each stream, the number of its last piece of work that comes before what this one does next."""

    def __init__(self) -> None:
        self.seen: dict[Stream, int] = {}
        DEVICE.streams.append(self)

    def after(self, seen: dict[Stream, int]) -> None:
        for stream, number in seen.items():
            self.seen[stream] = max(self.seen.get(stream, 0), number)

    def wait_stream(self, other: Stream) -> None:
        self.after(other.seen)

    def wait_event(self, event: Event) -> None:
        self.after(event.seen)

    def synchronize(self) -> None:
        DEVICE.host_waits("a stream", self)


class Event:
    def __init__(self) -> None:
        self.seen: dict[Stream, int] = {}

    def record(self, stream: Stream | None = None) -> None:
        self.seen = dict((stream or DEVICE.current).seen)

    def query(self) -> bool:
        return False  # as on a device that is far behind

    def synchronize(self) -> None:
        DEVICE.host_waits("an event", self)


class Device:
    """All streams, the one in use, and what the host has waited for."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.waits: Counter[str] = Counter()
        self.number = 0

    def start(self) -> None:
        self.current = self.default = self.of_last_collective = Stream()
        self.of_group: dict[str, Stream] = defaultdict(Stream)

    @contextmanager
    def use(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def submit(self, stream: Stream) -> int:
        self.number += 1
        stream.seen[stream] = self.number
        return self.number

    def host_waits(self, what: str, *for_them: Stream | Event) -> None:
        """All that is submitted from now on, on any stream, comes after what was waited for."""
        self.waits[f"{what} in {place()}"] += 1
        for stream in self.streams:
            for each in for_them:
                stream.after(each.seen)


DEVICE = Device()
DEVICE.start()


class StreamsOnly(CPU_Accelerator):
    """DeepSpeed's CPU accelerator, as one that works asynchronously."""

    Stream, Event = Stream, Event  # type: ignore[assignment]

    def is_synchronized_device(self) -> bool:
        return False

    def use_host_timers(self) -> bool:
        return True

    def stream(self, stream: Stream) -> Any:
        return DEVICE.use(stream)

    def current_stream(self, device_index: Any = None) -> Stream:
        return DEVICE.current

    def default_stream(self, device_index: Any = None) -> Stream:
        return DEVICE.default

    def synchronize(self, device_index: Any = None) -> None:
        DEVICE.host_waits("the device", *DEVICE.streams)


@dataclass
class Access:
    """Bytes `first` to `last` of a storage, in one piece of work."""

    first: int
    last: int
    writes: bool
    stream: Stream
    number: int
    what: str

    def meets(self, other: Access) -> bool:
        return self.first < other.last and other.first < self.last and (self.writes or other.writes)

    def before(self, seen: dict[Stream, int]) -> bool:
        return self.number <= seen.get(self.stream, 0)


@dataclass
class Memory:
    """A storage: the stream that first had it (None: made before anybody looked), streams it was recorded on."""

    alive: StorageWeakRef
    owner: Stream | None
    recorded: set[Stream] = field(default_factory=set)
    accesses: list[Access] = field(default_factory=list)


class Races(TorchDispatchMode):
    """Notes accesses and reuse that no order rules out, in `found`."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, Memory] = {}
        self.free: dict[Stream, list[Access]] = defaultdict(list)
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.sweep()
        arguments = function._schema.arguments
        given = [*zip(arguments, args), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
        run = self.collective if function._schema.name.startswith("c10d::") else self.kernel
        return run(function, given, args, kwargs)

    def kernel(self, function: Any, given: Any, args: Any, kwargs: Any) -> Any:
        name, stream = str(function), DEVICE.current
        number = DEVICE.submit(stream)
        view = any(a.alias_info and not a.alias_info.is_write for a, _ in given)
        shape_only = view or "_like." in name or ".new_" in name
        for argument, value in given:
            writes = bool(argument.alias_info and argument.alias_info.is_write)
            if writes or not shape_only:
                self.access(value, writes, stream, number, name)
        out = function(*args, **kwargs)
        if not view:
            self.access(out, True, stream, number, name, owner=stream)
        return out

    def collective(self, function: Any, given: Any, args: Any, kwargs: Any) -> Any:
        named = {argument.name: value for argument, value in given}
        group = ProcessGroup.unbox(named["process_group"])
        stream = DEVICE.of_last_collective = DEVICE.of_group[group.group_name]
        stream.wait_stream(DEVICE.current)
        number = DEVICE.submit(stream)
        for argument, value in given:
            self.access(value, not argument.name.startswith("input"), stream, number, str(function))
        out = function(*args, **kwargs)
        if not named.get("async_op"):
            DEVICE.current.wait_stream(stream)
        return out

    def access(self, values: Any, writes: bool, stream: Stream, number: int, what: str, owner: Any = None) -> None:
        for tensor in tree_leaves(values):
            if not isinstance(tensor, torch.Tensor) or not tensor.numel():
                continue
            memory, size = self.of(tensor, owner), tensor.element_size()
            first = tensor.storage_offset() * size
            extent = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride())) + 1
            new = Access(first, first + extent * size, writes, stream, number, what)
            for old in memory.accesses:
                if new.meets(old) and not old.before(stream.seen):
                    self.found[f"{what} after {old.what} in {place()}"] += 1
            covered = [writes and first <= old.first and old.last <= new.last for old in memory.accesses]
            memory.accesses = [*(old for old, over in zip(memory.accesses, covered) if not over), new]

    def of(self, tensor: torch.Tensor, owner: Stream | None = None) -> Memory:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.memory:
            self.memory[storage._cdata] = Memory(StorageWeakRef(storage), owner)
            if owner is not None:  # it may be any memory that was let go of there
                for old in self.free.pop(owner, []):
                    if not old.before(owner.seen):
                        self.found[f"reuse after {old.what} in {place()}"] += 1
        return self.memory[storage._cdata]

    def sweep(self) -> None:
        """Look for memory that was let go of. The allocator waits for the streams it was recorded on."""
        for key, memory in list(self.memory.items()):
            if memory.alive.expired():
                del self.memory[key]
                if memory.owner is not None:
                    self.free[memory.owner] += [
                        old for old in memory.accesses if not any(old.before(s.seen) for s in memory.recorded)
                    ]


def place() -> str:
    """Where in DeepSpeed's code or ours we are."""
    frames = [f for f in traceback.extract_stack() if "/deepspeed/" in f.filename or "/stilts_ds/" in f.filename]
    return f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].name}" if frames else "the test"


class Handle:
    """What an asynchronous collective returns: waiting has the current stream wait, not the host."""

    def __init__(self, work: Any) -> None:
        self.work, self.event = work, Event()
        self.event.record(DEVICE.of_last_collective)

    def wait(self) -> None:
        self.work.wait()
        DEVICE.current.wait_event(self.event)


def pretend(races: Races) -> None:
    """Have DeepSpeed believe in a device with streams. Before an engine is built."""
    set_accelerator(StreamsOnly())
    torch.Tensor.record_stream = (  # type: ignore[assignment,method-assign]
        lambda tensor, stream: races.of(tensor).recorded.add(stream)
    )
    for name in ("all_gather_into_tensor", "all_gather", "all_reduce", "reduce_scatter_tensor", "broadcast", "reduce"):
        setattr(TorchBackend, name, _with_handle(getattr(TorchBackend, name)))


def _with_handle(collective: Any) -> Any:
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        work = collective(self, *args, **kwargs)
        return work if work is None else Handle(work)

    return call
