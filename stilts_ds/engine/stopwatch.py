"""Where the time of a step goes, and how near training is to what the device can do."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from stilts_ds.model.backbone import Operations
from stilts_ds.model.checks import DTYPES

PARTS = ("data", "forward", "backward", "update")


class Stopwatch:
    """Seconds by part of the steps since the last `read`.

    On a GPU, forward, backward and update are measured by events on its stream, which are looked at in `read` only:
    no step waits for the device. `data` is the time that the host waits for a batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        on_device = self.device.type == "cuda" and name != "data"
        first = _event() if on_device else time.perf_counter()
        yield
        if on_device:
            self.events.append((name, first, _event()))
        else:
            self.seconds[name] += time.perf_counter() - first

    def read(self) -> dict[str, float]:
        """Seconds by part; waits for the device, and starts anew."""
        if self.events:
            torch.cuda.synchronize(self.device)
        for name, first, last in self.events:
            self.seconds[name] += first.elapsed_time(last) / 1000
        seconds = {name: self.seconds[name] for name in PARTS}
        self.seconds.clear()
        self.events.clear()
        return seconds


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class Speed:
    """Counts and times of steps as rates by TensorBoard tag; sums them up for the end of the log.

    `operations` are those of the backbone's matrix products, forward and backward. Heads, embeddings and the optimizer
    are not counted, and recomputed activations not twice.
    """

    def __init__(self, operations: Operations, device: torch.device, dtype: str, world_size: int) -> None:
        self.operations = operations
        # Measured, not read off a data sheet: CPUs have none, and no product reaches a GPU's.
        self.peak = world_size * peak_rate(device, DTYPES[dtype])
        self.totals: dict[str, float] = defaultdict(float)

    def tags(self, counts: Mapping[str, float], parts: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Rates of steps that took `seconds`; counts: tokens (`real`, `computed`) and the rows' summed `squares`."""
        # The clocks differ (host and device), so the rest may come out below 0.
        spent = {**parts, "other": max(0.0, seconds - sum(parts.values()))}
        for name, value in {**counts, **spent, "seconds": seconds}.items():
            self.totals[name] += value
        return self._rates(counts, seconds) | {f"time/{name}_share": s / seconds for name, s in spent.items()}

    def summary(self) -> str:
        """One line for the end of the log; empty before the first step."""
        if not self.totals["seconds"]:
            return ""
        rates = self._rates(self.totals, self.totals["seconds"])
        shares = ", ".join(f"{name} {self.totals[name] / self.totals['seconds']:.1%}" for name in (*PARTS, "other"))
        padding = 1 - self.totals["real"] / self.totals["computed"]
        return (
            f"{rates['train/tokens_per_second']:,.0f} tokens/s, {rates['train/mfu']:.1%} of the "
            f"{self.peak / 1e12:.3g} TFLOP/s that matrix products reach here, padding {padding:.1%}; time: {shares}"
        )

    def _rates(self, counts: Mapping[str, float], seconds: float) -> dict[str, float]:
        operations = self.operations.of(counts["real"], counts["squares"])
        return {"train/tokens_per_second": counts["real"] / seconds, "train/mfu": operations / seconds / self.peak}


def peak_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second that training in `dtype` could reach on this device.

    Where products in a 16-bit type are slower than in float32, layers may be computed in float32: that is the peak.
    """
    return max(matmul_rate(device, dtype), matmul_rate(device, torch.float32))


@lru_cache(maxsize=4)
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product on this device, the best of 5 in either layout.

    Layers multiply by transposed weights, for which libraries have other code than for plain ones.
    """
    # Large enough to fill the device, small enough to take no noticeable time at the start.
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for right in (b, b.t()):
        for _ in range(5):
            started = time.perf_counter()
            torch.mm(a, right)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            # The best and not the mean: whatever disturbs a product only makes it slower.
            best = min(best, time.perf_counter() - started)
    # A multiplication and an addition for each of size^3 pairs.
    return 2 * size**3 / best


def profiler(path: Path, device: torch.device) -> Any:
    """A torch profiler whose `step()` follows every training step: it leaves out two and writes the next three, as a
    trace for chrome://tracing or Perfetto, to `path`."""
    from torch.profiler import ProfilerActivity, profile, schedule

    def write(trace: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        trace.export_chrome_trace(str(path))

    # One step to warm up: the profiler's own start would be in the first one.
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    return profile(activities=activities, schedule=schedule(wait=1, warmup=1, active=3, repeat=1), on_trace_ready=write)
