"""Heads and models from their descriptions: the one place that imports the families' head.py."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from stilts_ds.families.registry import get_family
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.heads import Head, HeadShape, HeadSpec
from stilts_ds.model.multitask import MultiTask


def build_head(spec: HeadSpec, shape: HeadShape) -> Head:
    """A head with new weights."""
    verbs = get_family(spec.family).verbs(shape.sees)
    # Imported by name and late: the registry is read where there is no torch.
    head: Head = import_module(verbs.module).build(spec, shape)
    head.reset_parameters()
    return head


def build_model(encoder: Any, specs: Sequence[HeadSpec], tasks: int) -> MultiTask:
    """The encoder or decoder with new heads. They are made in the order of their names, which random weights depend
    on."""
    backbone = Backbone(encoder)
    shape = backbone.head_shape()
    heads = {spec.name: build_head(spec, shape) for spec in sorted(specs, key=lambda spec: spec.name)}
    return MultiTask(backbone, heads, tasks)
