"""One phase's engine and data: a step, an evaluation that keeps the best model, a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import torch

from stilts_ds.batches.collate import Collator
from stilts_ds.batches.feed import Feed
from stilts_ds.batches.mixture import Mixture, micro_batch_count
from stilts_ds.display import MILESTONE, Position, carrying
from stilts_ds.engine import checkpoint
from stilts_ds.engine.guards import SHARE_STATES, explain_memory, memory_explained
from stilts_ds.engine.optim import learning_rate
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.saver import Saver
from stilts_ds.engine.stacks import expect_nothing, expect_progress
from stilts_ds.engine.step_statistics import Statistics
from stilts_ds.engine.streams import Streams
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.zero import advance, build_engine, destroy_engine, finish_step, set_learning_rate
from stilts_ds.engine.zero_state import full_parameters
from stilts_ds.errors import counted
from stilts_ds.families.registry import pool_size
from stilts_ds.model.disturb import ascended, first_disturbance
from stilts_ds.model.vocabulary import widen
from stilts_ds.robust import AdversarialSteps, disturbs, passes_of
from stilts_ds.rows.batch import Batch

log = logging.getLogger(__name__)
# When Adam's moments appear (in the first step), and gradients are copied (in each).
IN_UPDATE = "in the optimizer's step"
MORE_HOST = (
    "`stilts plan RECIPE --phases` says what it takes; give the job more host memory, or take more ranks, each of "
    "which copies its share"
)


class Trainer:
    """The engine and the data of one phase's steps."""

    def __init__(self, setup: TrainingSetup, lineage: checkpoint.Lineage = checkpoint.FIRST_START) -> None:
        self.setup = setup
        sizes = {name: len(task.rows) for name, task in setup.tasks.items()}
        groups = {name: task.groups for name, task in setup.tasks.items() if task.groups is not None}
        self.mixture = Mixture(sizes, setup.setting, setup.sampling, setup.seed, groups)
        pool = pool_size((task.family for task in setup.tasks.values()), setup.setting)
        self.micro_batches = micro_batch_count(setup.setting, setup.world.size, pool)
        collate = Collator(setup.tasks, setup.tokenizer, setup.setting.mlm_probability, setup.seed, pool)
        world = setup.world
        self.feed = Feed(self.mixture, collate, self.micro_batches, world.rank, world.size, setup.model.packs)
        # Before the engine, which may shard the weights that are counted here.
        self.statistics = Statistics(setup, self.mixture.total_steps)
        self.passes = passes_of(setup.setting.robust)
        # Every pass over a micro-batch adds to the gradients of one update, as a micro-batch of its own would.
        accumulated = self.micro_batches * self.passes
        with memory_explained("while the engine was built", SHARE_STATES):
            self.engine = build_engine(setup.model, setup.engine_part, setup.setting, setup.world, accumulated)
        self.streams = Streams(self.engine)
        self.saver = Saver(setup.folder.checkpoints, setup.world, setup.setting.save_total_limit, lineage)

    def resume(self, saved: checkpoint.Checkpoint | None) -> Progress:
        """The progress of a checkpoint, or of a phase that begins; the engine's moments and the curves follow it."""
        progress = Progress()
        if saved is not None:
            with memory_explained("while the moments of a checkpoint were read", SHARE_STATES):
                saved.optimizer_into(self.engine)
            if self.setup.world.first:
                saved.warn_of_masks(self.setup.model)
            progress = Progress(**saved.manifest["state"])
            self.saver.last_step = progress.step
        self.statistics.start(progress)
        if self.setup.world.first:
            steps = counted(self.mixture.total_steps, "step")
            examples = counted(self.setup.setting.train_batch_size, "example")
            micro_batches = counted(self.micro_batches, "micro-batch", "micro-batches")
            after = f", continuing after step {progress.step}" if progress.step else ""
            start = Position(self.setup.title, "step", progress.step, self.mixture.total_steps)
            # Whoever starts a run again wants to see that nothing is lost.
            log.log(
                MILESTONE if progress.step else logging.INFO,
                "%s: %s of %s, %s a rank%s",
                self.setup.title,
                steps,
                examples,
                micro_batches,
                after,
                extra=carrying(start),
            )
        return progress

    # --- a step ------------------------------------------------------------------------------------------------------

    def take_step(self, progress: Progress) -> None:
        """One optimiser step on the global batch of `progress.step`."""
        step, world, watch = progress.step, self.setup.world, self.statistics.watch
        # Dropout masks come with the batches. What else a model draws depends on (seed, step, rank): no random state
        # has to be saved.
        torch.manual_seed(hash_seed(self.setup.seed, step, world.rank))
        # Set in every step from its number: there is no scheduler whose state could be lost.
        rate = learning_rate(step, self.mixture.total_steps, self.setup.setting)
        set_learning_rate(self.engine, rate)
        expect_progress(self.setup.engine_part.collective_timeout)
        with watch("data"):
            data = self.feed(step)
        with self.streams.step():
            sums = self._forward_backward(data.batches)
            with watch("update"):
                norm = self._update()
        self.statistics.add(step, rate, sums, norm, data.batches, data.items)

    def _forward_backward(self, batches: list[tuple[Batch, int]]) -> torch.Tensor:
        """Run this rank's micro-batches; returns the loss, then loss sums by task and target counts by task. Of several
        passes, the mean."""
        device = self.setup.world.device
        totals = torch.zeros(1 + 2 * len(self.setup.tasks), device=device)
        self.engine.train()
        for batch, _ in batches:
            for disturbed in self._disturbed(batch.to(device)):
                totals += self._pass(disturbed) / self.passes
        return totals

    def _disturbed(self, batch: Batch) -> Iterator[Batch]:
        """A micro-batch once for each pass. In robust training each has a disturbance of the word embeddings, which
        follows the gradient that the pass before has left."""
        robust = self.setup.setting.robust
        if not disturbs(robust):
            yield batch
            return
        delta = first_disturbance(robust, batch, self.setup.model.backbone.embedding_width)
        for number in range(1, self.passes + 1):
            if delta is not None:
                batch.disturbance = delta.requires_grad_(number < self.passes)
            yield batch
            if number < self.passes:
                assert isinstance(robust, AdversarialSteps) and delta is not None and delta.grad is not None
                delta = ascended(delta.detach(), delta.grad, batch, robust.step_size, robust.radius)

    def _pass(self, batch: Batch) -> torch.Tensor:
        """One pass over a micro-batch, forward and backward; returns what `_forward_backward` sums up."""
        world, watch = self.setup.world, self.statistics.watch
        expect_progress(self.setup.engine_part.collective_timeout)
        try:
            with watch("forward"):
                loss, sums, counts = self.engine(batch)
            with watch("backward"):
                # DeepSpeed averages gradients over ranks; the loss is a sum over them, and a mean over the passes.
                self.engine.backward(loss / self.passes * world.size, scale_wrt_gas=False)
        except RuntimeError as problem:
            if explained := explain_memory(problem, batch, self.setup.setting):
                raise explained from problem
            raise
        # At stage 0 the last micro-batch's step waits for `_update`, which clips and judges first.
        if self.setup.engine_part.zero_stage > 0 or not self.engine.is_gradient_accumulation_boundary():
            with watch("update"), memory_explained(IN_UPDATE, SHARE_STATES):
                advance(self.engine)
        return torch.cat([loss.detach()[None], sums, counts])

    def _update(self) -> torch.Tensor:
        """Finish the step and return the gradient norm, which `flush` reads."""
        with memory_explained(IN_UPDATE, SHARE_STATES):
            return finish_step(self.engine, self.setup.engine_part.zero_stage, self.setup.setting.max_grad_norm)

    # --- between steps -----------------------------------------------------------------------------------------------

    def flush(self, progress: Progress) -> None:
        self.statistics.flush(progress)

    @staticmethod
    def due(step: int, every: int) -> bool:
        return every > 0 and step % every == 0

    def select_if_due(self, progress: Progress) -> None:
        """After every `eval_steps` and at the end, once."""
        step = progress.step
        if step != progress.selected_step and (
            self.due(step, self.setup.setting.eval_steps) or step == self.mixture.total_steps
        ):
            self.select(progress)

    def select(self, progress: Progress) -> None:
        """Evaluate on English dev and keep the model if it is the best so far."""
        expect_nothing()
        self.flush(progress)
        self.engine.eval()
        remedy = "lower evaluation.per_device_eval_batch_size"
        with torch.no_grad(), memory_explained("while the dev examples were predicted", remedy):
            scores = self.setup.world.broadcast(self.setup.evaluate(self.engine))
        self.statistics.evaluation(progress.step, scores)
        before = progress.best_step
        if progress.record_evaluation(scores):
            # A collective, so outside of the condition on rank 0.
            with memory_explained("while the best model was gathered on rank 0's host", MORE_HOST):
                parameters = full_parameters(self.engine)
            if self.setup.world.first:
                # Before the new one is written: a disk need not hold two models that no checkpoint names.
                self.saver.drop_unnamed_best(before)
                self.setup.export(widen(self.setup.model, parameters, progress.decay), progress.step)
            self.setup.world.barrier()

    def save(self, progress: Progress) -> None:
        expect_nothing()
        self.flush(progress)
        self.statistics.sync()
        with memory_explained("while a checkpoint was gathered and copied to the host", MORE_HOST):
            self.saver.save(self.engine, progress.step, asdict(progress))

    def close(self) -> None:
        expect_nothing()
        self.feed.close()
        self.statistics.close()
        destroy_engine(self.engine)


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from several integers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)
