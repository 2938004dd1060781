"""Times the candidate configurations of the fused kernel on this GPU, behind a correctness gate, and records the best.

`stilts bench --tune` calls `tune` for every direction, D and k; searches then read the record (`topk.configs`).
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from stilts_kernels.common.report import log
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.configs import candidates, describe, device_facts, record_key, save_entry
from stilts_kernels.topk.cuda import Search, splits_for
from stilts_kernels.topk.kernel import Config, interpreted, launch
from stilts_kernels.topk.reference import topk as reference_topk
from torch import Tensor

GATE_QUERIES, GATE_ROWS = 300, 5000  # not multiples of any tile
# Enough to fill every multiprocessor many times over, so that a launch's fixed cost does not decide.
QUERIES, ROWS = 16_384, 262_144
DIMS, KS = (384, 1024), (4, 16, 64)


def tune(queries: Tensor, bank: Tensor, k: int, two_way: bool, path: Path, rounds: int = 7) -> dict[str, Any]:
    """Times every candidate on queries [Q, D] and bank [N, D], writes the fastest to the record at `path`.

    Returns the entry: config, median_ms of each candidate, why others were rejected. Raises ValueError when no
    candidate is right, RuntimeError where there is neither a GPU nor the interpreter.
    """
    need_gpu(queries)
    search = Search(Rows(queries, "queries"), Rows(bank, "bank"), k, k if two_way else 0)
    gpu, capability = device_facts(bank.device)
    # What a configuration's speed depends on; searches look it up by the same key.
    key = record_key(gpu, search.left.dtype, search.queries.dim, search.kept, two_way)
    known = candidates(capability, search.kept, two_way)
    rejected: dict[str, str] = {}
    right = []
    for config in known:
        # Before any timing: a wrong kernel is often a fast one.
        reason = why_wrong(queries, bank, k, two_way, config)
        if reason:
            rejected[describe(config)] = reason
            log.warning("tuning %s: %s rejected: %s", key, describe(config), reason)
        else:
            right.append(config)
    if not right:
        raise ValueError(f"{key}: no candidate gives the right result: {rejected}")
    medians = time_launches(search, right, rounds)
    best = min(range(len(right)), key=medians.__getitem__)
    entry = {
        "config": right[best],
        "queries": len(queries),
        "rows": len(bank),
        "rejected": rejected,
        "median_ms": {describe(config): median for config, median in zip(right, medians)},
        "tflops": 2e-9 * len(queries) * len(bank) * queries.shape[1] / medians[best],
        **versions(),
    }
    save_entry(path, key, entry)
    return {"key": key, **entry}


def need_gpu(rows: Tensor) -> None:
    if not rows.is_cuda and not interpreted():
        raise RuntimeError("tuning needs a CUDA device: its configurations are for the fused Triton kernel")


def versions() -> dict[str, str | None]:
    return {
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def why_wrong(queries: Tensor, bank: Tensor, k: int, two_way: bool, config: Config) -> str:
    """Why this configuration must not be used, or an empty string: a launch that fails, or scores unlike float64's."""
    # Edges on both sides are in it, and the reference is quick.
    queries, bank = queries[:GATE_QUERIES], bank[:GATE_ROWS]
    try:
        result = Search(Rows(queries, "queries"), Rows(bank, "bank"), k, k if two_way else 0, config=config).run()
    except Exception as error:  # too much shared memory, say; the reason goes into the record
        return f"{type(error).__name__}: {error}"
    sides = ((queries, bank), (bank, queries))
    for (left, right), (values, indices), way in zip(sides[: 1 + two_way], result, ("queries", "bank rows")):
        expected, _ = reference_topk(left, right, k)
        # The values alone could be right with wrong indices: what the indices score is computed anew.
        scores = (left.double() @ right.double().T).gather(1, indices)
        for computed in (values, scores):
            if not torch.allclose(computed, expected, rtol=1e-12, atol=1e-12):
                return f"wrong neighbours of {way}: off by {float((computed - expected).abs().max()):g}"
    return ""


def time_launches(search: Search, configs: list[Config], rounds: int) -> list[float]:
    """Median milliseconds of the kernel alone for each configuration; rounds are interleaved, one warm-up each."""
    left, right = search.left(0, search.queries.count), search.panels.maker(0, search.bank.count)
    sides = search.sides(left, right)
    times: list[list[float]] = [[] for _ in configs]
    for number in range(rounds + 1):
        # Round by round over all configurations, so that a GPU that heats up slows all of them.
        for config, seen in zip(configs, times):
            blocks, tiles = triton.cdiv(len(left), config["BM"]), triton.cdiv(len(right), config["BN"])
            splits = splits_for(blocks, tiles, search.k)
            taken = milliseconds(partial(launch, *sides, search.kept, splits, config, search.two_way), left.rows)
            # Round 0 compiles and warms up.
            if number:
                seen.append(taken)
    return [statistics.median(seen) for seen in times]


def milliseconds(work: Callable[[], Any], where: Tensor) -> float:
    """Wall time of work() with the device idle before and after."""
    if where.is_cuda:
        torch.cuda.synchronize(where.device)
    start = time.perf_counter()
    work()
    if where.is_cuda:
        torch.cuda.synchronize(where.device)
    return 1e3 * (time.perf_counter() - start)


def tune_all(path: Path, dims: tuple[int, ...] = DIMS, ks: tuple[int, ...] = KS) -> Iterator[dict[str, Any]]:
    """Tunes both directions for every D and k on the current GPU, of bfloat16 rows, which are multiplied as they are,
    and of float32 rows, which are screened; yields each entry as it is recorded."""
    if not torch.cuda.is_available():
        raise RuntimeError("tuning needs a CUDA device and torch sees none")
    generator = torch.Generator("cuda").manual_seed(5)
    for dim in dims:
        queries, bank = (torch.randn(count, dim, generator=generator, device="cuda") for count in (QUERIES, ROWS))
        for dtype, k, two_way in product((torch.bfloat16, torch.float32), ks, (False, True)):
            yield tune(queries.to(dtype), bank.to(dtype), k, two_way, path)
