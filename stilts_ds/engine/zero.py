"""The DeepSpeed engine: configuration, optimiser, and whole parameters out of any ZeRO stage."""

from __future__ import annotations

import logging
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from torch import nn

from stilts_ds.config import EnginePart, TrainingPart
from stilts_ds.ds_files import base_config
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.model.multitask import MultiTask

log = logging.getLogger(__name__)


class SkippingAdamW(torch.optim.AdamW):
    """AdamW whose next step can be called off: DeepSpeed does so by itself at stages 1-3 only."""

    skip_next = False

    def step(self, closure: Any = None) -> Any:
        if self.skip_next:
            self.skip_next = False
            return None
        return super().step(closure)


def deepspeed_config(part: EnginePart, setting: TrainingPart, world_size: int, micro_batches: int) -> dict[str, Any]:
    """`ds_configs/zero<stage>.json` (or the recipe's own file) with what the recipe owns filled in.

    Raises UserError where that file sets something that the recipe owns, or another ZeRO stage.
    """
    config = base_config(part)
    zero = config.setdefault("zero_optimization", {})
    if zero.setdefault("stage", part.zero_stage) != part.zero_stage:
        raise UserError(f"{part.ds_config}: ZeRO stage {zero['stage']}, but engine.zero_stage={part.zero_stage}")
    if part.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    per_device = setting.per_device_train_batch_size
    return config | {
        # DeepSpeed insists that these three multiply; the loop itself decides what a micro-batch holds.
        "train_batch_size": per_device * micro_batches * world_size,
        "train_micro_batch_size_per_gpu": per_device,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": setting.max_grad_norm,  # absent would mean 1.0
        "bf16": {"enabled": part.dtype == "bf16"},
        "fp16": {"enabled": part.dtype == "fp16"},
    }


def build_engine(model: MultiTask, part: EnginePart, setting: TrainingPart, world: World, micro_batches: int) -> Any:
    """Wrap `model` in a DeepSpeed engine with AdamW. The learning rate is set by the loop in every step."""
    _check_precision(part, world)
    _check_same_model(model, world)
    if part.gradient_checkpointing:
        model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    if part.zero_stage == 3 and any(spec.family == "text" for spec in model.specs.values()):
        # The MLM head reads the word embeddings outside the module that owns them.
        deepspeed.zero.register_external_parameter(model, model.word_embedding)
    optimizer = (SkippingAdamW if part.zero_stage == 0 else torch.optim.AdamW)(
        parameter_groups(model, setting.weight_decay), lr=setting.learning_rate,
        betas=(setting.adam_beta1, setting.adam_beta2), eps=setting.adam_epsilon,
        fused=True,  # one pass over each tensor and no temporaries, on GPUs and CPUs alike
    )
    config = deepspeed_config(part, setting, world.size, micro_batches)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def _check_precision(part: EnginePart, world: World) -> None:
    if part.dtype == "fp16" and world.device.type == "cpu":
        raise UserError("engine.dtype=fp16 has no fast path on CPUs and DeepSpeed refuses it; use fp32 or bf16")


def _check_same_model(model: nn.Module, world: World) -> None:
    """Every rank must hold the same parameters in the same order, or collectives would mix them up in silence."""
    mine = [(name, tuple(p.shape)) for name, p in model.named_parameters()]
    others = world.all_gather(mine)
    different = [rank for rank, theirs in enumerate(others) if theirs != others[0]]
    if different:
        raise RuntimeError(f"rank {different[0]} built a model with other parameters than rank 0")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: no weight decay on biases and LayerNorm weights (Devlin et al. 2019)."""
    plain: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (plain if name.endswith("bias") or "norm" in name.lower() else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def full_parameters(engine: Any) -> dict[str, torch.Tensor]:
    """All parameters in float32 on the CPU, by name, on rank 0 ({} elsewhere). A collective: call it on all ranks."""
    whole: dict[str, torch.Tensor] = {}
    first = torch.distributed.get_rank() == 0
    for name, parameter in engine.module.named_parameters():
        value = safe_get_full_fp32_param(parameter)  # None at stage 0, where the module's own is whole
        value = parameter.data if value is None else value
        if first:
            whole[name] = value.detach().to("cpu", torch.float32, copy=True).view(_shape(parameter))
    return whole


def _shape(parameter: nn.Parameter) -> torch.Size:
    return getattr(parameter, "ds_shape", parameter.shape)


def set_learning_rate(engine: Any, rate: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = rate


def gradient_norm(engine: Any, stage: int) -> float:
    """Global gradient norm before clipping; inf or nan means that the step must not be taken."""
    if stage > 0:
        norm = engine.get_global_grad_norm()
        return float("nan") if norm is None else float(norm)
    # Stage 0 in float32 keeps no norm of its own; its gradients are whole and already averaged over ranks here.
    grads = [p.grad.float() for p in engine.module.parameters() if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))
