"""Parameters and Adam's moments, whole and by name, in and out of any ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

import stilts_ds.engine.world  # noqa: F401  (first: it tells DeepSpeed the accelerator)

# isort: split
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def full_parameters(engine: Any) -> dict[str, torch.Tensor]:
    """All parameters in float32 on the CPU, by name, on rank 0 ({} elsewhere). A collective: call it on all ranks."""
    whole: dict[str, torch.Tensor] = {}
    first = torch.distributed.get_rank() == 0
    for name, parameter in engine.module.named_parameters():
        value = whole_state(engine, parameter, ("weight",))["weight"]
        # One parameter at a time: a whole copy is on rank 0's host only.
        if first:
            whole[name] = value.to("cpu", torch.float32, copy=True)
    return whole


def _moment(optimizer: Any, parameter: nn.Parameter, kind: str) -> torch.Tensor | None:
    """None before the parameter's first step; its count of steps is also 0 where all of them were skipped."""
    state = optimizer.state.get(parameter, {"step": 0})
    return state[kind] if state["step"] > 0 else None


def whole_state(engine: Any, parameter: nn.Parameter, kinds: Iterable[str]) -> dict[str, torch.Tensor]:
    """Float32 `weight`, `exp_avg` and `exp_avg_sq` of one parameter, whole, on every rank. A collective.

    Before the first step of an optimiser there are no moments: they are left out.
    """
    whole = {}
    for kind in kinds:
        if is_whole(engine):
            value = parameter.detach() if kind == "weight" else _moment(engine.optimizer, parameter, kind)
        elif kind == "weight":
            value = safe_get_full_fp32_param(parameter)
        else:
            value = safe_get_full_optimizer_state(parameter, kind) if _optimizer_steps(engine) else None
        if value is not None:
            whole[kind] = value.detach().view(getattr(parameter, "ds_shape", parameter.shape))
    return whole


def set_whole_state(engine: Any, parameter: nn.Parameter, kind: str, value: torch.Tensor) -> None:
    """Set what `whole_state` gives; each rank keeps its part. `make_optimizer_state` comes first."""
    first, stop = kept_numbers(engine, parameter)
    set_kept_numbers(engine, parameter, kind, value.flatten()[first:stop])


def send_whole_state(engine: Any, parameter: nn.Parameter, kind: str, value: torch.Tensor | None) -> None:
    """Set what `set_whole_state` sets from rank 0's `value`; the others give None. A collective.

    At stage 3 each rank gets its part and no more; elsewhere all of the parameter travels.
    """
    shape = getattr(parameter, "ds_shape", parameter.shape)
    ranks, is_sender = torch.distributed.get_world_size(), torch.distributed.get_rank() == 0
    if not hasattr(parameter, "ds_tensor"):
        sent = torch.empty(shape, device=engine.device) if value is None else value.to(engine.device)
        torch.distributed.broadcast(sent, src=0)
        set_whole_state(engine, parameter, kind, sent)
        return
    size = parameter.ds_tensor.numel()
    own_part = torch.empty(size, device=engine.device)
    parts = None
    if is_sender:
        assert value is not None
        padded = torch.zeros(ranks * size, device=engine.device)
        padded[: value.numel()] = value.flatten()
        parts = list(padded.split(size))
    torch.distributed.scatter(own_part, parts, src=0)
    first, stop = kept_numbers(engine, parameter)
    set_kept_numbers(engine, parameter, kind, own_part[: stop - first])


def kept_numbers(engine: Any, parameter: Any) -> tuple[int, int]:
    """Which numbers [first, stop) of a parameter, in flat order, this rank keeps the state of; (0, 0) for none."""
    numel = int(getattr(parameter, "ds_numel", parameter.numel()))
    if hasattr(parameter, "ds_tensor"):  # stage 3
        size = parameter.ds_tensor.numel()
        first = torch.distributed.get_rank() * size
        return min(first, numel), min(first + size, numel)
    if is_whole(engine):
        return 0, numel
    mapping = parameter._hp_mapping  # of stages 1 and 2; None on a rank that keeps nothing of it
    address = None if mapping is None else mapping.lp_fragment_address
    return (0, 0) if address is None else (address.start, address.start + address.numel)


