"""Ranks of the mining benchmark: processes that mine files together over gloo and tell their own CPU seconds.

python -m stilts_bench.mining_ranks FOLDER SOURCE.npy        one rank, its place in torchrun's variables
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from stilts_ds.errors import UserError

ROUNDS = 3  # the least counts: what else runs on the machine empties caches, which costs CPU seconds, too


def rank_seconds(folder: Path, source: str, count: int) -> list[float]:
    """CPU seconds of each of `count` ranks that mine `source` with target.npy, from the moment that all are there; the
    least of ROUNDS times."""
    started = []
    for rank in range(count):
        variables = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611",
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", __name__, str(folder), source],
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise UserError("a rank of the benchmark failed; its message stands above")
    return [float(output) for output in outputs]


def main(folder: str, source: str) -> None:
    import torch
    from torch import distributed

    from stilts_ds.mining import mine

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    work, count = Path(folder), os.environ["WORLD_SIZE"]
    taken = []
    for number in range(ROUNDS):
        distributed.barrier()
        # From here on: starting Python and importing torch is no part of mining.
        began = time.process_time()
        mine(work / source, work / "target.npy", work / f"pairs-{count}-{number}.tsv", comm=distributed.group.WORLD)
        taken.append(time.process_time() - began)
    print(min(taken))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
