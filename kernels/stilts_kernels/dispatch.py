"""`topk` and `mine` of this package: one machine, and the path that the device of the tensors asks for.

Not in `__init__.py`: there documentation tools take `topk` for the package of that name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stilts_kernels.common.ranking import TopK
from stilts_kernels.common.rows import Rows, check_matrix, is_cosine
from stilts_kernels.mining.match import MinedPairs
from stilts_kernels.mining.two_way import mine_cpu, mine_cuda
from stilts_kernels.topk.cpu import DEFAULT_MEMORY, Index, topk_cpu


@torch.no_grad()
def topk(queries: Tensor, bank: Tensor | Index, k: int, metric: str = "inner", memory: int = DEFAULT_MEMORY) -> TopK:
    """The k best rows of bank [N, D] for every row of queries [Q, D]: values float32 [Q, k], indices int64 [Q, k].

    Exact: the values are float64 dot products rounded to float32, ranked before rounding; ties keep the lower index.
    `metric` "cosine" scales rows to unit length first. An `Index` is a bank prepared once for many searches.
    `memory` bounds scratch bytes on a CPU. Raises ValueError for NaN, infinite or (cosine) zero rows, an empty side,
    k outside 1..N, different D or devices, or dtypes other than float32, bfloat16 and float16.
    """
    # Not `bank.is_cuda`: what is no tensor at all is refused by name in the CPU path.
    on_gpu = bank.on_gpu if isinstance(bank, Index) else getattr(bank, "is_cuda", False)
    if not on_gpu:
        return topk_cpu(queries, bank, k, metric, memory=memory)
    # Imported here: triton is missing or useless on machines without a GPU.
    from stilts_kernels.topk.cuda import topk_cuda

    check_matrix(queries, "queries")
    if isinstance(bank, Index):
        rows, prepared = bank.rows, bank.fused
    else:
        rows, prepared = Rows(bank, "bank", is_cosine(metric)), None
    values, indices = topk_cuda(Rows(queries, "queries", rows.unit), rows, k, prepared)
    return TopK(values.float(), indices)


@torch.no_grad()
def mine(
    source: Tensor,
    target: Tensor,
    k: int = 4,
    margin: str = "ratio",
    retrieval: str = "max",
    metric: str = "cosine",
    memory: int = DEFAULT_MEMORY,
) -> MinedPairs:
    """Pairs of translations among source [Q, D] and target [N, D], best margin first (see `mining`).

    k neighbours each way, both from one pass over the scores. Raises ValueError as `topk` does, for either direction.
    """
    # Not `target.is_cuda`: what is no tensor at all is refused by name in the CPU path.
    if getattr(target, "is_cuda", False):
        return mine_cuda(source, target, k, margin, retrieval, metric)
    return mine_cpu(source, target, k, margin, retrieval, metric, memory)
