"""What takes long to build and is only looked at: once for all test processes side by side, not once for each."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def of_all_processes(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of all test processes; each has one of its own below it where there are several."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that `build` fills; the first test process that asks builds it, others wait for it.

    A build that fails leaves no mark, so the next one to ask builds again in an empty folder of its own.
    """
    base = of_all_processes(factory)
    mark = base / f"{name}.built"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            folder = factory.mktemp(name)
            build(folder)
            mark.write_text(str(folder))
        return Path(mark.read_text())
