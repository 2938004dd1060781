"""Writes the tiny XLM-R: a randomly initialised encoder with its tokenizer, to be pretrained by the MLM phase."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from stilts_ds.toy.tokenizer import MAX_LENGTH, train_tokenizer, world_lines


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> XLMRobertaConfig:
    """XLM-R's architecture in miniature; positions count from pad + 1, hence two more than the length."""
    return XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH + 2,
        type_vocab_size=1,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )


def write_tiny_model(world: Path, folder: Path, seed: int, pieces: int = 900) -> None:
    """Train the tokenizer on a world's text and write it beside a random encoder; `AutoModel` loads it."""
    tokenizer = train_tokenizer(world_lines(world), pieces)
    # The caller's random state is as it was afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Without the pooler, which no head here reads: each brings a layer of its own.
        encoder = XLMRobertaModel(tiny_config(tokenizer), add_pooling_layer=False)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
