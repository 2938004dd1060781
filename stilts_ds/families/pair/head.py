"""A score for each label, from a row's sentence token."""

from __future__ import annotations

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, SentenceHead


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return SentenceHead(spec, shape, outputs=len(spec.labels))
