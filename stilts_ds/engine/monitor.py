"""Watching a run: metrics.jsonl, trackers such as TensorBoard, and lines in the log that carry how far the phase is.

Only rank 0 writes. Steps that a resumed run does again replace the ones written before it stopped. The curve is hashed
as it is written: checkpoints hold the hash, and so does the status of a trained phase, so a file that says otherwise
was damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import resource
import time
from pathlib import Path
from typing import Any

import torch

from stilts_ds.display import Position, carrying
from stilts_ds.engine.progress import Progress
from stilts_ds.run_dir import write_atomically
from stilts_ds.trackers import Tracking, open_trackers

log = logging.getLogger(__name__)


class Monitor:
    """Writes a phase's curves from `progress` on, which it keeps at the hash and the length of what was written."""

    def __init__(self, metrics: Path, tracking: Tracking, title: str, progress: Progress, total_steps: int) -> None:
        kept, self.digest = _kept(metrics, progress)
        write_atomically(metrics, kept)
        self.metrics = open(metrics, "ab")  # noqa: SIM115 (closed by close())
        self.progress = progress
        self._count(len(kept))
        self.trackers = open_trackers(tracking, progress.step)
        self.title, self.total_steps = title, total_steps
        self.clock = time.perf_counter()

    def _write(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record) + "\n").encode()
        self.metrics.write(line)
        self.metrics.flush()  # a killed run keeps its curve up to here
        self.digest.update(line)
        self._count(self.progress.curve_bytes + len(line))

    def _count(self, size: int) -> None:
        self.progress.curve, self.progress.curve_bytes = self.digest.hexdigest(), size

    def sync(self) -> None:
        """Return when the curve is on disk: a checkpoint that names its hash must not outlive it."""
        os.fsync(self.metrics.fileno())

    def steps(self, records: list[dict[str, Any]]) -> None:
        """Write one record a step; keys are TensorBoard tags, `step` counts from 1."""
        for record in records:
            self._write(record)
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
        for tracker in self.trackers:
            tracker.flush()

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write dev scores (tags `eval/<task>/<language>/<metric>`) of step `step`."""
        self._write({"step": step, **scores})
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


def _kept(metrics: Path, progress: Progress) -> tuple[bytes, Any]:
    """What a start that goes on from `progress` keeps of a curve, and the SHA-256 that its next lines are added to.

    Weights do not depend on the curve, so a damaged one stops nobody: its records are kept as far as they can be read,
    and the log says so. The hash then follows from the one of the whole file, not from what is there now, so that
    neither the next checkpoints nor the phase's status take the damaged file for the one that training wrote.
    """
    content = metrics.read_bytes() if metrics.exists() else b""
    written = content[: progress.curve_bytes]
    if progress.curve and hashlib.sha256(written).hexdigest() == progress.curve:
        return written, hashlib.sha256(written)
    kept = _records_until(metrics, content, progress.step, progress.selected_step)
    if not progress.curve:
        return kept, hashlib.sha256(kept)
    log.warning(
        "%s changed since the checkpoint of step %d was written: training goes on, as no weight depends on it; its "
        "records up to that step may be wrong, and the report will say so",
        metrics,
        progress.step,
    )
    return kept, hashlib.sha256(progress.curve.encode())


def _records_until(metrics: Path, content: bytes, last: int, evaluated: int) -> bytes:
    """A curve without the lines of steps after `last`, of evaluations after step `evaluated`, and lines that are no
    records. A kill may come between an evaluation and the next checkpoint."""
    kept, steps = [], set[int]()
    for line in content.decode(errors="replace").split("\n"):
        try:
            record = json.loads(line)
            # Records of training and of evaluation stand in one file; only the former have a loss.
            if record["step"] > (last if "train/loss" in record else evaluated):
                continue
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last line of a killed run may be cut; any other one is missed below
        kept.append(line + "\n")
        steps |= {record["step"]} if "train/loss" in record else set()
    if len(steps) < last:
        log.warning("%s lacks the records of %d of the %d steps done so far", metrics, last - len(steps), last)
    return "".join(kept).encode()


def memory_gib(device: torch.device) -> dict[str, float]:
    """Peak memory so far: of this process (resident set) and, on a GPU, of the tensor allocator."""
    # ru_maxrss is in KiB on Linux.
    peak = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if device.type == "cuda":
        peak["memory/device_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return peak
