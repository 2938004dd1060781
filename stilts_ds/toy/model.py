"""Writes the tiny XLM-R: a randomly initialised encoder with its tokenizer, to be pretrained by the MLM phase."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from stilts_ds.run_dir import read_json, write_json
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


def write_shape(folder: Path, tokenizer_of: Path, hidden: int, layers: int, vocabulary: int, seed: int = 1) -> None:
    """A random encoder of another shape, with heads of 64 channels and a tiny model's tokenizer: for benchmarks, where
    the weights do not matter. Its vocabulary has at least the tokenizer's pieces."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_of, trust_remote_code=False)
    config = tiny_config(tokenizer)
    config.update({
        "vocab_size": max(vocabulary, len(tokenizer)), "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64, "intermediate_size": 4 * hidden,
    })  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = XLMRobertaModel(config, add_pooling_layer=False)
    tokenizer.save_pretrained(folder)
    encoder.save_pretrained(folder)


def add_characters(folder: Path, characters: str, seed: int) -> None:
    """Give a tiny model pieces for characters that its text has not, with random embeddings: code is written in them.

    `<mask>` stays the last id, as in XLM-R, and every other piece keeps its own: what a text without these characters
    is tokenised to does not change.
    """
    file = folder / "tokenizer.json"
    state = read_json(file)
    pieces, mask = state["model"]["vocab"], state["added_tokens"][-1]
    before = len(pieces)
    for character in characters:
        pieces.setdefault(character, len(pieces))
    mask["id"] = len(pieces)
    file.write_text(json.dumps(state, ensure_ascii=False, indent=2), "utf-8")

    weights = load_file(folder / "model.safetensors")
    # Under another name where the model has its language modelling head, whose bias has a value a piece.
    [name] = [name for name in weights if name.endswith("embeddings.word_embeddings.weight")]
    words = weights[name]
    config = read_json(folder / "config.json")
    # Drawn as the model's other embeddings were before they were trained.
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(pieces) - before, words.shape[1], generator=draw) * config["initializer_range"]
    weights[name] = torch.cat([words[:before], rows.to(words.dtype), words[before:]])
    if "lm_head.bias" in weights:
        bias = weights["lm_head.bias"]
        weights["lm_head.bias"] = torch.cat([bias[:before], bias.new_zeros(len(rows)), bias[before:]])
    config["vocab_size"] = len(weights[name])
    write_json(folder / "config.json", config)
    # transformers refuses a file whose metadata name no format.
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
