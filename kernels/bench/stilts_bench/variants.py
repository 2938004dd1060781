"""What a GPU decides about the fused search, old against new: the screen's format, who makes panels, configurations.

A step of `stilts bench gpu`. Every figure is of the same float32 rows; searches and configurations pass a gate against
float64 first.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from stilts_kernels.common.report import last_report
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.bounds import PanelMaker
from stilts_kernels.topk.configs import candidates, describe, device_facts
from stilts_kernels.topk.cuda import Search
from stilts_kernels.topk.kernel import interpreted
from stilts_kernels.topk.panels import BankPanels
from torch import Tensor

from stilts_bench.device import seconds_of
from stilts_bench.tuner import time_launches, why_wrong

GATE_ROWS = 16  # of a search's result, against float64


def compare_variants(queries: Tensor, bank: Tensor, k: int, rounds: int) -> dict[str, Any]:
    """`screens`, `panels` and `configurations` of queries [Q, D] and bank [N, D], float32. Raises ValueError where a
    search is wrong."""
    return {
        "screens": compare_screens(queries, bank, k, rounds),
        "panels": compare_panels(bank, rounds),
        "configurations": {
            "one way": compare_configurations(queries, bank, k, False, rounds),
            "two ways": compare_configurations(queries, bank, k, True, rounds),
        },
    }


def compare_screens(queries: Tensor, bank: Tensor, k: int, rounds: int) -> dict[str, Any]:
    """Seconds of whole searches by the screen's format, panels included, and how many pairs a row were scored."""
    # The interpreter misreads bfloat16.
    formats = (torch.float16,) if interpreted() else (torch.bfloat16, torch.float16)
    compared = {}
    for dtype in formats:

        def search(dtype: torch.dtype = dtype) -> Tensor:
            left, right = Rows(queries, "queries"), Rows(bank, "bank")
            (values, _), _ = Search(left, right, k, prepared=BankPanels(right, left, dtype)).run()
            return values

        # The first compiles, and is the one that is gated.
        expected = (queries[:GATE_ROWS].double() @ bank.double().T).topk(k, dim=1).values
        if not torch.allclose(search()[:GATE_ROWS], expected, rtol=1e-9, atol=1e-9):
            raise ValueError(f"a search with the {dtype} screen is wrong")
        seconds = median_seconds(search, rounds, bank.device)
        report = last_report()
        assert report is not None
        name = str(dtype).removeprefix("torch.")
        compared[name] = {
            "seconds": seconds,
            "survivors_per_row": report.survivors_per_row,
            "certified": report.certified / report.rows,
        }
    return compared


def compare_panels(bank: Tensor, rounds: int) -> dict[str, float]:
    """Seconds of the bank's panel, made by one kernel and by torch's own operations."""
    rows = Rows(bank, "bank")
    panels = BankPanels(rows)
    by_torch = PanelMaker(rows, panels.centre, panels.query_centre, 0, panels.dtype)
    compared = {}
    for name, maker in (("kernel", panels.maker), ("torch", by_torch)):

        def make(maker: Callable[[int, int], object] = maker) -> None:
            maker(0, rows.count)

        make()  # compiles
        compared[name] = median_seconds(make, rounds, bank.device)
    return compared


def compare_configurations(queries: Tensor, bank: Tensor, k: int, two_way: bool, rounds: int) -> dict[str, Any]:
    """Milliseconds of the search kernel alone for each candidate, the default first; a text says why one is wrong."""
    search = Search(Rows(queries, "queries"), Rows(bank, "bank"), k, k if two_way else 0)
    known = candidates(device_facts(bank.device)[1], search.kept, two_way)
    wrong = {describe(config): why_wrong(queries, bank, k, two_way, config) for config in known}
    right = [config for config in known if not wrong[describe(config)]]
    medians = time_launches(search, right, rounds)
    return {name: reason for name, reason in wrong.items() if reason} | {
        describe(config): median for config, median in zip(right, medians)
    }


def median_seconds(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    return statistics.median(seconds_of(work, device) for _ in range(rounds))
