"""What each rank gets of a model whose weights lie where rank 0 looks: `weight_ranks.py MODEL NAKED_MODEL DTYPE STAGE`.

NAKED_MODEL is the folder of the other ranks, without weights. Rank 0 prints a line of JSON a rank: hashes of the
encoder that evaluation predicts with, and of the weights that a training of DTYPE at STAGE works on.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from stilts_ds.config import EnginePart, ModelPart, TrainingPart
from stilts_ds.engine.weights import encoder_of_ranks, send_weights
from stilts_ds.engine.world import World, joined
from stilts_ds.engine.zero import build_engine, destroy_engine
from stilts_ds.engine.zero_state import whole_state
from stilts_ds.families.build import build_model
from stilts_ds.model.heads import HeadSpec


def digest(tensors: Iterable[torch.Tensor]) -> str:
    values = hashlib.sha256()
    for tensor in tensors:
        values.update(tensor.detach().contiguous().numpy().tobytes())
    return values.hexdigest()


def trained_weights(encoder: Any, dtype: str, stage: int, world: World) -> str:
    """Hash of the float32 weights of the encoder that Adam starts from."""
    part = EnginePart.model_validate({"dtype": dtype, "zero_stage": stage})
    setting = TrainingPart(train_batch_size=world.size, per_device_train_batch_size=1)
    model = build_model(encoder, [HeadSpec("nli", "pair", ("a", "b"))], 1)
    engine = build_engine(model, part, setting, world, 1)
    encoder_parameters = [
        whole_state(engine, parameter, ("weight",))["weight"].float()
        for name, parameter in engine.module.named_parameters()
        if name.startswith("encoder.")
    ]
    destroy_engine(engine)
    return digest(encoder_parameters)


def main() -> None:
    source = Path(sys.argv[1] if os.environ["RANK"] == "0" else sys.argv[2])
    dtype, stage = sys.argv[3], int(sys.argv[4])
    with joined("weights", 60) as world:
        encoder = encoder_of_ranks(source, ModelPart(), None, dtype, world)
        packs = encoder.config._attn_implementation
        send_weights(encoder, world)
        predicts = digest([*encoder.parameters(), *encoder.buffers()])
        again = encoder_of_ranks(source, ModelPart(), None, dtype, world)
        trains = trained_weights(again, dtype, stage, world)
        for of_rank in world.gather({"packs": packs, "predicts": predicts, "trains": trains}):
            print(json.dumps(of_rank), flush=True)


main()
