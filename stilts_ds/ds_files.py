"""The DeepSpeed configuration files: `ds_configs/zero<stage>.json`, or the recipe's own. Read without DeepSpeed."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from stilts_ds.config import EnginePart
from stilts_ds.errors import UserError

OWNED_BY_RECIPE = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
                   "gradient_clipping", "optimizer", "scheduler", "bf16", "fp16")


def base_config(part: EnginePart) -> dict[str, Any]:
    """The JSON that `part` means. Raises UserError where an own file cannot be read or sets what the recipe owns."""
    if part.ds_config is None:
        return json.loads(_shipped(f"zero{part.zero_stage}.json"))
    path = Path(part.ds_config)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(config, allow_nan=False).encode()  # what no DeepSpeed setting can mean: NaN, half surrogate pairs
    except (OSError, ValueError, RecursionError) as error:
        problem = f"engine.ds_config: {path}: {error}"
        raise UserError(f"{problem}; give a DeepSpeed JSON file such as those of ds_configs/") from error
    if not isinstance(config, dict):
        raise UserError(f"engine.ds_config: {path} holds no JSON object; give a file such as those of ds_configs/")
    owned = sorted(set(config) & set(OWNED_BY_RECIPE))
    if owned:
        raise UserError(f"{part.ds_config}: {owned[0]!r} is set by the recipe; remove it from that file")
    return config


def _shipped(name: str) -> str:
    """Text of a shipped DeepSpeed configuration, from the installed package or the checkout."""
    checkout = Path(__file__).resolve().parents[1] / "ds_configs" / name
    if checkout.exists():
        return checkout.read_text(encoding="utf-8")
    return (files("stilts_ds") / "ds_configs" / name).read_text(encoding="utf-8")
