"""`model.dropout` under the names that encoders give it."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

DROPOUT = re.compile(r"dropout|pdrop")
# Heads of transformers, which are not used, and whole layers or tokens that are left out at random.
OTHERS = re.compile(r"classif|summary|pooler|^qa_|^seq_|layerdrop|token_dropout")
# Which of a configuration's rates the heads take: hidden dropout where there is one.
HIDDEN = (
    "hidden_dropout_prob",
    "hidden_dropout",
    "dropout",
    "dropout_rate",
    "resid_pdrop",
    "mlp_dropout",
    "embedding_dropout",
    "attention_dropout",
)
BERTS = 0.1  # for an encoder without any dropout


def dropout_keys(config: Any) -> list[str]:
    """The keys of a configuration that hold hidden and attention dropout."""
    values = config.to_dict()
    return [
        key
        for key, value in values.items()
        if DROPOUT.search(key) and not OTHERS.search(key) and type(value) in (int, float)
    ]


def set_dropout(config: Any, rate: float) -> None:
    for key in dropout_keys(config):
        setattr(config, key, rate)


def has_dropout(model: Any) -> bool:
    """Whether a model, its heads included, drops anything in training."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    config = model.encoder.config
    return any(getattr(config, key) > 0 for key in dropout_keys(config))


def hidden_dropout(config: Any) -> float:
    """The rate that heads take from an encoder."""
    rates = (getattr(config, key, None) for key in HIDDEN)
    return float(next((rate for rate in rates if rate is not None), BERTS))
