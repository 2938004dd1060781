"""The training loop of one phase. `train` reads as what happens in a step."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from stilts_ds.batches.collate import Collator, TaskRows
from stilts_ds.batches.feed import Feed, Item
from stilts_ds.batches.mixture import Mixture, micro_batch_count
from stilts_ds.config import EnginePart, SamplingPart, TrainingPart
from stilts_ds.engine import checkpoint
from stilts_ds.engine.guards import ChanceWatch, explain_memory
from stilts_ds.engine.optim import learning_rate
from stilts_ds.engine.preempt import Stopped, stop_or_save
from stilts_ds.engine.stacks import expect_nothing, expect_progress
from stilts_ds.engine.stopwatch import Speed, Stopwatch, profiler
from stilts_ds.engine.streams import FilledConstants, Streams
from stilts_ds.engine.world import World
from stilts_ds.engine.zero import (
    build_engine,
    call_off_unless_finite,
    clip_gradients,
    destroy_engine,
    full_parameters,
    gradient_norm,
    set_learning_rate,
)
from stilts_ds.errors import UserError
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import widen
from stilts_ds.monitor import Monitor, memory_gib
from stilts_ds.phase_status import Best, TaskBest
from stilts_ds.rows.batch import Batch
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import PhaseDir

log = logging.getLogger(__name__)
Forward = Callable[..., Any]
COUNTS = ("loss", "real", "computed", "squares")  # what every step counts first; see Speed
SELECTION = "selection"  # tag of the number that selects the model; `selection/<task>` is a task's part of it


@dataclass
class Job:
    """Everything a training phase needs. `evaluate(forward)` returns dev scores by TensorBoard tag, and the one number
    that selects the best model under SELECTION; `export(parameters, step)` writes encoder and heads (rank 0)."""

    title: str
    model: MultiTask
    tokenizer: Tokenizer
    tasks: Mapping[str, TaskRows]
    setting: TrainingPart
    sampling: SamplingPart
    engine_part: EnginePart
    seed: int
    folder: PhaseDir
    tensorboard: Path
    world: World
    evaluate: Callable[[Forward], dict[str, float]]
    export: Callable[[dict[str, torch.Tensor], int], None]


@dataclass
class Progress:
    """What a resumed run must know besides the engine's own state."""

    step: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    since_best: int = 0
    skipped_in_a_row: int = 0
    selected_step: int = 0  # the step after which dev was evaluated last
    decay: float = 1.0  # what weight decay alone has made of a weight that never had a gradient
    kept: dict[str, float] = field(default_factory=dict)  # task -> dev score of the exported model
    peaks: dict[str, tuple[float, int]] = field(default_factory=dict)  # task -> its best dev score, and the step

    def note(self, scores: Mapping[str, float]) -> bool:
        """Take in an evaluation on English dev after `step`; returns whether the model is the best so far."""
        self.selected_step = self.step
        parts = {tag.removeprefix(f"{SELECTION}/"): v for tag, v in scores.items() if tag.startswith(f"{SELECTION}/")}
        for task, score in parts.items():
            if score > self.peaks.get(task, (-math.inf,))[0]:
                self.peaks[task] = (score, self.step)
        if scores[SELECTION] <= self.best_score:
            self.since_best += 1
            return False
        self.best_score, self.best_step, self.since_best, self.kept = scores[SELECTION], self.step, 0, parts
        return True

    def chosen(self) -> Best:
        """The exported model's dev scores beside each task's own best, as the phase's status keeps them."""
        tasks = {
            task: TaskBest(score=self.kept[task], best=best, best_step=step)
            for task, (best, step) in self.peaks.items()
        }
        return Best(step=self.best_step, of=self.step, selection=self.best_score, tasks=tasks)


