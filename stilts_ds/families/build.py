"""Heads and models from their descriptions: the one place that imports the families' head.py."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from stilts_ds.families.registry import get_family
from stilts_ds.model.dropout import hidden_dropout
from stilts_ds.model.heads import Head, HeadShape, HeadSpec
from stilts_ds.model.multitask import MultiTask


def build_head(spec: HeadSpec, shape: HeadShape) -> Head:
    """A head with new weights."""
    head: Head = import_module(get_family(spec.family).trained.module).build(spec, shape)
    head.reset_parameters()
    return head


def build_model(encoder: Any, specs: Sequence[HeadSpec], tasks: int) -> MultiTask:
    """The encoder with new heads. They are made in the order of their names, which random weights depend on."""
    shape = head_shape(encoder)
    heads = {spec.name: build_head(spec, shape) for spec in sorted(specs, key=lambda spec: spec.name)}
    return MultiTask(encoder, heads, tasks)


def head_shape(encoder: Any) -> HeadShape:
    """What heads take from an encoder."""
    config = encoder.config
    return HeadShape(
        hidden=config.hidden_size,
        embedding=int(encoder.get_input_embeddings().weight.shape[1]),
        dropout=hidden_dropout(config),
        vocabulary=config.vocab_size,
        epsilon=float(getattr(config, "layer_norm_eps", 1e-5)),
    )
