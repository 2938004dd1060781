"""What dropout masks cost on one thread of a CPU: torch's, those of counters, and none.

    python tests/helpers/programs/dropout_cost.py [LAYERS]

CPU nanoseconds an element of dropout alone, forward and with its backward pass; then CPU seconds of a forward and
backward pass of an encoder of hidden size 384 on 32 packed rows of 16 to 95 tokens. The best of several each.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from compiled_layers import batch
from stilts_kernels.dropout.function import dropout
from torch.nn import functional
from transformers import XLMRobertaConfig, XLMRobertaModel

from stilts_ds.model.backbone import Backbone
from stilts_ds.model.encoder import pack
from stilts_ds.model.masks import Masks, row_keys

RATE = 0.1
SHAPES = {"hidden states": (1800, 1, 384), "attention": (12 * 32, 56, 56)}


def best_seconds(work: Mapping[str, Callable[[], Any]], times: int) -> dict[str, float]:
    """CPU seconds of each, the best of so many turns: another process on the machine costs all of them alike."""
    seconds = dict.fromkeys(work, float("inf"))
    for _ in range(times):
        for name, run in work.items():
            begun = time.process_time()
            run()
            seconds[name] = min(seconds[name], time.process_time() - begun)
    return seconds


def elements(shape: tuple[int, int, int], dtype: torch.dtype) -> str:
    x, upper = torch.randn(shape).to(dtype).requires_grad_(), torch.randn(shape).to(dtype)
    keys = torch.randint(2**62, (shape[0],))
    ways = {"torch": lambda: functional.dropout(x, RATE), "counters": lambda: dropout(x, keys, 0, RATE)}
    both = {f"{name}, both ways": lambda way=way: way().backward(upper) for name, way in ways.items()}
    seconds = best_seconds(ways | both, times=15)
    return "; ".join(f"{name} {1e9 * spent / x.numel():.1f} ns" for name, spent in seconds.items())


def step(layers: int, dtype: torch.dtype) -> str:
    config = XLMRobertaConfig(
        vocab_size=5100,
        hidden_size=384,
        num_hidden_layers=layers,
        num_attention_heads=12,
        intermediate_size=1536,
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
    )
    encoder: Any = XLMRobertaModel(config, add_pooling_layer=False)
    pack(encoder, "encoder")
    encoder.to(dtype)
    backbone, rows, masks = Backbone(encoder), batch(1), Masks()
    rows.mask_keys = row_keys(0, 0, [(row, 0) for row in range(len(rows.lengths))])

    def run(training: bool, counters: bool) -> None:
        encoder.train(training).zero_grad()
        if counters:
            with masks.of(rows, packed=True):
                hidden = backbone.hidden_states(rows, masks=masks)
        else:
            hidden = backbone.hidden_states(rows)
        hidden.float().square().mean().backward()

    ways = {"torch": (True, False), "counters": (True, True), "none": (False, False)}
    seconds = best_seconds({name: lambda way=way: run(*way) for name, way in ways.items()}, times=4)
    tokens = len(rows.input_ids)
    shares = {name: 1 - seconds["none"] / spent for name, spent in seconds.items()}
    told = "; ".join(f"{name} {spent:.3f} s ({100 * shares[name]:.0f} %)" for name, spent in seconds.items())
    return f"{layers} layers, {tokens} tokens: {told}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape in SHAPES.items():
            print(f"{dtype} {name}: {elements(shape, dtype)}", flush=True)
    for dtype in (torch.float32, torch.bfloat16):
        print(f"{dtype} {step(int(sys.argv[1]) if len(sys.argv) > 1 else 12, dtype)}", flush=True)
