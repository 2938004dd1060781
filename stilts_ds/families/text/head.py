"""Scores over the vocabulary: for masked tokens where a model sees both ways, for the next token where it sees left."""

from __future__ import annotations

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, MaskedLanguageModelHead, NextTokenHead


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    if shape.sees == "left":
        return NextTokenHead(spec, shape)
    return MaskedLanguageModelHead(spec, shape)
