"""The DeepSpeed engine: its configuration, building it, one step of it, and letting go of it."""

from __future__ import annotations

import importlib
import logging
import re
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from stilts_ds.engine.world import World  # first: it tells DeepSpeed the accelerator

# isort: split
import deepspeed
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime import compiler
from deepspeed.runtime.zero import stage3, stage_1_and_2

from stilts_ds.config import EnginePart, TrainingPart
from stilts_ds.ds_files import base_config
from stilts_ds.engine.streams import FilledConstants
from stilts_ds.engine.zero_state import adam_of, gradient_partitions, send_whole_state
from stilts_ds.errors import UserError
from stilts_ds.model.checks import DTYPES
from stilts_ds.model.encoder import compile_layers, recompute_activations
from stilts_ds.model.multitask import MultiTask
from stilts_ds.run_dir import hash_json

log = logging.getLogger(__name__)
NOT_DECAYED = re.compile(r"bias$|norm|\bln_", re.IGNORECASE)  # biases and LayerNorm, which GPT-2 calls `ln_1`
LINEAR = torch.nn.functional.linear  # torch's own
LOOKS_AT_NORM = getattr(stage3, "is_invalid_grad_norm", None)  # DeepSpeed's own; a version without it looks elsewhere


def import_muon_uncompiled() -> None:
    """DeepSpeed asks of each optimizer whether it is its Muon, and decorates Muon's functions with torch.compile to
    ask: torch then imports its whole compiler, more than a CPU second of each rank. AdamW calls none of them."""
    compiling = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        with suppress(ImportError):  # a version without Muon
            importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compiling


import_muon_uncompiled()


def deepspeed_config(
    engine_part: EnginePart, setting: TrainingPart, world_size: int, micro_batches: int
) -> dict[str, Any]:
    """`ds_configs/zero<stage>.json` (or the recipe's own file) with what the recipe owns filled in.

    Raises UserError where that file sets what it may not (ds_files.py).
    """
    config = base_config(engine_part)
    if engine_part.offload_optimizer:
        pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_optimization"]["offload_optimizer"] = pinned
    per_device = setting.per_device_train_batch_size
    return config | {
        # DeepSpeed insists that these three multiply; the loop itself decides what a micro-batch holds.
        "train_batch_size": per_device * micro_batches * world_size,
        "train_micro_batch_size_per_gpu": per_device,
        "gradient_accumulation_steps": micro_batches,
        # Absent would mean 1.0. At stage 0 `clip_gradients` does it, with the norm that is known anyway.
        "gradient_clipping": setting.max_grad_norm if engine_part.zero_stage > 0 else 0.0,
        "bf16": {"enabled": engine_part.dtype == "bf16", "check_grad_overflow": False},  # call_off_bad_steps does it
        "fp16": {"enabled": engine_part.dtype == "fp16"},
        # Otherwise DeepSpeed refuses torch's AdamW when its state is in host memory.
        "zero_force_ds_cpu_optimizer": False,
        # DeepSpeed's timer has the host wait for the device twice in each micro-batch; Stopwatch needs no wait.
        "timers": {"throughput": {"enabled": False}},
    }


def build_engine(
    model: MultiTask, engine_part: EnginePart, setting: TrainingPart, world: World, micro_batches: int
) -> Any:
    """Wrap `model` in a DeepSpeed engine with AdamW. The learning rate is set by the loop in every step."""
    _check_precision(engine_part, world)
    _check_same_model(model, world)
    check_compilation(engine_part, model.drops)
    if engine_part.gradient_checkpointing:
        recompute_activations(model.encoder, model.masks if model.drops else None)
    if engine_part.torch_compile:
        compile_layers(model.encoder)
    if engine_part.zero_stage == 3 and any(model.head(name).ties_embeddings for name in model.specs):
        # The MLM head reads the word embeddings outside the module that owns them.
        deepspeed.zero.register_external_parameter(model, model.word_embedding)
    return start_engine(model, engine_part, setting, deepspeed_config(engine_part, setting, world.size, micro_batches))


