"""Start real ranks: N processes of one program on this machine, joined as torchrun would join them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stilts_launcher.rank_place import free_port

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"  # real data beside the checkout, where it is there
PROGRAMS = ROOT / "tests" / "helpers" / "programs"


def environment(**extra: str) -> dict[str, str]:
    """The tests' environment: one thread a rank, no GPU build of anything, the checkout importable."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "launcher", "kernels", "kernels/bench"))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        **extra,
    }


def places(ranks: int, **extra: str) -> list[dict[str, str]]:
    """The environment of each of the ranks, which meet on this machine."""
    port = str(free_port())
    return [
        environment(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
            **extra,
        )
        for rank in range(ranks)
    ]


def start(program: Path | str, *arguments: object, ranks: int, **extra: str) -> list[subprocess.Popen[str]]:
    command = [sys.executable, str(program), *map(str, arguments)]
    return [
        subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=place)
        for place in places(ranks, **extra)
    ]


def run(
    program: Path | str, *arguments: object, ranks: int = 1, timeout: int = 240, start: Any = start, **extra: str
) -> str:
    """Run to the end; returns rank 0's output and fails the test with every rank's output otherwise."""
    processes = start(program, *arguments, ranks=ranks, **extra)
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    codes = [process.returncode for process in processes]
    assert not any(codes), f"exit codes {codes}\n" + "\n".join(f"--- rank {i}\n{o}" for i, o in enumerate(outputs))
    return outputs[0]
