"""Exact cross-lingual similarity search that never holds the score matrix: top-k and margin mining.

    from stilts_kernels import topk, mine
    values, indices = topk(queries, bank, k=4, metric="cosine")
    pairs = mine(source, target, k=4, margin="ratio", retrieval="max")

CPU tensors are screened in low precision and proven (`topk.cpu`), CUDA tensors go through a fused Triton kernel
(`topk.cuda`), many ranks and files through `mining.ranks` and `mining.files`. Every path returns the same thing: the k
largest canonical scores (`common.canonical`), equal scores keeping the lower index first. Needs torch; triton only for
CUDA; mpi4py only for MPI.

`topk` is a function here and the name of the package it stands on: `from stilts_kernels.topk import cpu` finds the
package, `stilts_kernels.topk(...)` is the function.
"""

from __future__ import annotations

from stilts_kernels.common.ranking import TopK
from stilts_kernels.common.report import Report, last_report
from stilts_kernels.common.rows import mean_pool_packed, normalize
from stilts_kernels.dispatch import mine, topk
from stilts_kernels.mining.match import MinedPairs
from stilts_kernels.topk.cpu import Index

__all__ = ["Index", "MinedPairs", "Report", "TopK", "last_report", "mean_pool_packed", "mine", "normalize", "topk"]
