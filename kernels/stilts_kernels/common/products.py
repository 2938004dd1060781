"""Products of float32 rows on a CPU, by the library that multiplies them fastest: torch's BLAS, or oneDNN.

Which of them it is depends on the processor and on torch's build: MKL leaves a tenth to a quarter of the rate of some
AMD processors. oneDNN is quick where one side is packed once and multiplied often, as the queries of a search are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from stilts_kernels.common.report import log

TRIALS = 6  # products timed of each library, in turn: some 40 ms in all, once
QUERIES, ROWS, DIM = 512, 512, 512


def multiply(rows: Tensor, queries: Tensor, out: Tensor | None = None) -> Tensor:
    """Scores [N, Q] of rows [N, D] with queries [Q, D], packed or not. What is not packed is written to `out`."""
    if not queries.is_mkldnn:
        return torch.mm(rows, queries.T, out=out)
    return torch.ops.mkldnn._linear_pointwise(rows, queries, None, "none", [], "")


def pack(queries: Tensor) -> Tensor:
    """The queries [Q, D] as `multiply` is fastest with them: a packed copy, or themselves."""
    # The trial was of float32 on a CPU; bfloat16 goes to oneDNN anyway.
    if queries.dtype == torch.float32 and queries.device.type == "cpu" and packing_pays():
        return packed(queries)
    return queries


def packed(queries: Tensor) -> Tensor:
    """The copy that oneDNN multiplies by."""
    return torch.ops.mkldnn._reorder_linear_weight(queries, ROWS)


def can_pack() -> bool:
    """Whether this build of torch has oneDNN and the two operators, which only its own compiler calls otherwise."""
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)


@lru_cache
def packing_pays() -> bool:
    """Whether oneDNN won a short timed trial."""
    if not can_pack():
        return False
    rows, queries = (torch.ones(count, DIM, dtype=torch.float32, device="cpu") for count in (ROWS, QUERIES))
    sides = {"BLAS": queries, "oneDNN": packed(queries)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    # In turn, so that other work on the machine slows both alike; the first products load what they need.
    for _ in range(TRIALS):
        for name, side in sides.items():
            seconds[name].append(cpu_seconds(partial(multiply, rows, side)))
    gflop = 2e-9 * QUERIES * ROWS * DIM
    rates = {name: gflop / min(times) for name, times in seconds.items()}
    log.info("float32 products timed, 10^9 operations a CPU second: %s", rates)
    return rates["oneDNN"] > rates["BLAS"]


def cpu_seconds(call: Callable[[], object]) -> float:
    # CPU time: on a shared machine, wall time would choose by the neighbours' load.
    start = time.process_time()
    call()
    return time.process_time() - start
