"""Speed of an encoder's forward and backward pass with and without compiled layers, on one thread of a CPU.

    python tests/helpers/programs/compiled_layers.py MODEL

Rows of 16 to 95 tokens, 32 a batch, packed, with the model's own dropout; real tokens per CPU second.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch

from stilts_ds.config import ModelPart
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.encoder import compile_layers, load_encoder
from stilts_ds.rows.batch import Batch


def batch(seed: int) -> Batch:
    dice = torch.Generator().manual_seed(seed)
    lengths = tuple(sorted(torch.randint(16, 96, (32,), generator=dice).tolist(), reverse=True))
    row = torch.repeat_interleave(torch.arange(32), torch.tensor(lengths))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    position = torch.arange(len(row)) - offsets[row]
    ids = torch.randint(10, 5000, (len(row),), generator=dice)
    return Batch(ids, torch.zeros_like(ids), row, position, offsets, lengths)


def step(encoder: Any, rows: Batch) -> None:
    Backbone(encoder).packed(rows).float().square().mean().backward()
    encoder.zero_grad()


def speed(encoder: Any, batches: list[Batch]) -> float:
    for rows in batches[:2]:
        step(encoder, rows)
    begun = time.process_time()
    for rows in batches[2:]:
        step(encoder, rows)
    return sum(len(rows.input_ids) for rows in batches[2:]) / (time.process_time() - begun)


def main(model: str) -> None:
    torch.set_num_threads(1)
    batches = [batch(seed) for seed in range(8)]
    for dtype in (torch.float32, torch.bfloat16):
        torch._dynamo.reset()
        encoder = load_encoder(model, ModelPart(name_or_path=model)).to(dtype).train()
        encoder.get_input_embeddings().requires_grad_(False)
        plain = speed(encoder, batches)
        compile_layers(encoder)
        begun = time.perf_counter()
        step(encoder, batches[0])
        seconds = time.perf_counter() - begun
        compiled = speed(encoder, batches)
        print(
            f"{dtype}: {plain:.0f} tokens/s, compiled {compiled:.0f} ({compiled / plain:.2f} times); "
            f"compiling took {seconds:.0f} s"
        )


if __name__ == "__main__":
    main(sys.argv[1])
