"""A model that predicts while each rank holds a part of its weights (ZeRO-3), for what no device can hold whole.

Every forward pass gathers the weights of one module after the other from all ranks, so all ranks have to make the same
passes: a rank that has nothing left to predict makes passes over a row of special tokens until the others are done.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from stilts_ds.config import EnginePart
from stilts_ds.ds_files import base_config
from stilts_ds.engine.world import World
from stilts_ds.engine.zero import LINEAR, partition_parameters
from stilts_ds.model.backbone import Layer
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.batch import Batch

# isort: split
import deepspeed


class ShardedModel:
    """Calls are those of MultiTask, and collectives."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def __call__(self, batch: Batch, mode: str, layer: Layer = -1) -> Any:
        return self.engine(batch, mode, layer)


class LockStep:
    """A sharded model for work of which nobody knows how many passes it takes: before each pass ranks say whether they
    make one for themselves."""

    def __init__(self, model: ShardedModel, world: World, stand_in: Batch, mode: str) -> None:
        self.model, self.world, self.stand_in, self.mode = model, world, stand_in, mode

    def __call__(self, batch: Batch, mode: str, layer: Layer = -1) -> Any:
        self.world.maximum([1])
        return self.model(batch, mode, layer)

    def finish(self) -> None:
        """Make passes until no rank needs any more. A collective, whose end all ranks come to together."""
        while self.world.maximum([0]) != [0]:
            self.model(self.stand_in, self.mode)


def shard(model: MultiTask, engine_part: EnginePart, world: World) -> ShardedModel:
    """Divide the model of rank 0, which lies on the CPU, among the ranks, one parameter after the other, in float32: a
    model that trained in 16 bits predicts with its exact weights here, too. A collective."""
    # The recipe's own file may say how much is gathered ahead; what a step needs besides is not built.
    zero = {**base_config(engine_part)["zero_optimization"], "memory_efficient_linear": False}
    zero.pop("offload_param", None)
    config = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
    ties = any(model.head(name).ties_embeddings for name in model.specs)
    partition_parameters(model, engine_part.model_copy(update={"dtype": "fp32"}), config)
    if ties:  # the head reads the word embeddings outside the module that owns them
        deepspeed.zero.register_external_parameter(model, model.word_embedding)
    engine, *_ = deepspeed.initialize(model=model.requires_grad_(False), config=config)
    # DeepSpeed leaves its own linear function in torch, which rounds otherwise and saves memory of backward passes.
    nn.functional.linear = LINEAR
    torch.nn.Module.eval(engine)
    return ShardedModel(engine)
