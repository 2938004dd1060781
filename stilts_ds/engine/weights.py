"""Weights that rank 0 reads, and the other ranks get from it: a model is read once, however many ranks there are.

In training DeepSpeed sends them: from rank 0 to all at stages 0 to 2, and at stage 3 one parameter after the other, of
which each rank keeps its part (zero.py). In evaluation `send_weights` does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from stilts_ds.config import ModelPart
from stilts_ds.engine.guards import MORE_TO_LOAD, memory_explained
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.encoder import load_encoder, unfilled_encoder


def encoder_of_ranks(path: str | Path, setting: ModelPart, revision: str | None, dtype: str, world: World) -> nn.Module:
    """The encoder of a checkpoint in float32 on the CPU, which rank 0 loads as `load_encoder` does.

    The others have the same network, without weights: whoever trains or predicts with it sends them. A collective.
    Raises UserError on every rank for what `load_encoder` refuses, and where rank 0's memory does not suffice.
    """

    def load() -> nn.Module:
        with memory_explained(f"while {path} was loaded", MORE_TO_LOAD):
            return load_encoder(path, setting, revision, world.device, dtype)

    encoder = read_on_rank_0(load, world)
    # Which rank 0 has tried on the weights.
    packs = world.broadcast(Backbone(encoder).packs if encoder is not None else None)
    problem: UserError | None = None
    if encoder is None:
        try:
            encoder = unfilled_encoder(path, setting, revision, packs)
        except UserError as error:
            problem = error
    world.agree(problem, f"making the network of {path}")
    assert encoder is not None
    # Buffers belong to the weights: some checkpoints hold them, and DeepSpeed sends none.
    sent = world.broadcast([buffer.numpy() for buffer in encoder.buffers()] if world.first else None)
    for buffer, value in zip(encoder.buffers(), sent, strict=True):
        buffer.copy_(torch.from_numpy(value))
    return encoder


def read_on_rank_0(read: Callable[[], Any], world: World) -> Any:
    """What `read` gives, on rank 0, and None on the others; its UserError ends all ranks alike. A collective."""
    values: list[Any] = []
    world.on_rank_0(lambda: values.append(read()))
    return values[0] if values else None


def send_weights(model: nn.Module, world: World) -> None:
    """Make the parameters of every rank's model, which lies on the rank's device, those of rank 0's. A collective."""
    if world.size == 1:
        return
    for parameter in model.parameters():
        # One by one: a copy of all of them would take the memory of a second model.
        dist.broadcast(parameter.detach(), src=0)
