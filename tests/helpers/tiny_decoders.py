"""Tiny decoders with random weights, a tokenizer that adds no special tokens, and their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as T
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from stilts_ds.toy.tokenizer import world_lines

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "initializer_range": 0.3,  # weights as large as trained ones, so that faults show
}
SHARED: dict[str, Any] = {**SIZES, "num_key_value_heads": 2}  # grouped-query attention
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
WINDOWS = ["sliding_attention", "sliding_attention", "full_attention"]


def config(kind: str, vocabulary: int = 200, **more: Any) -> Any:
    """A small configuration of a kind; rows of the tests are longer than its windows of attention."""
    if kind == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
        return T.GPT2Config(**{"vocab_size": vocabulary, **sizes, **more})
    known: dict[str, tuple[Any, dict[str, Any]]] = {
        "llama": (T.LlamaConfig, SHARED),
        "qwen2": (T.Qwen2Config, SHARED),
        "qwen2, window": (T.Qwen2Config, {**SHARED, **QWEN_WINDOW}),
        "qwen3": (T.Qwen3Config, {**SHARED, "head_dim": 16, "tie_word_embeddings": True}),
        "gpt_neox": (T.GPTNeoXConfig, SIZES),
        "gemma": (T.GemmaConfig, {**SIZES, "num_key_value_heads": 1, "head_dim": 16}),
        "gemma2": (T.Gemma2Config, {**SHARED, "head_dim": 8, "sliding_window": 8}),
        "gemma3": (T.Gemma3TextConfig, {**SHARED, "head_dim": 8, "sliding_window": 8, "layer_types": WINDOWS}),
        "mistral": (T.MistralConfig, {**SHARED, "sliding_window": 8}),
        "olmo2": (T.Olmo2Config, SHARED),
        "phi3": (T.Phi3Config, SHARED),
        "smollm3": (T.SmolLM3Config, SHARED),
        "xglm": (T.XGLMConfig, {"d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64, "init_std": 0.3}),
    }
    kind_class, sizes = known[kind]
    given = {"vocab_size": vocabulary, "max_position_embeddings": 128, "pad_token_id": None, **sizes, **more}
    return kind_class(**given)


PADDED = ("gemma2", "xglm")  # caps its scores; has attention of its own: programs are refused
KINDS = (
    *("gpt2", "gpt_neox", "llama", "qwen2", "qwen2, window", "qwen3", "gemma", "gemma3"),
    *("mistral", "olmo2", "phi3", "smollm3", *PADDED),
)


def plain_tokenizer(lines: list[str], pieces: int = 400, **names: str) -> Any:
    """A byte-level BPE as GPT-2's: nothing around a text, and one token that ends it."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    specials = [*names.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=specials, show_progress=False, initial_alphabet=alphabet
    )
    backend.train_from_iterator(lines, trainer)
    return T.PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def save_model(kind: str, folder: Path, vocabulary: int = 200, **more: Any) -> Any:
    """Write a language model of a kind with random weights; returns it in evaluation mode."""
    torch.manual_seed(0)
    model = T.AutoModelForCausalLM.from_config(config(kind, vocabulary, **more)).eval()
    model.save_pretrained(folder)
    return model


def save_with_tokenizer(kind: str, folder: Path, world: Path, pieces: int = 400, **more: Any) -> None:
    """A model and a tokenizer of a toy world's text."""
    tokenizer = plain_tokenizer(world_lines(world), pieces, eos_token="<|endoftext|>")
    save_model(kind, folder, len(tokenizer), eos_token_id=tokenizer.eos_token_id, bos_token_id=None, **more)
    tokenizer.save_pretrained(folder)