def start_engine(model: nn.Module, engine_part: EnginePart, setting: TrainingPart, config: dict[str, Any]) -> Any:
    """A DeepSpeed engine of `config` with torch's AdamW, which starts from the exact weights of `model`."""
    optimizer = torch.optim.AdamW(
        parameter_groups(model, setting.weight_decay),
        lr=setting.learning_rate,
        betas=(setting.adam_beta1, setting.adam_beta2),
        eps=setting.adam_epsilon,
        fused=True,  # one pass over each tensor and no temporaries, on GPUs and CPUs alike
    )
    # Rank 0's alone: it has read them, and sends them to the others.
    is_exact = engine_part.dtype == "fp32" or torch.distributed.get_rank() > 0
    exact = {} if is_exact else {name: weight.detach() for name, weight in model.named_parameters()}
    if engine_part.zero_stage == 3:
        partition_parameters(model, engine_part, config)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    if engine_part.dtype != "fp32":
        send_exact_weights(engine, exact)
    if engine_part.zero_stage > 0:
        call_off_bad_steps(engine, engine_part)
    return engine


def check_compilation(engine_part: EnginePart, drops: bool) -> None:
    """Raise UserError for compiled layers whose activations are computed again with the same dropout masks: torch
    compiles no contexts of what is computed again. `drops` is whether the model has dropout."""
    if engine_part.torch_compile and engine_part.gradient_checkpointing and drops:
        raise UserError(
            "engine.torch_compile and engine.gradient_checkpointing do not go together with dropout; "
            "turn one of them off, or set model.dropout=0"
        )


def partition_parameters(model: nn.Module, engine_part: EnginePart, config: dict[str, Any]) -> None:
    """Divide rank 0's parameters among the ranks, one after the other. A collective.

    DeepSpeed would first send all of them to every device, which a model that needs stage 3 may not fit into.
    """
    device = torch.device(get_accelerator().current_device_name())
    for module in model.modules():
        for name, buffer in module._buffers.items():
            # DeepSpeed takes a model that is divided already for one that was made on the device.
            module._buffers[name] = None if buffer is None else buffer.to(device)
    dtype = DTYPES[engine_part.dtype]
    for parameter in model.parameters():
        if torch.distributed.get_rank() == 0:
            parameter.data = parameter.data.to(dtype)
        else:
            # Not cast: memory that nothing is written to costs none until rank 0's values come.
            parameter.data = torch.empty_like(parameter, dtype=dtype)
    deepspeed.zero.Init(module=model, config_dict_or_path=config, dtype=dtype)


def send_exact_weights(engine: Any, exact: dict[str, torch.Tensor]) -> None:
    """Make `exact` (float32, by name, of rank 0; emptied) the weights that Adam works on. A collective.

    DeepSpeed casts the module first and copies it then, so that a phase would start from rounded weights.
    """
    for name, parameter in engine.module.named_parameters():
        # Gives up host memory one by one.
        send_whole_state(engine, parameter, "weight", exact.pop(name, None))


def call_off_bad_steps(engine: Any, engine_part: EnginePart) -> None:
    """Stages 1-3: let Adam's kernel skip a step whose norm is not finite. DeepSpeed would have the host wait for the
    norm and skip the step there; with fp16 it still does, since the next loss scale depends on the norm."""
    if LOOKS_AT_NORM is None:
        log.warning(
            "DeepSpeed %s looks at gradient norms in its own way: the host may wait in each step", deepspeed.__version__
        )
    adam_device = "cpu" if engine_part.offload_optimizer else engine.device  # where Adam works
    judged_step = -1

    def check_step(adam: torch.optim.Optimizer, *_: Any) -> None:
        nonlocal judged_step
        # Adam takes one group of parameters after another: what the first one finds counts for all of a step.
        if judged_step != engine.global_steps:
            judged_step = engine.global_steps
            _look_at_gradients(engine)
        call_off_unless_finite(adam, engine.optimizer._global_grad_norm.to(adam_device))

    adam_of(engine).register_step_pre_hook(check_step)
    for stage in (stage_1_and_2, stage3):
        stage.is_invalid_grad_norm = LOOKS_AT_NORM if engine_part.dtype == "fp16" else lambda norm: False


