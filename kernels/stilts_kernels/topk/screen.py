"""Which arithmetic screens on this CPU: int8, bfloat16 or float32, whichever wins a short timed product.

All of them are exact after the proof; they differ in speed alone. int8 needs the extension (`topk.int8`), bfloat16 the
instructions: avx512_bf16 without AMX multiplies slower than float32 on some processors, so having them is not enough.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from stilts_kernels.common.products import cpu_seconds, multiply, pack
from stilts_kernels.common.report import log
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.int8.search import ProductTrial

SCREENS = ("int8", "bfloat16", "float32")
TRIALS = 8  # products timed of each kind to choose: some 50 ms in all, once
QUERIES, ROWS, DIM = 256, 1024, 512  # of a product: short, so that some of several run undisturbed


@lru_cache
def trial(sets: tuple[int, ...], bfloat16: bool) -> dict[str, float]:
    """Least CPU seconds of a product of each kind: "float32", "bfloat16", and instruction sets of the int8 screen."""
    trials = {library.NAMES[isa]: ProductTrial(isa, QUERIES, ROWS, DIM) for isa in sets}
    dtypes = [torch.float32, torch.bfloat16] if bfloat16 else [torch.float32]
    seconds: dict[str, list[float]] = {name: [] for name in (*trials, *map(name_of, dtypes))}
    for _ in range(TRIALS):  # in turn, so that other work on the machine slows all alike
        for dtype in dtypes:
            seconds[name_of(dtype)].append(product_seconds(dtype))
        for name, product in trials.items():
            seconds[name].append(product.seconds())
    least = {name: min(times) for name, times in seconds.items()}
    gflop = 2e-9 * QUERIES * ROWS * DIM
    rates = ", ".join(f"{name} {gflop / best:.0f}" for name, best in least.items())
    log.info("products timed to choose a screen, 10^9 operations a CPU second: %s", rates)
    return least


def timed() -> dict[str, float]:
    """`trial` of what this processor has and the settings allow."""
    sets = library.instruction_sets()
    # The portable loop is for processors that have nothing else.
    worth_timing = tuple(isa for isa in sets if isa != library.PORTABLE or len(sets) == 1)
    return trial(worth_timing, multiplies_bfloat16())


def fastest_screen() -> str:
    """The screen whose product took the least time."""
    seconds = timed()
    fastest = min(seconds, key=lambda name: seconds[name])
    return "int8" if fastest in library.NAMES.values() else fastest


def int8_instructions() -> int:
    """The number of the instruction set that the int8 screen takes. Raises ValueError where there is no such screen."""
    if not library.instruction_sets():
        raise ValueError(f"no int8 screen: {library.problem()}")
    seconds = timed()
    return min(library.NAMES, key=lambda isa: seconds.get(library.NAMES[isa], float("inf")))


def product_seconds(dtype: torch.dtype) -> float:
    """CPU seconds of one product."""
    rows, queries = (torch.ones(count, DIM, dtype=dtype, device="cpu") for count in (ROWS, QUERIES))
    queries = pack(queries)
    return cpu_seconds(lambda: multiply(rows, queries))


def choose_screen(screen: str) -> str:
    """The screen that "auto" stands for, or the one asked for. Raises ValueError for an unknown one."""
    if screen not in ("auto", *SCREENS):
        raise ValueError(f"screen {screen!r} is not one of auto, {', '.join(SCREENS)}")
    if screen == "int8":
        int8_instructions()  # asked for by name, it must be there
    return fastest_screen() if screen == "auto" else screen


def describe_path(screen: str) -> str:
    """The path as a report names it."""
    if screen == "int8":
        return f"cpu, int8 screen with {library.NAMES[int8_instructions()]}"
    amx = "amx " if screen == "bfloat16" and supported("amx_tile") else ""
    return f"cpu, {amx}{screen} screen"


def screen_bytes(screen: str) -> int:
    """Bytes of one number in the screening copy."""
    return 1 if screen == "int8" else getattr(torch, screen).itemsize


def multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for bfloat16 products."""
    return supported("amx_tile") or supported("avx512_bf16")


def supported(instructions: str) -> bool:
    """Whether torch finds these instructions on this processor; False where its build cannot tell."""
    ask = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return ask is not None and bool(ask())


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
