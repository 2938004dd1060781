"""One tower for queries and candidates: pooler, unit length, one learned scale; and the search among its vectors.

Shapes: n queries of a batch, each with its right candidate; H hidden size; N queries and M candidates of a search.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import stilts_kernels
import torch
from torch import Tensor, nn
from torch.nn import functional

from stilts_ds.model.heads import Head, HeadShape, HeadSpec
from stilts_ds.rows.batch import Targets

INITIAL_SCALE = 100.0
CELLS = 1 << 22  # scores held at a time, in float64


class DualEncoderHead(Head):
    """Dense and tanh of the first token (BERT's pooler), scaled to length 1: [m, H] to [m, H + 1].

    The last column is the scale, so that it is read where ZeRO-3 has gathered it. Rows are query, candidate, query, ...
    """

    def __init__(self, spec: HeadSpec, shape: HeadShape) -> None:
        super().__init__(spec)
        self.dense = nn.Linear(shape.hidden, shape.hidden)
        self.scale = nn.Parameter(torch.full((1,), INITIAL_SCALE))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.constant_(self.scale, INITIAL_SCALE)

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.tanh(self.dense(features)).float()
        vectors = functional.normalize(pooled, dim=1)
        return torch.cat([vectors, self.scale.float().expand(len(vectors), 1)], 1)

    def losses(self, logits: Tensor, targets: Targets) -> Tensor:
        """In-batch softmax from query to candidate, float32 [n]: cross-entropy of scale * Q A^T against the diagonal.

        A query chooses among the candidates of its own pool (`targets.pool` [n]), whatever else is in the batch
        (Chidambaram et al. 2018; XTREME-R's run_retrieval_qa.py). Queries learn; candidates have no softmax of theirs.
        """
        pairs = logits.float().reshape(-1, 2, logits.shape[1])
        queries, candidates, scale = pairs[:, 0, :-1], pairs[:, 1, :-1], pairs[:, 0, -1:]
        scores = scale * (queries @ candidates.T)
        if targets.pool is not None:
            strangers = targets.pool[:, None] != targets.pool[None, :]
            scores = scores.masked_fill(strangers, float("-inf"))
        return -functional.log_softmax(scores, 1).diagonal()


def build(spec: HeadSpec, shape: HeadShape) -> Head:
    return DualEncoderHead(spec, shape)


# --- search ----------------------------------------------------------------------------------------------------------


def as_tensors(*sides: np.ndarray) -> list[Tensor]:
    """Vectors [N, H] as the search takes them, float32."""
    return [torch.from_numpy(np.ascontiguousarray(side, np.float32)) for side in sides]


def nearest(queries: Tensor, candidates: Tensor, k: int) -> Tensor:
    """The k candidates of highest inner product for each query, best first, int64 [N, min(k, M)].

    Exact and streamed; equal scores keep the lower index first. `queries` [N, H] and `candidates` [M, H] are float32.
    """
    return stilts_kernels.topk(queries, candidates, min(k, len(candidates))).indices


def ranks_of(queries: Tensor, candidates: Tensor, right: Sequence[Sequence[int]]) -> list[list[int]]:
    """The rank (from 1) of each query's right candidates among all M, by the rule of `nearest`.

    Scores are formed in float64 for a block of queries at a time, and dropped. `right[i]` are indices of candidates.
    """
    bank = candidates.double().T
    order = torch.arange(len(candidates))
    step = max(1, CELLS // max(1, len(candidates)))
    ranks: list[list[int]] = []
    for first in range(0, len(queries), step):
        scores = queries[first : first + step].double() @ bank
        for row, indices in zip(scores, right[first : first + step]):
            wanted = torch.tensor(list(indices), dtype=torch.long)
            value = row[wanted][:, None]
            # A candidate stands behind all of higher score, and behind equal ones of lower index.
            ahead = (row > value) | ((row == value) & (order < wanted[:, None]))
            ranks.append((1 + ahead.sum(1)).tolist())
    return ranks
