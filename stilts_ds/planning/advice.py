"""Which ZeRO stage and which per_device_train_batch_size fit into a rank's memory. No torch."""

from __future__ import annotations

from stilts_ds.config import Recipe
from stilts_ds.planning.estimates import Estimate
from stilts_ds.planning.memory import GIB


def advice(recipe: Recipe, estimated: list[Estimate], gib: float, overhead: float = 0) -> str:
    """A sentence: the smallest stage that fits every phase into `gib` GiB a rank, and the largest batch there.

    `overhead`: bytes that a trial found to be taken on top of the formula's, 0 without a trial.
    """
    trains = [estimate for estimate in estimated if estimate.memory]
    if not trains:
        return f"whether it fits in {gib:g} GiB is unknown until model and data are on this machine"
    space = gib * GIB - overhead
    current = {estimate.phase.setting().per_device_train_batch_size for estimate in trains}
    counted = ", measured in the trial" if overhead else ""
    stage = _smallest_stage(trains, None, space)
    if stage is not None:
        batch = _largest_batch(trains, stage, space)
        return (
            f"stage {stage} fits in {gib:g} GiB, in every phase{counted}; per_device_train_batch_size may be up to "
            f"{batch} (it is {_list(current)})"
        )
    # From the largest: a micro-batch that is smaller than it must be wastes the device.
    for size in (2**power for power in range(10, -1, -1) if 2**power < max(current)):
        stage = _smallest_stage(trains, size, space)
        if stage is not None:
            return (
                f"no stage fits in {gib:g} GiB with per_device_train_batch_size {_list(current)}{counted}; stage "
                f"{stage} does with {size}"
            )
    worst = max(trains, key=lambda estimate: min(estimate.most(stage, 1) for stage in estimate.memory))
    remedies = "more ranks"
    if not recipe.engine.gradient_checkpointing:
        remedies += ", engine.gradient_checkpointing=true"
    if not recipe.engine.offload_optimizer:
        remedies += ", engine.offload_optimizer=true"
    return f"no stage fits in {gib:g} GiB for {worst.phase.label}, not even row by row{counted}; try {remedies}"


def _smallest_stage(trains: list[Estimate], size: int | None, space: float) -> int | None:
    """With micro-batches of `size`, or each phase's own."""
    # Ascending: a higher stage only adds communication once everything fits.
    for stage in trains[0].memory:
        if all(estimate.most(stage, size) <= space for estimate in trains):
            return stage
    return None


def _largest_batch(trains: list[Estimate], stage: int, space: float) -> int:
    """The largest power of two that fits, up to the largest batch of a step."""
    largest = max(estimate.phase.setting().train_batch_size for estimate in trains)
    sizes = [1]
    while sizes[-1] < largest:
        sizes.append(2 * sizes[-1])
    fitting = [n for n in sizes if all(estimate.most(stage, n) <= space for estimate in trains)]
    return max(fitting, default=1)


def _list(sizes: set[int]) -> str:
    return " to ".join(str(size) for size in sorted({min(sizes), max(sizes)}))