@dataclass
class StepStatistics:
    """Numbers of the steps since the last flush: tensors stay on the device, the others on the host until then."""

    reduced: list[torch.Tensor] = field(default_factory=list)
    norms: list[torch.Tensor] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    local: list[dict[str, float]] = field(default_factory=list)
    examples: list[list[Item]] = field(default_factory=list)  # the first of each step, to name a bad one by


def train(job: Job) -> Progress:
    """Train to the end (or to an early stop), leaving the best model on English dev exported. Resumes by itself.

    Raises Stopped after saving when a signal asked for it; UserError when losses or gradients stay non-finite.
    """
    found = checkpoint.find(job.folder.checkpoints, job.world)
    if found is not None:
        found.weights_into(job.model)  # before the engine shards it, and casts it with lower precision
    trainer = Trainer(job)
    progress = trainer.resume(found)
    total = trainer.mixture.total_steps
    try:
        trainer.select_if_due(progress)  # a stop may have come while dev was being evaluated
        while progress.step < total and progress.since_best < job.setting.early_stopping_patience:
            trainer.take_step(progress)
            progress.step += 1
            if progress.step % job.setting.logging_steps == 0 or progress.step == total:
                trainer.flush(progress)
            trainer.select_if_due(progress)
            if trainer.due(progress.step, job.setting.save_steps):
                trainer.save(progress)
            if stop_or_save(job.world, trainer.saver.overdue(job.setting.save_minutes)):
                trainer.save(progress)
        trainer.saver.wait()
    except Stopped:
        trainer.save(progress)
        trainer.saver.wait()
        raise
    finally:
        trainer.close()
    return progress


