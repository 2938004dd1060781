"""What training relies on in DeepSpeed, tried on two small layers before anything is paid for.

The trainer uses parts of DeepSpeed that it promises to nobody. Another version, or a setting, that breaks one of them
would spoil a run in silence; so each start takes two steps and compares them with torch.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from stilts_ds.config import EnginePart, TrainingPart
from stilts_ds.engine import zero_state
from stilts_ds.engine.number_format import possible_formats
from stilts_ds.engine.world import World
from stilts_ds.engine.zero import (
    advance,
    deepspeed,
    deepspeed_config,
    destroy_engine,
    finish_step,
    start_engine,
)
from stilts_ds.errors import UserError
from stilts_ds.model.checks import DTYPES

log = logging.getLogger(__name__)
WIDTH = 6
WEIGHT, KINDS = "weight", ("weight", "exp_avg", "exp_avg_sq")
# Relative differences of a norm between two orders of summation, in each format's digits.
NORM_TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2, "fp16": 2e-3}
REMEDY = "install the tested version, pip install 'deepspeed>=0.19.8,<0.20'"
# Buckets of the real size would take gigabytes of a GPU for a moment, and at stage 3 small weights would stay whole.
SMALL = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000, "stage3_prefetch_bucket_size": 1000}
SMALL |= {"stage3_param_persistence_threshold": 0}


class TwoLayers(nn.Module):
    """A weight, a bias and a weight, without dropout; returns a loss."""

    def __init__(self) -> None:
        super().__init__()
        # Without torch's initialisation, which would draw from the random numbers of the run.
        self.lower = nn.utils.skip_init(nn.Linear, WIDTH, WIDTH)
        self.upper = nn.utils.skip_init(nn.Linear, WIDTH, 1, bias=False)
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters(), start=1):
                # No value is exact in 16 bits, so rounded weights would show.
                parameter.copy_(torch.linspace(-1.0, 1.1, parameter.numel()).view_as(parameter) / (2 + number))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return (
            self.upper(torch.tanh(self.lower(rows.to(self.upper.weight.dtype)))).float().sum() / 100
        )  # which float16 holds when it is scaled


def check_deepspeed(engine_part: EnginePart, world: World) -> None:
    """Take a step with a NaN and one without, in each format that phases may train in. A collective.

    Raises UserError on every rank where weights, moments or the norm are not what torch makes of them.
    """
    started = time.monotonic()
    for dtype in possible_formats(engine_part):
        part = engine_part.model_copy(update={"dtype": dtype})
        try:
            broken = list(_broken_promises(part, world))
        except (AttributeError, TypeError, KeyError, AssertionError) as problem:
            # What another version has renamed, on all ranks alike.
            log.debug("DeepSpeed's check failed", exc_info=True)
            broken = [f"{type(problem).__name__}: {problem}"]
        # Together, because a rank that raised alone would leave the others waiting.
        answers = [answer for of_rank in world.all_gather(broken) for answer in of_rank]
        if answers:
            own_file = "" if part.ds_config is None else f", or train without {part.ds_config}"
            raise UserError(
                f"DeepSpeed {deepspeed.__version__} with torch {torch.__version__} does not train as this program "
                f"relies on (stage {part.zero_stage}, {dtype}): {answers[0]}; {REMEDY}{own_file}"
            )
    log.debug("DeepSpeed %s was tried in %.1f s", deepspeed.__version__, time.monotonic() - started)


def _broken_promises(part: EnginePart, world: World) -> Iterator[str]:
    """What DeepSpeed does otherwise than torch. A collective: no answer ends it before its last step."""
    exact = TwoLayers()
    setting = TrainingPart(per_device_train_batch_size=1, train_batch_size=world.size, learning_rate=1e-2)
    config = deepspeed_config(part, setting, world.size, 1)
    config["zero_optimization"] |= SMALL
    engine = start_engine(copy.deepcopy(exact).to(world.device), part, setting, config)
    start = {WEIGHT: {name: weight.detach() for name, weight in exact.named_parameters()}}
    try:
        if not _equal(_whole(engine, (WEIGHT,)), start):
            yield "it does not start from the exact weights of a model"
        norm = _step(engine, part, setting, world, spoiled=True)
        if math.isfinite(norm):
            yield f"the norm of a gradient with NaN is {norm:.3g}"
        if not _equal(_whole(engine, (WEIGHT,)), start):
            yield "a gradient with NaN changes the weights"
        norm, expected = _step(engine, part, setting, world), _torch_norm(exact, part, world)
        if not math.isclose(norm, expected, rel_tol=NORM_TOLERANCE[part.dtype]):
            yield f"the norm of a gradient is {norm:.6g}, and torch's {expected:.6g}"
        if _equal(_whole(engine, (WEIGHT,)), start):
            yield "a step leaves the weights as they were"
        if not _keeps_state(engine):
            yield "weights and moments that are set are not those that are read"
    finally:
        destroy_engine(engine)


def _rows(rank: int, device: torch.device) -> torch.Tensor:
    """The rows of a rank [2, WIDTH], others on each."""
    return torch.linspace(-1.0, 1.0, 2 * WIDTH, device=device).view(2, WIDTH) * (1 + rank % 5)


def _step(engine: Any, part: EnginePart, setting: TrainingPart, world: World, spoiled: bool = False) -> float:
    """One step in the way of the trainer; `spoiled`: with a NaN on the last rank. Returns the norm."""
    loss = engine(_rows(world.rank, world.device)) / world.size
    if spoiled and world.rank == world.size - 1:
        loss = loss * torch.nan
    engine.backward(loss * world.size, scale_wrt_gas=False)
    if part.zero_stage > 0:
        advance(engine)
    return float(finish_step(engine, part.zero_stage, setting.max_grad_norm))


def _torch_norm(exact: nn.Module, part: EnginePart, world: World) -> float:
    """Norm of the same gradient by torch alone: of the mean over ranks."""
    model = copy.deepcopy(exact).to(world.device, DTYPES[part.dtype])
    for rank in range(world.size):
        (model(_rows(rank, world.device)) / world.size).backward()
    return float(torch.nn.utils.get_total_norm([p.grad.float() for p in model.parameters() if p.grad is not None]))


def _keeps_state(engine: Any) -> bool:
    """Whether weights and moments that are set are read again, bit by bit."""
    other = _whole(engine, KINDS)
    for values in other.values():
        for value in values.values():
            value.add_(1.0)
    zero_state.make_optimizer_state(engine, zero_state.scalars(engine))
    for name, parameter in engine.module.named_parameters():
        for kind in other:
            zero_state.set_whole_state(engine, parameter, kind, other[kind][name])
    return len(other["exp_avg"]) == len(other[WEIGHT]) and _equal(_whole(engine, KINDS), other)


def _whole(engine: Any, kinds: tuple[str, ...]) -> dict[str, dict[str, torch.Tensor]]:
    """Copies of whole weights and moments by kind and name, in host memory."""
    zero_state.link_moments(engine)
    whole: dict[str, dict[str, torch.Tensor]] = {kind: {} for kind in kinds}
    for name, parameter in engine.module.named_parameters():
        for kind, value in zero_state.whole_state(engine, parameter, kinds).items():
            whole[kind][name] = value.to("cpu", copy=True)
    return whole


def _equal(first: dict[str, dict[str, torch.Tensor]], second: dict[str, dict[str, torch.Tensor]]) -> bool:
    if {kind: values.keys() for kind, values in first.items()} != {k: v.keys() for k, v in second.items()}:
        return False
    return all(torch.equal(value, second[kind][n]) for kind, values in first.items() for n, value in values.items())
