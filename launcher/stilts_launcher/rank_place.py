"""A rank's place among the others, as torchrun's five variables say it, and the ports at which ranks meet."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError

# For ranks: Python does not import from the working directory, where a stranger's `random.py` may lie (from 3.11 on).
OWN_CODE_ONLY = {"PYTHONSAFEPATH": "1"}
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # "quota period" in microseconds, or "max period"
FIRST_PORT, PORTS = 20000, 12000  # below the range that kernels hand out to clients (32768-60999)


@dataclass(frozen=True)
class RankPlace:
    """This process's rank, and where rank 0 listens.

    `starter` is the program that started the ranks, for messages; `node` the name that it gives this machine, empty
    where the host name will do; `on_node` how many of the ranks share this machine, 1 where nobody says; `bound`
    whether each of them has cores that are its own.
    """

    rank: int
    local_rank: int
    size: int
    address: str
    port: int
    starter: str
    node: str = ""
    on_node: int = 1
    bound: bool = False

    def variables(self) -> dict[str, str]:
        """Torchrun's five variables, and STILTS_NODE where the starter names the machine."""
        five = {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }
        return {**five, "STILTS_NODE": self.node} if self.node else five


def read_number(environment: Mapping[str, str], name: str, starter: str) -> int:
    """A starter's variable as a number from 0 up; raises UserError naming it where it is missing or no such number."""
    text = environment.get(name, "(not set)")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"{name}={text[:80]} is not a number; start all ranks with one {starter}, or unset its variables"
        )
    return int(text)


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its control group gives it time for."""
    # Not os.cpu_count(), which counts the machine's cores, also in a container that has two of them.
    cores = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):
        quota, period = CPU_MAX.read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def free_port(world: int = 0, worlds: int = 1) -> int:
    """A free port of this machine, outside the range that the kernel hands out. Worlds side by side have ports of their
    own: rank 0 takes a port seconds after it was found free."""
    share = PORTS // worlds
    first = FIRST_PORT + world * share
    for _ in range(100):
        port = first + secrets.randbelow(share)
        with socket.socket() as probe:
            # As rank 0 will bind it: a port that is only waiting for old connections to end counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port between {first} and {first + share}")
