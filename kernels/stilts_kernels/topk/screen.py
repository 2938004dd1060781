"""Which precision screens on this CPU: bfloat16 where the processor multiplies it faster, else float32."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

TRIALS = 12  # products timed to choose a screen: some 30 ms, once


@lru_cache
def fastest_screen() -> str:
    """ "bfloat16" where this processor has the instructions and they win a timed product, else "float32".

    Having them is not enough: avx512_bf16 without AMX multiplies slower than float32 on some processors.
    """
    if not (supported("amx_tile") or supported("avx512_bf16")):
        return "float32"
    seconds: dict[torch.dtype, list[float]] = {torch.bfloat16: [], torch.float32: []}
    for _ in range(TRIALS):  # in turn, so that other work on the machine slows both alike
        for dtype, times in seconds.items():
            times.append(product_seconds(dtype))
    return "bfloat16" if min(seconds[torch.bfloat16]) < min(seconds[torch.float32]) else "float32"


def product_seconds(dtype: torch.dtype) -> float:
    """Time of one 256 x 1024 x 512 product: short, so that some of several run undisturbed."""
    left, right = (torch.ones(rows, 512, dtype=dtype, device="cpu") for rows in (256, 1024))
    start = time.perf_counter()
    torch.mm(left, right.T)
    return time.perf_counter() - start


def choose_screen(screen: str) -> str:
    """The screen that "auto" stands for, or the one asked for. Raises ValueError for an unknown one."""
    if screen not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"screen {screen!r} is not one of auto, bfloat16, float32")
    return fastest_screen() if screen == "auto" else screen


def describe_path(screen: str) -> str:
    """The path as a report names it."""
    amx = "amx " if screen == "bfloat16" and supported("amx_tile") else ""
    return f"cpu, {amx}{screen} screen"


def supported(instructions: str) -> bool:
    """Whether torch finds these instructions on this processor; False where its build cannot tell."""
    ask = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return ask is not None and bool(ask())
