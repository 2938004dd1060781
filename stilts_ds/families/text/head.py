"""Scores over the vocabulary for each masked token, decoded with the word embeddings."""

from __future__ import annotations

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, MaskedLanguageModelHead


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return MaskedLanguageModelHead(spec, shape)
