"""Two scores for each token of a window: where the answer starts and where it ends."""

from __future__ import annotations

import torch
from torch.nn import functional

from stilts_ds.model.heads import Head, HeadShape, HeadSpec, TokenHead
from stilts_ds.rows.batch import Targets


class SpanHead(TokenHead):
    """Logits [m, 2] of windows one after the other."""

    def losses(self, logits: torch.Tensor, targets: Targets) -> torch.Tensor:
        """The mean of the start's and the end's cross-entropy over the tokens of each window, float32 [n]."""
        # A softmax over each window's own tokens: an answer is chosen inside a window, not among all of a batch.
        table = by_window(logits.float(), targets)
        start = functional.cross_entropy(table[..., 0], targets.gold[:, 0], reduction="none")
        return (start + functional.cross_entropy(table[..., 1], targets.gold[:, 1], reduction="none")) / 2

    def no_targets(self, device: torch.device) -> Targets:
        none = torch.zeros(0, dtype=torch.long, device=device)
        pairs = none.reshape(0, 2)
        return Targets(none, pairs, torch.zeros(0, device=device), none, pairs)


def by_window(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Logits of windows one after the other [m, 2] as a table [n, longest, 2]; no token can be chosen behind an end."""
    assert targets.cells is not None
    table = logits.new_full((len(targets.gold), targets.longest, 2), torch.finfo(logits.dtype).min)
    return table.index_put((targets.cells[:, 0], targets.cells[:, 1]), logits)


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return SpanHead(spec, shape, outputs=2)
