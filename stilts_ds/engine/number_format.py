"""The number format that a phase trains in on this device: what `engine.dtype: auto` chooses, and slow choices told."""

from __future__ import annotations

import logging

import torch

from stilts_ds.config import EnginePart, Recipe
from stilts_ds.engine.stopwatch import matmul_rate
from stilts_ds.engine.world import World
from stilts_ds.model.checks import DTYPES

log = logging.getLogger(__name__)
# `auto` gives up float32's digits only for a clear gain, so that noise in the measurement does not decide.
WORTH_IT = 1.5


def with_format(recipe: Recipe, kept: str | None, world: World) -> Recipe:
    """The recipe with the format that a phase trains in, the same on all ranks; see `choose_format`. A collective."""
    chosen = choose_format(recipe.engine, world.device, kept) if world.first else None
    engine = recipe.engine.model_copy(update={"dtype": world.broadcast(chosen)})
    return recipe.model_copy(update={"engine": engine})


def choose_format(engine: EnginePart, device: torch.device, kept: str | None) -> str:
    """`fp32`, `bf16` or `fp16` for training with `engine` on `device`.

    `kept` is what an earlier start of the phase has chosen; a phase is trained in one format from its start to its end.
    """
    if engine.dtype != "auto":
        _warn_if_slow(engine.dtype, device)
        return engine.dtype
    if kept is not None:
        return kept
    if possible_formats(engine) == ("fp32",):
        return "fp32"
    gain = matmul_rate(device, torch.bfloat16) / matmul_rate(device, torch.float32)
    chosen = "bf16" if gain >= WORTH_IT else "fp32"
    log.info("engine.dtype=auto: %s (bf16 multiplies matrices %.2g times as fast as fp32 here)", chosen, gain)
    return chosen


def possible_formats(engine: EnginePart) -> tuple[str, ...]:
    """The formats that a phase may train in with `engine`."""
    if engine.dtype != "auto":
        return (engine.dtype,)
    # At stage 0 DeepSpeed takes a wrong first step in bfloat16.
    return ("fp32",) if engine.zero_stage == 0 else ("fp32", "bf16")


def _warn_if_slow(dtype: str, device: torch.device) -> None:
    """CPUs without instructions for bfloat16 take several times as long with it."""
    if device.type != "cpu" or dtype == "fp32":
        return
    loss = matmul_rate(device, torch.float32) / matmul_rate(device, DTYPES[dtype])
    if loss >= WORTH_IT:
        log.warning(
            "engine.dtype=%s multiplies matrices %.2g times as slowly as fp32 on this processor; engine.dtype=auto "
            "takes what is faster",
            dtype, loss,
        )  # fmt: skip