def set_kept_numbers(engine: Any, parameter: Any, kind: str, values: torch.Tensor) -> None:
    """Set the state of the numbers that `kept_numbers` names."""
    if hasattr(parameter, "ds_tensor"):  # stage 3
        # Padded as DeepSpeed pads it; its own setter forgets to.
        padding = parameter.ds_tensor.numel() - values.numel()
        values = torch.nn.functional.pad(values.to(engine.device), (0, padding))
        if kind == "weight":
            safe_set_local_fp32_param(parameter, values)
        else:
            safe_set_local_optimizer_state(parameter, values, kind)
    elif is_whole(engine):
        state = parameter.data if kind == "weight" else engine.optimizer.state[parameter][kind]
        state.copy_(values.view(state.shape))
    elif values.numel():
        parameter._hp_mapping.get_hp_fragment(None if kind == "weight" else kind).data.copy_(values)


def is_whole(engine: Any) -> bool:
    """Stage 0 in float32: the optimiser is torch's own and works on whole parameters."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)


def adam_of(engine: Any) -> torch.optim.Optimizer:
    return engine.optimizer if is_whole(engine) else engine.optimizer.optimizer


def _flat_parameters(engine: Any) -> list[torch.Tensor]:
    """What torch's optimiser holds: parameters at stage 0, flat float32 partitions at the others."""
    if is_whole(engine):
        return [p for group in engine.optimizer.param_groups for p in group["params"]]
    zero3 = getattr(engine.optimizer, "fp32_partitioned_groups_flat", None)
    return list(zero3 if zero3 is not None else engine.optimizer.single_partition_of_fp32_groups)


def gradient_partitions(engine: Any) -> list[torch.Tensor]:
    """This rank's part of the averaged gradients while Adam is about to step, at stages 1 to 3: those that were handed
    to it, and those that are still DeepSpeed's."""
    handed_over = [flat.grad for flat in _flat_parameters(engine) if flat.grad is not None]
    waiting = [gradients for gradients in engine.optimizer.averaged_gradients.values() if gradients is not None]
    return handed_over + [gradient for gradients in waiting for gradient in gradients if gradient is not None]


def _optimizer_steps(engine: Any) -> int:
    """Steps that Adam has taken (skipped ones do not count)."""
    states = [adam_of(engine).state.get(flat, {}) for flat in _flat_parameters(engine)]
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def scalars(engine: Any) -> dict[str, Any]:
    """Adam's step number and, with fp16, where the loss scale stands."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    scale = {name: getattr(scaler, name) for name in SCALER if hasattr(scaler, name)}
    return {"steps": _optimizer_steps(engine), "loss_scale": scale}


def make_optimizer_state(engine: Any, given: Mapping[str, Any]) -> None:
    """Give torch's AdamW the state it would have after `given["steps"]` steps, with moments to be filled in."""
    scaler = getattr(engine.optimizer, "loss_scaler", None)
    for name, value in given["loss_scale"].items():
        if hasattr(scaler, name):
            setattr(scaler, name, value)
    if not given["steps"]:
        return
    for flat in _flat_parameters(engine):
        step = torch.tensor(float(given["steps"]), device=flat.device)
        moments = {kind: torch.zeros_like(flat, dtype=torch.float32) for kind in ("exp_avg", "exp_avg_sq")}
        adam_of(engine).state[flat] = {"step": step, **moments}
    link_moments(engine)


def link_moments(engine: Any) -> None:
    """Stages 1 and 2: point every parameter at its part of Adam's moments. DeepSpeed does so itself, but after the step
    of the first parameter group, when the others have no moments yet, and never again."""
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state") and _optimizer_steps(engine):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()
