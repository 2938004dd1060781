"""One number from a row's sentence token."""

from __future__ import annotations

import torch

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, SentenceHead
from stilts_ds.rows.batch import Targets


class NumberHead(SentenceHead):
    """A sentence head with one output, whose loss is the squared difference from the gold number."""

    def losses(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Squared errors in float32, [n]."""
        # Gold holds the bits of float32 numbers (rows.py).
        gold = targets.gold.to(torch.int32).view(torch.float32)
        return (logits[:, 0].float() - gold) ** 2


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return NumberHead(spec, shape, outputs=1)
