"""Train the small model and count what ranks send each other: `count_messages.py OUT SETTINGS_JSON` as train_small.py.

Rank 0 prints JSON: for each part of a training, calls and payload bytes of each collective; sockets that it holds; and
what a checkpoint consists of. A payload is the whole tensor that is sent, gathered or reduced, not what one wire takes.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

COLLECTIVES = (
    "broadcast", "all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "gather", "scatter",
    "reduce_scatter_tensor", "reduce_scatter",
)  # fmt: skip
counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
parts = ["start"]
told: dict[str, Any] = {}


def payload(value: Any) -> int:
    """Bytes of a tensor or a list of them; 0 for anything else."""
    if isinstance(value, torch.Tensor):
        return value.nbytes
    return sum(map(payload, value)) if isinstance(value, (list, tuple)) else 0


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **more: Any) -> Any:
        here = counts[parts[-1]][name]
        here[0] += 1
        # Of what is gathered or scattered, the whole is the larger argument.
        here[1] += max(map(payload, [*arguments, *more.values()]), default=0)
        return function(*arguments, **more)

    return call


def part(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **more: Any) -> Any:
        parts.append(name)
        try:
            return function(*arguments, **more)
        finally:
            parts.pop()

    return call


def main() -> None:
    for name in (*COLLECTIVES, "barrier"):
        setattr(dist, name, counted(name, getattr(dist, name)))
    from stilts_ds.engine import checkpoint, preempt, trainer
    from stilts_ds.engine.saver import Saver

    preempt.ASKING_SECONDS = 0.0  # after each step
    checkpoint.find = part("find", checkpoint.find)
    one = trainer.Trainer
    for method, name in (
        ("__init__", "build"),
        ("resume", "resume"),
        ("take_step", "step"),
        ("flush", "curve"),
        ("select", "select"),
    ):
        setattr(one, method, part(name, getattr(one, method)))
    preempt.Asking.stop_or_save = part("ask", preempt.Asking.stop_or_save)  # type: ignore[method-assign]
    Saver.save, Saver.wait = part("save", Saver.save), part("save", Saver.wait)  # type: ignore[method-assign]
    closing = one.close

    def close(self: Any) -> None:
        links = [
            os.readlink(f"/proc/self/fd/{name}")
            for name in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{name}")
        ]
        told["sockets"] = sum(link.startswith("socket:") for link in links)
        told["parameters"] = [list(getattr(p, "ds_shape", p.shape)) for p in self.engine.module.parameters()]
        closing(self)

    one.close = close  # type: ignore[method-assign]
    program = Path(__file__).with_name("train_small.py")
    sys.argv[0] = str(program)
    try:
        runpy.run_path(str(program), run_name="__main__")
    finally:
        if os.environ["RANK"] == "0":
            print("COUNTS " + json.dumps({**told, "counts": counts}), flush=True)


main()
