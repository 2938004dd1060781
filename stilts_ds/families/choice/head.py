"""One score for each candidate's row; the loss is over the candidates of a question."""

from __future__ import annotations

import torch
from torch.nn import functional

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, SentenceHead
from stilts_ds.rows.batch import Targets


class ChoiceHead(SentenceHead):
    """Logits [n * width, 1] of n questions, their candidates one after the other."""

    def losses(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        # In float32: a softmax in half precision would round away small differences between candidates.
        by_question = logits.float().reshape(-1, self.spec.width)
        return functional.cross_entropy(by_question, targets.gold, reduction="none")


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return ChoiceHead(spec, shape, outputs=1)
