"""What a plan costs, as data: sizes, memory by ZeRO stage, and hours where a trial measured a rate. No torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stilts_ds.config import EnginePart, Recipe
from stilts_ds.data.data import Data
from stilts_ds.families.registry import family_of
from stilts_ds.lineage import is_outdated
from stilts_ds.model_files import Shape, limits_of, model_folder, shape_of
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planning.memory import Memory, MicroBatch, largest_parameter, memory, trained_parameters
from stilts_ds.planning.outside import Outside, outside
from stilts_ds.planning.sizes import PhaseSize, heads_of, phase_size
from stilts_ds.robust import passes_of
from stilts_ds.run_dir import PhaseDir, RunDir, read_json
from stilts_ds.trial_file import Trial

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Estimate:
    """One phase's sizes (None: it trains nothing) and memory on a rank by stage, {} where it is not known.

    `memory` is for the recipe's per_device_train_batch_size, `memory_at(n)` for n.
    """

    phase: Phase
    state: str
    size: PhaseSize | None = None
    parameters: int | None = None
    vocabulary: tuple[int, int] | None = None  # word-embedding rows that train, of how many
    memory: dict[int, Memory] = dataclasses.field(default_factory=dict)
    memory_at: Callable[[int], dict[int, Memory]] = lambda per_device: {}
    outside: dict[int, Outside] = dataclasses.field(default_factory=dict)  # of the steps, by stage
    hours: float | None = None

    def most(self, stage: int, per_device: int | None = None) -> int:
        """The most bytes on a rank's device, in training (None: at the recipe's batch size) and in evaluation."""
        of_training = self.memory if per_device is None else self.memory_at(per_device)
        training = of_training[stage].peak if stage in of_training else 0
        return max(training, self.outside[stage].evaluation if stage in self.outside else 0)

    @property
    def work(self) -> int:
        """Tokens to train, or the most that they can be: for comparing phases only."""
        if self.size is None:
            return 0
        setting = self.phase.setting()
        if self.size.tokens is not None:
            return self.size.tokens
        # Every row as long as it may be.
        most_tokens = (self.size.steps or 0) * setting.train_batch_size * setting.max_seq_length
        return most_tokens * passes_of(setting.robust)


def estimates(recipe: Recipe, run: RunDir, plan: Plan, ranks: int, cpu: bool = False) -> list[Estimate]:
    """An estimate for each phase of a plan. `cpu`: of ranks that are CPUs, where only touched pages take memory."""
    data = Data(recipe, run.root)
    folder = model_folder(recipe.model.name_or_path, recipe.model.revision)
    shape = shape_of(folder) if folder is not None and (folder / "config.json").exists() else None
    return [_estimate(phase, recipe, data, run, shape, ranks, cpu) for phase in plan.phases]


def _estimate(
    phase: Phase, recipe: Recipe, data: Data, run: RunDir, shape: Shape | None, ranks: int, cpu: bool
) -> Estimate:
    folder = run.phase(phase.id)
    state = "outdated, will run again" if is_outdated(run, phase) else state_of(folder)
    eager = recipe.model.attn_implementation == "eager"
    evaluated = recipe.evaluation
    if not phase.train:
        around = {}
        if shape is not None:
            limit = limits_of(recipe.model.name_or_path, recipe.model.revision).tokens
            length = min(evaluated.retrieval_max_seq_length, limit or evaluated.retrieval_max_seq_length)
            batch = MicroBatch(evaluated.per_device_eval_batch_size, length)
            around = _outside(recipe, shape, 0, 0, 0, ranks, batch, eager or cpu)
        return Estimate(phase, state, outside=around)
    size = phase_size(phase, recipe, data)
    heads = None if shape is None else heads_of(phase, data, shape)
    # Sizes come from the data alone; only memory needs the model.
    if shape is None or heads is None:
        return Estimate(phase, state, size)
    rows = vocabulary_rows(phase, recipe, data, size, shape)
    trained = trained_parameters(shape, rows, heads)
    largest = largest_parameter(shape, rows)
    setting = phase.setting()

    def by_stage(per_device: int) -> dict[int, Memory]:
        changed = setting.model_copy(update={"per_device_train_batch_size": per_device})
        batch = size.micro_batch(changed, ranks)
        return {
            # Eager attention keeps its matrix: by far the largest activation of long rows.
            engine.zero_stage: memory(shape, trained, largest, engine, ranks, batch, eager=eager, cpu=cpu)
            for engine in allowed_engines(recipe.engine)
        }

    batch = MicroBatch(evaluated.per_device_eval_batch_size * (size.width or 1), size.longest_row)
    around = _outside(recipe, shape, trained, sum(heads), largest, ranks, batch, eager or cpu)
    at_recipes_size = by_stage(setting.per_device_train_batch_size)
    return Estimate(phase, state, size, trained, (rows, shape.vocabulary), at_recipes_size, by_stage, around)


def _outside(
    recipe: Recipe, shape: Shape, trained: int, heads: int, largest: int, ranks: int, batch: MicroBatch, eager: bool
) -> dict[int, Outside]:
    """Memory outside the steps by each stage that the recipe may run at."""
    return {
        engine.zero_stage: outside(shape, trained, heads, largest, engine, ranks, batch, eager)
        for engine in allowed_engines(recipe.engine)
    }


def vocabulary_rows(phase: Phase, recipe: Recipe, data: Data, size: PhaseSize, shape: Shape) -> int:
    """Word-embedding rows that train: those counted in cached rows, or all where none are cached or all must."""
    heads = [family_of(data.task(name)).verbs(shape.sees) for name in phase.train]
    all_train = recipe.engine.vocabulary_rows == "all" or any(head.ties_embeddings for head in heads)
    if all_train or size.vocabulary_rows is None:
        return shape.vocabulary
    return size.vocabulary_rows


def allowed_engines(engine: EnginePart) -> list[EnginePart]:
    """The recipe's engine at each stage that it may run at; its own DeepSpeed file counts for its own stage."""
    engines = []
    for stage in STAGES:
        # The recipe refuses these at stage 0 (config.py).
        if stage == 0 and (engine.dtype == "bf16" or engine.offload_optimizer):
            continue
        ds_config = engine.ds_config if stage == engine.zero_stage else None
        engines.append(engine.model_copy(update={"zero_stage": stage, "ds_config": ds_config}))
    return engines


