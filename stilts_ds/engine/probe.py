"""A small program for `stilts doctor`: what devices there are, and whether ranks on them can add up numbers.

Torch and DeepSpeed are imported once, and the ranks are forked from this process: imports are most of what a check
costs. The last line of its output is JSON.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable

# Devices are then counted without starting CUDA, which would not survive the fork. Read when torch is imported.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def add_up(rank: int, size: int) -> None:
    """All-reduce over the ranks, by the same calls as training. Raises AssertionError for a wrong sum."""
    import deepspeed
    import torch

    on_gpu = torch.cuda.is_available()
    # On CPUs DeepSpeed would compile a shared-memory operator for a minute (engine/world.py).
    sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None  # type: ignore[attr-defined]
    backend = "nccl" if on_gpu else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    value = torch.full((1,), float(rank) + 1, device=device)
    torch.distributed.all_reduce(value)
    torch.distributed.destroy_process_group()
    # 1 + ... + size, which no rank could have by itself.
    assert value.item() == size * (size + 1) / 2, value


def run_ranks(size: int, work: Callable[[int, int], None] = add_up) -> int | None:
    """Fork `size` ranks that each do `work(rank, size)`; returns the first that failed, or None.

    What a rank raises goes to standard error.
    """
    children = []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
            try:
                work(rank, size)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)  # none of this process's own exit handlers: they are its business
        children.append(child)
    failed = [rank for rank, child in enumerate(children) if os.waitpid(child, 0)[1] != 0]
    return failed[0] if failed else None


def main() -> int:
    import deepspeed  # noqa: F401 (before the fork, so that the ranks have it)
    import torch

    gpus = torch.cuda.device_count()
    # Two on CPUs, the fewest that talk to each other; on GPUs one each, as a run starts them.
    size = gpus or 2
    failed = run_ranks(size)
    if failed is not None:
        print(f"all-reduce failed on rank {failed}", file=sys.stderr)
        return 1
    names = [torch.cuda.get_device_name(gpu) for gpu in range(gpus)]
    print(json.dumps({"devices": names, "ranks": size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