class Trainer:
    """The engine, the data of a step and the statistics of one phase."""

    def __init__(self, job: Job) -> None:
        self.job = job
        sizes = {name: len(task.rows) for name, task in job.tasks.items()}
        groups = {name: task.groups for name, task in job.tasks.items() if task.groups is not None}
        self.mixture = Mixture(sizes, job.setting, job.sampling, job.seed, groups)
        self.micro_batches = micro_batch_count(job.setting, job.world.size)
        collate = Collator(job.tasks, job.tokenizer, job.setting.mlm_probability, job.seed)
        self.feed = Feed(self.mixture, collate, self.micro_batches, job.world.rank, job.world.size, job.model.packs)
        self.watch = Stopwatch(job.world.device)
        self.speed = Speed(job.model.encoder, job.world.device, job.engine_part.dtype, job.world.size)
        self.engine = build_engine(job.model, job.engine_part, job.setting, job.world, self.micro_batches)
        self.streams = Streams(self.engine)
        self.saver = checkpoint.Saver(job.folder.checkpoints, job.world, job.setting.save_total_limit)
        self.chance = ChanceWatch({name: job.model.specs[task.head] for name, task in job.tasks.items()})
        self.statistics = StepStatistics()
        self.monitor: Monitor | None = None
        self.profiler: Any = None

    def resume(self, found: checkpoint.Checkpoint | None) -> Progress:
        progress = Progress()
        if found is not None:
            found.optimizer_into(self.engine)
            progress = Progress(**found.manifest["state"])
            self.saver.last_step = progress.step
        if self.job.world.first:
            self.monitor = Monitor(self.job.folder.metrics, self.job.tensorboard, self.job.title, progress.step,
                                   progress.selected_step, self.mixture.total_steps)
            log.info("%s: %d steps of %d examples, %d micro-batches a rank%s", self.job.title,
                     self.mixture.total_steps, self.job.setting.train_batch_size, self.micro_batches,
                     f", continuing after step {progress.step}" if progress.step else "")
            if self.job.engine_part.profile:
                self.profiler = profiler(self.job.folder.root / "profile.json", self.job.world.device)
                self.profiler.start()
        return progress

    def take_step(self, progress: Progress) -> None:
        """One optimiser step on the global batch of `progress.step`."""
        step, world = progress.step, self.job.world
        # Dropout depends on nothing but (seed, step, rank): no random state to save.
        torch.manual_seed(hash_seed(self.job.seed, step, world.rank))
        rate = learning_rate(step, self.mixture.total_steps, self.job.setting)
        set_learning_rate(self.engine, rate)
        expect_progress(self.job.engine_part.collective_timeout)
        with self.watch("data"):
            data = self.feed(step)
        with self.streams.step():
            sums = self._forward_backward(data.batches)
            with self.watch("update"):
                norm = self._update()
        self.statistics.reduced.append(sums)
        self.statistics.norms.append(norm)
        self.statistics.tokens.append([sum(counts) for counts in zip(*(self._tokens(*part) for part in data.batches))])
        self.statistics.local.append({"step": step + 1, "train/learning_rate": rate})
        self.statistics.examples.append(data.items[:8])
        if self.profiler is not None:
            self.profiler.step()

    def _forward_backward(self, batches: list[tuple[Batch, int]]) -> torch.Tensor:
        """Run this rank's micro-batches; returns the loss, then loss sums by task and target counts by task."""
        world, device = self.job.world, self.job.world.device
        statistics = torch.zeros(1 + 2 * len(self.job.tasks), device=device)
        self.engine.train()
        for batch, _ in batches:
            expect_progress(self.job.engine_part.collective_timeout)
            try:
                with self.watch("forward"):
                    loss, sums, counts = self.engine(batch.to(device))
                with self.watch("backward"):
                    # DeepSpeed averages gradients over ranks; the loss is a sum over them.
                    self.engine.backward(loss * world.size, scale_wrt_gas=False)
            except RuntimeError as problem:
                if explained := explain_memory(problem, batch, self.job.setting):
                    raise explained from problem
                raise
            statistics += torch.cat([loss.detach()[None], sums, counts])
            if self.job.engine_part.zero_stage > 0 or not self.engine.is_gradient_accumulation_boundary():
                with self.watch("update"):
                    self._advance()
        return statistics

    def _tokens(self, batch: Batch, examples: int) -> tuple[int, int, int]:
        """Real tokens, tokens that the encoder computes, and the sum of the rows' squared lengths."""
        if not examples:
            return 0, 0, 0
        real = len(batch.input_ids)
        computed = real if self.job.model.packs else batch.padded_tokens
        return real, computed, sum(length * length for length in batch.lengths)

    def _advance(self) -> None:
        """DeepSpeed's step(): counts a micro-batch; at the last one it updates the weights."""
        with FilledConstants():
            self.engine.step()

    def _update(self) -> torch.Tensor:
        """Finish the step and return the gradient norm; a non-finite one leaves the weights as they are. Neither is
        waited for: the device decides, and `flush` hears of it."""
        stage = self.job.engine_part.zero_stage
        norm = gradient_norm(self.engine, stage)
        if stage == 0:
            clip_gradients(self.engine, norm, self.job.setting.max_grad_norm)
            call_off_unless_finite(self.engine.optimizer, norm)
            self._advance()
        return norm

    def _judge(self, progress: Progress, local: Mapping[str, float], norm: float, examples: list[Item]) -> None:
        """Keep count of skipped steps. Raises UserError when there are too many in a row."""
        if math.isfinite(norm):
            progress.skipped_in_a_row = 0
            progress.decay *= 1 - local["train/learning_rate"] * self.job.setting.weight_decay
            return
        progress.skipped_in_a_row += 1
        where, step = ", ".join(f"{name}[{item}]" for name, item in examples), local["step"]
        log.warning("step %d skipped: gradient norm %s; examples %s ...", step, norm, where)
        # fp16 finds its loss scale by overflowing at first; there only the loss itself counts (see flush).
        if self.job.engine_part.dtype != "fp16" and progress.skipped_in_a_row > self.job.engine_part.max_skipped_steps:
            raise UserError(
                f"{progress.skipped_in_a_row} steps in a row had a non-finite gradient, up to step {step} "
                f"(examples {where}); lower learning_rate or use engine.dtype=fp32. They have changed no weight"
            )

    def flush(self, progress: Progress) -> None:
        """Sum the steps' numbers over ranks and write them. The only place that waits for the device."""
        if not self.statistics.reduced:
            return
        table = torch.stack(self.statistics.reduced)
        tokens = torch.tensor(self.statistics.tokens, dtype=table.dtype, device=table.device)
        table = torch.cat([table[:, :1], tokens, table[:, 1:]], dim=1)
        dist.all_reduce(table)
        rows, norms = table.tolist(), torch.stack(self.statistics.norms).tolist()
        for local, norm, examples in zip(self.statistics.local, norms, self.statistics.examples):
            self._judge(progress, local, norm, examples)
            local["train/grad_norm"] = norm
        if any(not math.isfinite(row[0]) for row in rows) and self.job.engine_part.dtype == "fp16":
            raise UserError(f"the loss became non-finite before step {progress.step}; use engine.dtype=bf16")
        spent = self.watch.read()
        if self.monitor is not None:
            counts = {name: sum(row[i] for row in rows) for i, name in enumerate(COUNTS)}
            rates = self.speed.tags(counts, spent, max(self.monitor.lap(), 1e-9))
            extra = {**rates, **memory_gib(self.job.world.device)}
            records = [{**local, **self._record(row), **extra} for local, row in zip(self.statistics.local, rows)]
            self.monitor.steps(records)
            self._watch(records, progress)
        self.statistics = StepStatistics()

    def _watch(self, records: list[dict[str, Any]], progress: Progress) -> None:
        """Say which tasks are still at chance, from a quarter of the steps on."""
        prefix = "train/loss/"
        for record in records:
            self.chance.add((k.removeprefix(prefix), v) for k, v in record.items() if k.startswith(prefix))
        if progress.step * 4 >= self.mixture.total_steps:
            for sentence in self.chance.stuck():
                log.warning("%s step %d: %s", self.job.title, progress.step, sentence)

    def _record(self, row: list[float]) -> dict[str, float]:
        names, kinds = sorted(self.job.tasks, key=lambda n: self.job.tasks[n].index), len(self.job.tasks)
        sums, counts = row[len(COUNTS) :][:kinds], row[len(COUNTS) :][kinds:]
        by_task = {f"train/loss/{name}": total / n for name, total, n in zip(names, sums, counts) if n}
        return {"train/loss": row[0], "train/padding_fraction": 1 - row[1] / row[2], **by_task}

    @staticmethod
    def due(step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def select_if_due(self, progress: Progress) -> None:
        """After every `eval_steps` and at the end, once."""
        step = progress.step
        if step != progress.selected_step and (
            self.due(step, self.job.setting.eval_steps) or step == self.mixture.total_steps
        ):
            self.select(progress)

    def select(self, progress: Progress) -> None:
        """Evaluate on English dev and keep the model if it is the best so far."""
        expect_nothing()
        self.flush(progress)
        self.engine.eval()
        with torch.no_grad():
            scores = self.job.world.broadcast(self.job.evaluate(self.engine))
        if self.monitor is not None:
            self.monitor.evaluation(progress.step, scores)
            self.monitor.lap()
        if progress.note(scores):
            parameters = full_parameters(self.engine)
            if self.job.world.first:
                self.job.export(widen(self.job.model, parameters, progress.decay), progress.step)
            self.job.world.barrier()

    def save(self, progress: Progress) -> None:
        expect_nothing()
        self.flush(progress)
        self.saver.save(self.engine, progress.step, asdict(progress))

    def close(self) -> None:
        expect_nothing()
        self.feed.close()
        if self.profiler is not None:
            self.profiler.stop()
        if self.monitor is not None:
            self.monitor.close()
            if summary := self.speed.summary():
                log.info("%s: %s", self.job.title, summary)
        destroy_engine(self.engine)


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from several integers."""
    import numpy as np

    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
