"""What kind of network a configuration describes: which way its tokens see. No torch, since rows and plans ask too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from stilts_ds.errors import UserError

# Which tokens of its row a token sees: `both` sides of it (encoders) or what stands `left` of it and itself (decoders).
Sees = Literal["both", "left"]
SentenceToken = Literal["first", "last"]

# Decoders by model type, and whether their output layer is the word embeddings where config.json does not say.
# A type that is missing here counts as an encoder; what it does when it is loaded decides (model/checks.py).
DECODERS: Mapping[str, bool] = {
    "gemma": True,
    "gemma2": True,
    "gemma3_text": True,
    "gpt2": True,
    "gpt_neox": False,
    "llama": False,
    "mistral": False,
    "olmo2": False,
    "phi3": False,
    "qwen2": False,
    "qwen3": False,
    "smollm3": True,
    "xglm": True,
}

# Decoders whose feed-forward part has a gate: a second matrix of the same size, whose output multiplies the first's.
GATED = frozenset(DECODERS) - {"gpt2", "gpt_neox", "xglm"}


def sees_of(config: Mapping[str, Any]) -> Sees:
    """Which way the tokens of a model with this config.json see, as it claims."""
    if config.get("model_type") not in DECODERS:
        return "both"
    # Gemma's embedding models are its decoder without the causal mask.
    return "both" if config.get("use_bidirectional_attention") else "left"


def sentence_token(sees: Sees) -> SentenceToken:
    """Which token of a row stands for it: the first of a decoder's row has seen nothing but itself."""
    return "first" if sees == "both" else "last"


def ties_output(config: Mapping[str, Any]) -> bool:
    """Whether a decoder's output layer is its word embeddings, and no matrix of its own."""
    return bool(config.get("tie_word_embeddings", DECODERS.get(str(config.get("model_type")), True)))


def encoder_decoder(name: object, kind: object) -> UserError:
    """The refusal of a model whose hidden states are those of a decoder beside its encoder."""
    return UserError(
        f"{name} ({kind}): it is an encoder-decoder, whose hidden states are its decoder's; use an encoder such as "
        "xlm-roberta-base, or a decoder"
    )
