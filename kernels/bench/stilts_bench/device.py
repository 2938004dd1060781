"""Where a benchmark runs: its clock and its memory meter.

CPU: seconds of this process, because a shared machine's wall time says little, and resident memory. GPU: wall time
with the device idle before and after, and the allocator's peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from stilts_bench.memory import peak_extra_bytes

CPU = torch.device("cpu")


def check_device(name: str) -> torch.device:
    """The device called `name`. Raises ValueError where torch cannot use it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device")
    return torch.device(name)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time of one work(), on the clock of `device`."""
    if device.type == "cpu":
        # CPU time of all threads: what other users of the machine do is not in it.
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    # Kernels are launched without waiting: both ends of the interval must find the device idle.
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def extra_bytes(work: Callable[[], Any], device: torch.device) -> int | None:
    """Peak memory during work() above what was held before; None where it cannot be measured."""
    if device.type == "cpu":
        return peak_extra_bytes(work)
    torch.cuda.synchronize(device)
    # The peak is torch's own count; memory that other libraries take is not in it.
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def name_of(device: torch.device) -> str | None:
    """The GPU's name, None for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
