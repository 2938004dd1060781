"""Whether processes that somebody else started still run."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path


def runs(pid: int) -> bool:
    """Whether a process runs: one that has ended and waits for its parent to collect it does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def all_end(pids: Iterable[int], seconds: float = 30) -> bool:
    """Whether these processes end within some seconds: the kernel takes its time to carry out a SIGKILL."""
    left, deadline = list(pids), time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if runs(pid)]
        time.sleep(0.01)
    return not left