def _look_at_gradients(engine: Any) -> None:
    """Make the norm infinite where a gradient of any rank is not finite. A collective, without a wait of the host.

    DeepSpeed says so by the norm, too; but versions lost that on the way, and each weight became NaN.
    """
    # The largest gradient and not the sum of squares, which float16 could not hold.
    largest = torch.nn.utils.get_total_norm(gradient_partitions(engine), norm_type=torch.inf)
    largest = largest.to(engine.device, torch.float32)
    # Not the maximum of these numbers over ranks: NaN would have to come through it.
    is_bad = (~torch.isfinite(largest)).float()
    torch.distributed.all_reduce(is_bad, op=torch.distributed.ReduceOp.MAX)
    norm = torch.as_tensor(engine.optimizer._global_grad_norm, device=engine.device)
    engine.optimizer._global_grad_norm = torch.where(is_bad > 0, torch.inf, norm)


def call_off_unless_finite(adam: Any, norm: torch.Tensor) -> None:
    """Have fused AdamW's next step leave weights, moments and its step number alone, should `norm` not be finite. The
    kernel reads the answer, the host does not (`found_inf` is what torch's own gradient scaler sets)."""
    adam.found_inf = (~torch.isfinite(norm)).float()


def destroy_engine(engine: Any) -> None:
    """Let go of everything that DeepSpeed holds. Stage 3 leaves a linear function of its own in torch, and that rounds
    otherwise: what is predicted afterwards would depend on whether this process has trained before."""
    engine.destroy()
    torch.nn.functional.linear = LINEAR
    stage_1_and_2.is_invalid_grad_norm = stage3.is_invalid_grad_norm = LOOKS_AT_NORM


def _check_precision(engine_part: EnginePart, world: World) -> None:
    if engine_part.dtype == "fp16" and world.device.type == "cpu":
        raise UserError("engine.dtype=fp16 has no fast path on CPUs and DeepSpeed refuses it; use fp32 or bf16")


def _check_same_model(model: nn.Module, world: World) -> None:
    """Every rank must hold the same parameters in the same order, or collectives would mix them up in silence."""
    # A hash, since every rank gets the message of every other one.
    of_this_rank = hash_json([[name, list(parameter.shape)] for name, parameter in model.named_parameters()])
    of_ranks = world.all_gather(of_this_rank)
    different = [rank for rank, of_rank in enumerate(of_ranks) if of_rank != of_ranks[0]]
    if different:
        raise RuntimeError(f"rank {different[0]} built a model with other parameters than rank 0")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: no weight decay on biases and LayerNorm weights (Devlin et al. 2019)."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if NOT_DECAYED.search(name) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(engine: Any, stage: int) -> torch.Tensor:
    """Global gradient norm before clipping, on the device: stage 0 before the step is taken, the others after it."""
    if stage > 0:
        return torch.as_tensor(engine.get_global_grad_norm(), device=engine.device)
    # Stage 0 in float32 keeps no norm of its own; its gradients are whole and already averaged over ranks here.
    return torch.nn.utils.get_total_norm([p.grad for p in engine.module.parameters() if p.grad is not None])


def clip_gradients(engine: Any, norm: torch.Tensor, max_grad_norm: float) -> None:
    """Stage 0: scale gradients whose global norm is `norm` to at most `max_grad_norm`; 0 means not to."""
    if max_grad_norm:
        torch.nn.utils.clip_grads_with_norm_(engine.module.parameters(), max_grad_norm, norm)


def advance(engine: Any) -> None:
    """DeepSpeed's step(): counts a micro-batch; at the last one it updates the weights."""
    with FilledConstants():
        engine.step()


def finish_step(engine: Any, stage: int, max_grad_norm: float) -> torch.Tensor:
    """Finish a step and return the gradient norm; a non-finite one leaves the weights as they are. Neither is waited
    for: the device decides, and who reads the norm hears of it.

    At stages 1 to 3 `advance` after the last micro-batch has updated the weights already.
    """
    norm = gradient_norm(engine, stage)
    if stage == 0:
        clip_gradients(engine, norm, max_grad_norm)
        call_off_unless_finite(engine.optimizer, norm)
        advance(engine)
    return norm
