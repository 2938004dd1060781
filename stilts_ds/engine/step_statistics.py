"""Numbers of training steps: kept on the device until a flush sums them over ranks, judges them and writes them.

A flush is the only place of training that waits for the device.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.batches.feed import Item
from stilts_ds.engine.guards import ChanceWatch
from stilts_ds.engine.monitor import Monitor, memory_gib
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.stopwatch import Speed, Stopwatch, profiler
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.errors import UserError, counted
from stilts_ds.robust import passes_of
from stilts_ds.rows.batch import Batch

log = logging.getLogger(__name__)
COUNTS = ("loss", "real", "computed", "squares")  # what every step counts first; see Speed
LOSS = "train/loss/"  # prefix of the tags of losses by task
NAMED_EXAMPLES = 8  # examples of a step that a bad one is named by


@dataclass
class Steps:
    """Numbers of the steps since the last flush: tensors stay on the device, the others on the host until then."""

    reduced: list[torch.Tensor] = field(default_factory=list)  # loss, loss sums by task, target counts by task
    norms: list[torch.Tensor] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    local: list[dict[str, float]] = field(default_factory=list)
    examples: list[list[Item]] = field(default_factory=list)


class Statistics:
    """The numbers of one phase's steps. Make it before an engine shards the encoder, whose weights it counts."""

    def __init__(self, setup: TrainingSetup, total_steps: int) -> None:
        self.setup, self.total_steps = setup, total_steps
        self.passes = passes_of(setup.setting.robust)
        self.watch = Stopwatch(setup.world.device)
        operations = setup.model.backbone.operations()
        self.speed = Speed(operations, setup.world.device, setup.engine_part.dtype, setup.world.size)
        self.chance = ChanceWatch({name: setup.model.specs[task.head] for name, task in setup.tasks.items()})
        self.steps = Steps()
        self.monitor: Monitor | None = None
        self.profiler: Any = None

    def start(self, progress: Progress) -> None:
        """Open curves and profile where `progress` stands; only rank 0 writes."""
        if not self.setup.world.first:
            return
        folder = self.setup.folder
        self.monitor = Monitor(
            folder.metrics,
            self.setup.tracking,
            self.setup.title,
            progress,
            self.total_steps,
        )
        if self.setup.engine_part.profile:
            self.profiler = profiler(folder.root / "profile.json", self.setup.world.device)
            self.profiler.start()

    def add(
        self,
        step: int,
        rate: float,
        sums: torch.Tensor,
        norm: torch.Tensor,
        batches: list[tuple[Batch, int]],
        items: list[Item],
    ) -> None:
        """Take in a 0-based step of this rank: its loss sums and gradient norm on the device, its micro-batches."""
        tokens = [self._tokens(batch, examples) for batch, examples in batches]
        self.steps.reduced.append(sums)
        self.steps.norms.append(norm)
        self.steps.tokens.append([sum(counts) for counts in zip(*tokens)])
        self.steps.local.append({"step": step + 1, "train/learning_rate": rate})
        self.steps.examples.append(items[:NAMED_EXAMPLES])
        if self.profiler is not None:
            self.profiler.step()

    def _tokens(self, batch: Batch, examples: int) -> tuple[int, int, int]:
        """Real tokens, tokens that the encoder computes, and the sum of the rows' squared lengths; of all passes."""
        if not examples:  # a row of special tokens stands in, so that all ranks run the encoder alike
            return 0, 0, 0
        real = len(batch.input_ids)
        computed = real if self.setup.model.packs else batch.padded_tokens
        squares = sum(length * length for length in batch.lengths)
        return real * self.passes, computed * self.passes, squares * self.passes

    # --- the flush ---------------------------------------------------------------------------------------------------

    def flush(self, progress: Progress) -> None:
        """Sum the steps' numbers over ranks, judge them and write them. Waits for the device; a collective.

        Raises UserError when too many steps in a row were skipped, and for a loss that fp16 cannot hold.
        """
        if not self.steps.reduced:
            return
        rows, norms = self._summed()
        for local, norm, examples in zip(self.steps.local, norms, self.steps.examples):
            self._judge(progress, local, norm, examples)
            local["train/grad_norm"] = norm
        self._check_losses(rows, progress)
        self._write(rows, progress)
        self.steps = Steps()

    def _summed(self) -> tuple[list[list[float]], list[float]]:
        """A row of numbers for each step, summed over ranks, and each step's gradient norm."""
        table = torch.stack(self.steps.reduced)
        tokens = torch.tensor(self.steps.tokens, dtype=table.dtype, device=table.device)
        # One table, so one all-reduce and one wait for all steps since the last flush.
        table = torch.cat([table[:, :1], tokens, table[:, 1:]], dim=1)
        dist.all_reduce(table)
        return table.tolist(), torch.stack(self.steps.norms).tolist()

    def _judge(self, progress: Progress, local: Mapping[str, float], norm: float, examples: list[Item]) -> None:
        """Keep count of skipped steps. Raises UserError when there are too many in a row."""
        if math.isfinite(norm):
            progress.skipped_in_a_row = 0
            progress.decay *= 1 - local["train/learning_rate"] * self.setup.setting.weight_decay
            return
        progress.skipped_in_a_row += 1
        where, step = ", ".join(f"{name}[{item}]" for name, item in examples), local["step"]
        log.warning("step %d skipped: gradient norm %s; examples %s ...", step, norm, where)
        # fp16 finds its loss scale by overflowing at first; there only the loss itself counts (see _check_losses).
        engine_part = self.setup.engine_part
        if engine_part.dtype != "fp16" and progress.skipped_in_a_row > engine_part.max_skipped_steps:
            raise UserError(
                f"{counted(progress.skipped_in_a_row, 'step')} in a row had a non-finite gradient, up to step {step} "
                f"(examples {where}); lower learning_rate or use engine.dtype=fp32. They have changed no weight"
            )

    def _check_losses(self, rows: list[list[float]], progress: Progress) -> None:
        non_finite = any(not math.isfinite(row[0]) for row in rows)
        if non_finite and self.setup.engine_part.dtype == "fp16":
            raise UserError(f"the loss became non-finite before step {progress.step}; use engine.dtype=bf16")

    def _write(self, rows: list[list[float]], progress: Progress) -> None:
        """Write a record for each step, with the rates of all of them."""
        spent = self.watch.read()
        if self.monitor is None:
            return
        counts = {name: sum(row[i] for row in rows) for i, name in enumerate(COUNTS)}
        rates = self.speed.tags(counts, spent, max(self.monitor.lap(), 1e-9))
        # The same for all steps of a flush: rates of single steps would need a wait in each.
        shared = {**rates, **memory_gib(self.setup.world.device)}
        records = [{**local, **self._record(row), **shared} for local, row in zip(self.steps.local, rows)]
        self.monitor.steps(records)
        self._warn_of_chance(records, progress)

    def _record(self, row: list[float]) -> dict[str, float]:
        """A step's losses by tag."""
        names, kinds = sorted(self.setup.tasks, key=lambda name: self.setup.tasks[name].index), len(self.setup.tasks)
        by_task = row[len(COUNTS) :]
        sums, counts = by_task[:kinds], by_task[kinds:]
        losses = {f"{LOSS}{name}": total / count for name, total, count in zip(names, sums, counts) if count}
        return {"train/loss": row[0], "train/padding_fraction": 1 - row[1] / row[2], **losses}

    def _warn_of_chance(self, records: list[dict[str, Any]], progress: Progress) -> None:
        """Say which tasks are still at chance, from a quarter of the steps on."""
        for record in records:
            self.chance.add((tag.removeprefix(LOSS), loss) for tag, loss in record.items() if tag.startswith(LOSS))
        if progress.step * 4 >= self.total_steps:
            for sentence in self.chance.stuck():
                log.log(self.setup.concern, "%s step %d: %s", self.setup.title, progress.step, sentence)

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Write dev scores. What an evaluation takes is no part of a step's time."""
        if self.monitor is not None:
            self.monitor.evaluation(step, scores)
            self.monitor.lap()

    def sync(self) -> None:
        """Return when the curve is on disk."""
        if self.monitor is not None:
            self.monitor.sync()

    def close(self) -> None:
        if self.profiler is not None:
            self.profiler.stop()
        if self.monitor is not None:
            self.monitor.close()
            if summary := self.speed.summary():
                log.info("%s: %s", self.setup.title, summary)
