"""The DeepSpeed configuration files: `ds_configs/zero<stage>.json`, or the recipe's own. Read without DeepSpeed.

An own file may set what is known to leave results and checkpoints as they are, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from stilts_ds.config import EnginePart
from stilts_ds.errors import UserError

Check = Callable[[Any], bool]


def _is_size(value: Any) -> bool:
    # DeepSpeed's own files write sizes as 5e8, which JSON reads as a float; True is an int in Python.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value == int(value)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _is_on_cpu(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) - {"device", "pin_memory"}:
        return False
    return value.get("device") == "cpu" and _is_switch(value.get("pin_memory", False))


# What an own file may set, and what each value must be. These keys move work in time, memory and traffic; training and
# resuming are tested with them. DeepSpeed has some hundred more. Some change results, others the way in which weights
# and Adam's moments are kept, which checkpoints then would miss or mix up, so none is passed on untried.
# The one key that changes numbers: phases are named by it (`numbers_in`).
COMMUNICATION = "communication_data_type"
ALLOWED: dict[str, Check] = {
    "zero_optimization": lambda value: isinstance(value, dict),
    COMMUNICATION: lambda value: value in ("fp32", "bf16", "fp16"),
}
ALLOWED_ZERO: dict[str, Check] = {
    "stage": _is_size,
    "allgather_bucket_size": _is_size,
    "allgather_partitions": _is_switch,
    "contiguous_gradients": _is_switch,
    "offload_param": _is_on_cpu,
    "overlap_comm": _is_switch,
    "reduce_bucket_size": _is_size,
    "reduce_scatter": _is_switch,
    "stage3_max_live_parameters": _is_size,
    "stage3_max_reuse_distance": _is_size,
    "stage3_model_persistence_threshold": _is_size,
    "stage3_param_persistence_threshold": _is_size,
    "stage3_prefetch_bucket_size": _is_size,
    "sub_group_size": _is_size,
}
BY_RECIPE = "the recipe sets it"
OWNED_BY_RECIPE = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "bf16",
    "fp16",
)
REASONS = {
    **dict.fromkeys(OWNED_BY_RECIPE, BY_RECIPE),
    "zero_optimization.offload_optimizer": "engine.offload_optimizer sets it",
    "zero_optimization.compute_grad_norm": "it must stay true, because the norm tells which step to skip",
    "zero_optimization.mics_shard_size": "checkpoints are of weights that are sharded over all ranks",
    "zero_optimization.zero_hpz_partition_size": "checkpoints are of weights that are sharded over all ranks",
    "zero_optimization.round_robin_gradients": "a start that continues from a checkpoint comes to other losses with it",
    "data_types": "engine.dtype says how numbers are kept; with another type of gradients DeepSpeed takes another "
    "optimiser, whose state no checkpoint would hold",
    "zero_force_ds_cpu_optimizer": "it is false always, since AdamW is torch's",
}  # fmt: skip
UNTRIED = "it may change results or what checkpoints hold, and is not tried with this program"


def base_config(engine: EnginePart) -> dict[str, Any]:
    """The JSON that `engine` means. Raises UserError where an own file cannot be read or sets what it may not."""
    if engine.ds_config is None:
        return json.loads(_shipped(f"zero{engine.zero_stage}.json"))
    path = Path(engine.ds_config)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(config, allow_nan=False).encode()  # what no DeepSpeed setting can mean: NaN, half surrogate pairs
    except (OSError, ValueError, RecursionError) as error:
        problem = f"engine.ds_config: {path}: {error}"
        raise UserError(f"{problem}; give a DeepSpeed JSON file such as those of ds_configs/") from error
    if not isinstance(config, dict):
        raise UserError(f"engine.ds_config: {path} holds no JSON object; give a file such as those of ds_configs/")
    _check_keys(path, config, ALLOWED, "")
    zero = config.setdefault("zero_optimization", {})
    _check_keys(path, zero, ALLOWED_ZERO, "zero_optimization.")
    # plan, memory and checkpoints go by the recipe's stage: two that differ would make one of them wrong.
    if zero.setdefault("stage", engine.zero_stage) != engine.zero_stage:
        raise UserError(
            f"engine.ds_config: {path}: ZeRO stage {zero['stage']}, but engine.zero_stage={engine.zero_stage}; "
            "set both alike"
        )
    if "offload_param" in zero and not (engine.zero_stage == 3 and engine.offload_optimizer):
        raise UserError(
            f"engine.ds_config: {path}: offload_param needs engine.zero_stage=3 and engine.offload_optimizer=true"
        )
    return config


def numbers_in(engine: EnginePart) -> dict[str, Any]:
    """What an own DeepSpeed file sets that changes numbers: the format in which gradients are summed over ranks."""
    if engine.ds_config is None:
        return {}
    given = base_config(engine).get(COMMUNICATION)
    # The model's own type is what DeepSpeed takes by default: naming it changes no number.
    return {} if given in (None, engine.dtype) else {COMMUNICATION: given}


def _check_keys(path: Path, given: dict[str, Any], allowed: Mapping[str, Check], prefix: str) -> None:
    """Raise UserError that names the first key that is not allowed, or has a value that it cannot have."""
    # Sorted, so that of several faults the same one is reported each time.
    for key, value in sorted(given.items()):
        name = prefix + key
        if key not in allowed:
            reason = REASONS.get(name, UNTRIED)
            raise UserError(
                f"engine.ds_config: {path}: {name!r} may not stand there: {reason}; remove it "
                "(docs/recipe.md lists what may)"
            )
        if not allowed[key](value):
            problem = f"engine.ds_config: {path}: {name!r} cannot be {json.dumps(value)}"
            raise UserError(f"{problem}; give what docs/recipe.md says")


def _shipped(name: str) -> str:
    """Text of a shipped DeepSpeed configuration, from the installed package or the checkout."""
    checkout = Path(__file__).resolve().parents[1] / "ds_configs" / name
    if checkout.exists():
        return checkout.read_text(encoding="utf-8")
    return (files("stilts_ds") / "ds_configs" / name).read_text(encoding="utf-8")
