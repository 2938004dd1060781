"""How many files a rank has open, and asking the system for that many. No torch."""

from __future__ import annotations

import resource

from stilts_ds.errors import UserError

# Counted on 2, 4 and 8 ranks (tests/engine/test_scale_counts.py). gloo connects each rank with each other one, once in
# each of its groups: two of our own (engine/world.py) and, on CPUs, the one that GPUs have NCCL for. What NCCL opens
# was not counted.
FILES_OF_RANK, FILES_OF_FIRST = 30, 37
GROUPS_ON_GPUS, GROUPS_ON_CPUS = 2, 3
# Of each rank to the store in which ranks meet, which is rank 0's: one of them for the heartbeat.
STORE_CONNECTIONS = 2
SPARE = 200  # for data, logs and checkpoints


def open_files(ranks: int, first: bool, on_gpus: bool = False) -> int:
    """Files that a rank in a world of several has open when all have met; `first`: rank 0, which has most."""
    groups = GROUPS_ON_GPUS if on_gpus else GROUPS_ON_CPUS
    if first:
        return FILES_OF_FIRST + (groups + STORE_CONNECTIONS) * ranks
    return FILES_OF_RANK + groups * ranks


def allow_open_files(ranks: int, first: bool) -> None:
    """Raise this process's limit of open files, as far as it must be for so many ranks. Most systems set 1,024, and
    leave it to programs to ask for more. Raises UserError where the system does not allow it."""
    needed = open_files(ranks, first) + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(
            f"{ranks} ranks need {needed} open files in one process, and this machine allows {hard} (ulimit -Hn); "
            "have the limit raised, or start fewer ranks"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
