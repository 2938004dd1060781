"""A few real steps of one phase, to measure time and memory. `stilts plan RECIPE --trial` starts this program.

    python -m stilts_ds.trial RUN_DIR PHASE_ID      on every rank, with torchrun's variables

RUN_DIR is a temporary folder with a recipe and a plan; the result is its trial.json. The engine and the steps are those
of training. The heaviest step that is found comes first: it warms up and sets the memory's peak. The timed ones are
spread over the phase. Then each rank gets as many examples as one of 1, 2, 4 ... ranks would have: these steps tell how
many ranks a step keeps busy. Nothing is exported and nothing is evaluated.
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stilts_ds.config import written_recipe
from stilts_ds.data.data import Data
from stilts_ds.engine.logs import set_up_logging
from stilts_ds.engine.number_format import with_format
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.trainer import Trainer
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.world import World, joined
from stilts_ds.errors import UserError
from stilts_ds.model.encoder import quiet
from stilts_ds.model_files import limits_of
from stilts_ds.phase_setup import check_settings, set_up_training
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import most_ranks
from stilts_ds.run_dir import RunDir, hash_json
from stilts_ds.trial_file import RankPeaks, RankRate, Trial

STEPS = 3  # timed ones
RATE_STEPS = 3  # timed ones for each number of ranks, of which the quickest counts: others may have been disturbed
LOOKED_AT = 500  # steps among which the heaviest is looked for


def trial(run: RunDir, phase_id: str, world: World) -> None:
    """Run the trial of a planned run and write trial.json. A collective."""
    # Before the model: the rest of the peak grows with it, this share does not. KiB on Linux.
    started_with = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    recipe = written_recipe(run.recipe)
    phases = Plan.load(run.plan).phases
    # The encoder of an earlier phase has the same shape as the pretrained one, and may not exist yet.
    [phase] = [phase.model_copy(update={"init": ""}) for phase in phases if phase.id == phase_id]
    check_settings(recipe, [phase], limits_of(recipe.model.name_or_path, recipe.model.revision), world)
    # `auto` is measured anew: a trial has no status that remembers it.
    recipe = with_format(recipe, None, world)
    data = Data(recipe, run.root)
    world.on_rank_0(lambda: tokenise(data, phases))

    def set_up(phase: Phase) -> TrainingSetup:
        return dataclasses.replace(
            set_up_training(run, recipe, phase, data, world),
            # A trial leaves no model, so there is nothing to select or to export.
            evaluate=lambda forward: {},
            export=lambda parameters, step: None,
        )

    measured = measure(set_up(phase), STEPS)
    # Now: steps that follow are larger than the recipe's.
    ranks = world.all_gather(_peaks(world, started_with).model_dump())
    rates = rank_rates(phase, set_up, world)
    if world.first:
        Trial(
            parameters=measured.parameters,
            steps=measured.steps,
            seconds=measured.seconds,
            tokens=measured.tokens,
            warm_up_seconds=measured.warm_up_seconds,
            phase=phase.id,
            stage=recipe.engine.zero_stage,
            dtype=recipe.engine.dtype,
            device=torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else "CPU",
            ranks=tuple(RankPeaks.model_validate(rank) for rank in ranks),
            rates=rates,
        ).save(run.trial)


class Measured(NamedTuple):
    """What the steps took: seconds and real tokens (of all ranks) of each timed one."""

    parameters: int
    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    tokens: tuple[int, ...]
    warm_up_seconds: float


def tokenise(data: Data, phases: Sequence[Phase]) -> None:
    """Train and dev rows of every phase: their sizes decide how long the run takes, and the run needs them anyway."""
    for phase in phases:
        for name in phase.train:
            setting = phase.setting(name)
            data.train(name, setting).rows(setting)
            data.dev(name, setting).rows(setting)


def rank_rates(phase: Phase, set_up: Callable[[Phase], TrainingSetup], world: World) -> tuple[RankRate, ...]:
    """What a rank does a second where a step is shared by each number of ranks that divides it evenly. A collective.

    These ranks take steps of as many examples as give each of them the share that it would have. So what so many ranks
    say to each other is not in it where they are more than these.
    """
    setting = phase.setting()
    pools = most_ranks([phase])
    assert pools is not None  # a phase that trains
    rates = []
    for ranks in [count for count in range(1, pools + 1) if pools % count == 0]:
        examples = setting.train_batch_size // ranks
        training = {**phase.training, "train_batch_size": examples * world.size}
        measured = measure(set_up(phase.model_copy(update={"training": training})), RATE_STEPS)
        quickest = max(tokens / seconds for tokens, seconds in zip(measured.tokens, measured.seconds))
        rates.append(RankRate(ranks=ranks, examples=examples, tokens_per_second=quickest / world.size))
    return tuple(rates)


def measure(setup: TrainingSetup, steps: int) -> Measured:
    """Take the heaviest step, and then so many timed ones."""
    trainer = Trainer(setup)
    try:
        # None: a new start, as the temporary folder has no checkpoints.
        trainer.resume(None)
        # ZeRO-3 leaves each rank a shard, and the whole size in `ds_numel`.
        trained = sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in setup.model.parameters())
        total = trainer.mixture.total_steps
        chosen = [heaviest(trainer), *np.linspace(0, total - 1, min(steps, total)).astype(int).tolist()]
        # The first step allocates buffers and compiles, so it is not among the timed ones.
        warm_up, *seconds = [timed(trainer, step) for step in chosen]
        tokens = [_tokens(trainer, step) for step in chosen[1:]]
    finally:
        trainer.close()
    return Measured(trained, tuple(chosen[1:]), tuple(seconds), tuple(tokens), warm_up)


def timed(trainer: Trainer, step: int) -> float:
    """Seconds of one optimiser step, up to the numbers that leave the device."""
    progress = Progress(step=step)
    started = time.perf_counter()
    trainer.take_step(progress)
    progress.step += 1
    # Kernels run asynchronously: only numbers that have arrived on the host end a step.
    trainer.flush(progress)
    return time.perf_counter() - started


def heaviest(trainer: Trainer) -> int:
    """The step with the largest micro-batch of at most LOOKED_AT steps."""
    total = trainer.mixture.total_steps
    looked_at = np.unique(np.linspace(0, total - 1, min(LOOKED_AT, total)).astype(int)).tolist()
    return max(looked_at, key=trainer.feed.largest)


def _tokens(trainer: Trainer, step: int) -> int:
    rows = {name: task.rows.item_tokens for name, task in trainer.setup.tasks.items()}
    return sum(int(rows[name][item]) for name, item in trainer.mixture.step(step))


def _peaks(world: World, started_with: int) -> RankPeaks:
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if world.device.type != "cuda":
        return RankPeaks(host=host, started_with=started_with)
    return RankPeaks(
        host=host,
        device=torch.cuda.max_memory_allocated(world.device),
        device_reserved=torch.cuda.max_memory_reserved(world.device),
        started_with=started_with,
    )


def main(arguments: list[str]) -> int:
    run, phase_id = RunDir(Path(arguments[0])), arguments[1]
    set_up_logging(run.logs)
    quiet()
    try:
        with joined(hash_json(["trial", str(run.root)]), 1800) as world:
            trial(run, phase_id, world)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
