"""The language modelling head of the tiny XLM-R: kept from its pretraining, or trained for an encoder that has none.

With it masked language modelling goes on where pretraining ended; a new head would first teach the encoder its own
errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, XLMRobertaForMaskedLM

from stilts_ds.run_dir import read_json, write_json
from stilts_ds.toy.tokenizer import world_lines

# Parameters of XLM-R's head; the decoder is the word embeddings.
LANGUAGE_HEAD = ("dense.weight", "dense.bias", "layer_norm.weight", "layer_norm.bias", "bias")
MASKED = 0.15  # share of the tokens that are foreseen, of which 80 % are masked, 10 % other ones, as in XLM-R
ROW = 96  # tokens


def save_with_head(folder: Path, head: Mapping[str, Tensor]) -> None:
    """Write a tiny model's folder anew with a head, as XLM-R's own checkpoints have it: `roberta.*` and `lm_head.*`, in
    bfloat16. Pieces that came later than `head` have a bias of 0."""
    encoder = load_file(folder / "model.safetensors")
    model: Any = masked_model(folder, encoder)
    with torch.no_grad():
        for name in LANGUAGE_HEAD:
            # In place: the bias stays the one that the decoder is tied to.
            model.lm_head.get_parameter(name)[: len(head[name])].copy_(head[name].float())
    # The parameters are float32: what transformers would say of the file, the file's own types say.
    model.to(torch.bfloat16).save_pretrained(folder)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "dtype": "float32"})


def train_head(folder: Path, world: Path, steps: int = 400, batch: int = 64, rate: float = 2e-3) -> dict[str, Tensor]:
    """A head for a tiny model whose encoder stays as it is: AdamW on masked text of a world, the rate falling to 0.
    Returns its weights by XLM-R's names."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    draw = np.random.default_rng(0)
    rows = tokenizer(world_lines(world), truncation=True, max_length=ROW)["input_ids"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = masked_model(folder, load_file(folder / "model.safetensors")).eval()
        parameters = [p for p in model.lm_head.parameters() if p is not model.lm_head.decoder.weight]
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        for _ in range(steps):
            chosen = [rows[i] for i in draw.integers(0, len(rows), batch)]
            ids, gold, attends = masked_batch(chosen, tokenizer, draw)
            with torch.no_grad():
                hidden = model.roberta(ids, attention_mask=attends).last_hidden_state[gold >= 0]
            loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), gold[gold >= 0])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: model.lm_head.get_parameter(name).detach() for name in LANGUAGE_HEAD}


def masked_model(folder: Path, encoder: Mapping[str, Tensor]) -> Any:
    """XLM-R with a new head over an encoder's weights, by their names without a prefix."""
    model: Any = XLMRobertaForMaskedLM(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    plain = {name.removeprefix("roberta."): value.float() for name, value in encoder.items() if "lm_head" not in name}
    model.roberta.load_state_dict(plain)
    model.tie_weights()
    return model


def masked_batch(
    rows: Sequence[Sequence[int]], tokenizer: Any, draw: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids [B, W] of rows padded to the longest, gold ids where a token is foreseen (else -1), and which are rows."""
    width = max(map(len, rows))
    ids = np.full((len(rows), width), tokenizer.pad_token_id)
    for row, of_row in zip(ids, rows):
        row[: len(of_row)] = of_row
    words = ~np.isin(ids, tokenizer.all_special_ids)
    foreseen = words & (draw.random(ids.shape) < MASKED)
    gold = np.where(foreseen, ids, -1)
    kind = draw.random(ids.shape)
    others = draw.integers(len(tokenizer.all_special_ids), len(tokenizer) - 1, ids.shape)
    hidden = np.where(kind < 0.8, tokenizer.mask_token_id, np.where(kind < 0.9, others, ids))
    attends = torch.from_numpy(ids != tokenizer.pad_token_id)
    return torch.from_numpy(np.where(foreseen, hidden, ids)), torch.from_numpy(gold), attends
