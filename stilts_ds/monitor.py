"""Watching a run: metrics.jsonl, trackers such as TensorBoard, and lines in the log that carry how far the phase is.

Only rank 0 writes. Steps that a resumed run does again replace the ones written before it stopped.
"""

from __future__ import annotations

import json
import logging
import resource
import time
from pathlib import Path
from typing import Any

import torch

from stilts_ds.display import Position, carrying
from stilts_ds.run_dir import write_atomically
from stilts_ds.trackers import Tracking, open_trackers

log = logging.getLogger(__name__)


class Monitor:
    """Writes a phase's curves. When it was resumed, `start_step` steps were done already, and dev was evaluated last
    after `evaluated_step`."""

    def __init__(
        self, metrics: Path, tracking: Tracking, title: str, start_step: int, evaluated_step: int, total_steps: int
    ) -> None:
        _keep_steps(metrics, start_step, evaluated_step)
        self.metrics = open(metrics, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())
        self.trackers = open_trackers(tracking, start_step)
        self.title, self.total_steps = title, total_steps
        self.clock = time.perf_counter()

    def steps(self, records: list[dict[str, Any]]) -> None:
        """Write one record a step; keys are TensorBoard tags, `step` counts from 1."""
        for record in records:
            self.metrics.write(json.dumps(record) + "\n")
            values = {tag: value for tag, value in record.items() if tag != "step"}
            for tracker in self.trackers:
                tracker.scalars(values, record["step"])
        if not records:
            return
        last = records[-1]
        loss, rate = last["train/loss"], last["train/tokens_per_second"]
        position = Position(
            self.title, "step", last["step"], self.total_steps, f"loss {loss:.2f}, {rate:,.0f} tokens/s"
        )
        log.info(
            "%s step %d/%d loss %.4f, %.0f tokens/s",
            self.title,
            last["step"],
            self.total_steps,
            loss,
            rate,
            extra=carrying(position),
        )
        # A killed run keeps its curve up to here.
        for tracker in self.trackers:
            tracker.flush()

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write dev scores (tags `eval/<task>/<language>/<metric>`) of step `step`."""
        self.metrics.write(json.dumps({"step": step, **scores}) + "\n")
        for tracker in self.trackers:
            tracker.scalars(scores, step)
        log.info("%s step %d dev: %s", self.title, step, ", ".join(f"{k} {v:.2f}" for k, v in scores.items()))

    def lap(self) -> float:
        """Seconds since the last call (or the start)."""
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        return seconds

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()
        self.metrics.close()


def _keep_steps(metrics: Path, last: int, evaluated: int) -> None:
    """Drop the lines of steps after `last`, and evaluations after step `evaluated`: the resumed run writes them again.
    A kill may come between an evaluation and the next checkpoint."""
    kept, steps = [], set[int]()
    text = metrics.read_text(encoding="utf-8", errors="replace") if metrics.exists() else ""
    for line in text.split("\n"):
        try:
            record = json.loads(line)
            # Records of training and of evaluation stand in one file; only the former have a loss.
            if record["step"] > (last if "train/loss" in record else evaluated):
                continue
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # the last line of a killed run may be cut; any other one is missed below
        kept.append(line + "\n")
        steps |= {record["step"]} if "train/loss" in record else set()
    if len(steps) < last:
        log.warning("%s lacks the records of %d of the %d steps done so far", metrics, last - len(steps), last)
    write_atomically(metrics, "".join(kept))


def memory_gib(device: torch.device) -> dict[str, float]:
    """Peak memory so far: of this process (resident set) and, on a GPU, of the tensor allocator."""
    # ru_maxrss is in KiB on Linux.
    peak = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        peak["memory/device_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peak