def state_of(folder: PhaseDir) -> str:
    """`done (cached)`, `trained, evaluation will run`, `partly done (step N)` or `will run`."""
    state = folder.status()
    if state == "done":
        return "done (cached)"
    if state == "trained":
        return "trained, evaluation will run"
    step = saved_step(folder)
    outlook = "will run" if step is None else f"partly done (step {step})"
    if state == "failed":
        return f"{outlook}, failed before"
    return f"{outlook}, running" if state == "running" else outlook


def saved_step(folder: PhaseDir) -> int | None:
    """Steps in the newest checkpoint that was committed."""
    # The manifest is written last: a checkpoint without one was cut short.
    manifests = sorted(folder.checkpoints.glob("step-*/manifest.json"))
    return int(read_json(manifests[-1])["step"]) if manifests else None


def calibrated(estimated: list[Estimate], trial: Trial, ranks: int) -> list[Estimate]:
    """Hours of each phase whose tokens are known: at the trial's tokens a second and rank, whatever the ranks.

    Training only. More ranks than the trial's communicate more, which is not counted.
    """
    # By tokens and not by steps: steps of other phases have rows of other lengths.
    rate = trial.tokens_per_second / len(trial.ranks) * ranks
    with_hours = []
    for estimate in estimated:
        tokens = estimate.size.tokens if estimate.size is not None else None
        # Where nothing is tokenised yet there is nothing to divide.
        hours = estimate.hours if tokens is None else tokens / rate / 3600
        with_hours.append(dataclasses.replace(estimate, hours=hours))
    return with_hours


def to_json(estimated: list[Estimate]) -> list[dict[str, Any]]:
    """Plain values, bytes for memory."""
    return [_estimate_json(estimate) for estimate in estimated]


def _estimate_json(estimate: Estimate) -> dict[str, Any]:
    # `peak` is a property, which asdict leaves out.
    memory_bytes = {stage: {**dataclasses.asdict(m), "peak": m.peak} for stage, m in estimate.memory.items()}
    return {
        "id": estimate.phase.id,
        "name": estimate.phase.label,
        "state": estimate.state,
        "train": estimate.phase.train,
        "evaluate": estimate.phase.evaluate,
        "from": estimate.phase.init,
        "size": None if estimate.size is None else dataclasses.asdict(estimate.size),
        "outside": {stage: {**dataclasses.asdict(o), "host": o.host} for stage, o in estimate.outside.items()},
        "parameters": estimate.parameters,
        "vocabulary_rows": estimate.vocabulary and estimate.vocabulary[0],
        "hours": estimate.hours,
        "memory_bytes": memory_bytes,
    }
