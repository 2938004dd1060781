"""Whether the process of a silent rank lives: a thread of C++ code in each process answers, whatever Python does there.

A beat is Python's (engine/heartbeat.py), and one call of a library may hold the interpreter's lock for minutes: a large
file that is parsed, a model that is written to a slow disk. Such a rank is silent, and not frozen. The keeper of a
store of torch's is no Python, so each rank keeps an empty one, which is asked before a silent rank is given up. In a
process that was stopped, that is gone, or whose machine is gone, nothing answers.
"""

from __future__ import annotations

import datetime
import socket
from typing import Any

import torch.distributed as dist

CONNECTING = 10.0  # seconds for a connection to a process that lives
CALLING = datetime.timedelta(seconds=60)


def here(address: str, port: int) -> str:
    """This machine's address on the way to `address`, where rank 0 is met: the others find this rank there.

    Raises OSError where there is no way.
    """
    problem: OSError | None = None
    for family, kind, _, _, destination in socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.connect(destination)  # chooses the way, and sends nothing
                return str(probe.getsockname()[0])
            except OSError as error:
                problem = error
    raise problem or OSError(f"{address} has no address")


def answering(address: str) -> tuple[str, Any]:
    """Let this process answer at `address` and nowhere else. Returns where it does ("ADDRESS PORT"), and what does so
    as long as it is kept."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, 0), family=family)
    port = server.getsockname()[1]
    keeper = dist.TCPStore(address, port, None, True, CALLING, wait_for_workers=False, master_listen_fd=server.detach())
    return f"{address} {port}", keeper


def answers(address_and_port: str) -> bool:
    """Whether the process at `address_and_port` ("ADDRESS PORT") answers. Does not come back while that one is frozen:
    call it in a thread."""
    address, port = address_and_port.split()
    try:
        socket.create_connection((address, int(port)), timeout=CONNECTING).close()  # torch tells much about a refusal
        asked = dist.TCPStore(address, int(port), None, False, CALLING, wait_for_workers=False)
        asked.check(["here"])
    except (OSError, RuntimeError):
        return False
    return True
