"""Scores of the next token over the vocabulary, by the head that a pretrained model fills its masks or goes on with."""

from __future__ import annotations

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, MaskedLanguageModelHead, NextTokenHead


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    if shape.sees == "left":
        return NextTokenHead(spec, shape, in_chunks=True)
    return MaskedLanguageModelHead(spec, shape, in_chunks=True)
