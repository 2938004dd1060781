"""Where a rank hangs: its Python stacks, written into its log when a step takes too long or the launcher asks.

The writer is C code that needs neither the interpreter nor a collective, so it also works in a rank that sleeps inside
Python, waits inside torch or holds the interpreter's lock. Whether the rank ends is decided elsewhere: those that wait
for it give up after `engine.collective_timeout`, and the launcher ends the rest.
"""

from __future__ import annotations

import faulthandler
import signal
from pathlib import Path
from typing import TextIO

SHOW_STACKS = signal.SIGUSR2
_log: list[TextIO] = []


def write_stacks_to(path: Path) -> None:
    """From now on stacks go to the end of `path`: on a fatal error, on SHOW_STACKS, and when a step hangs."""
    log = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the process lives)
    # Kept: a closed file would take the descriptor that faulthandler writes to.
    _log[:] = [log]
    faulthandler.enable(log)
    # All threads, which is faulthandler's default: the one that hangs need not be the main one.
    faulthandler.register(SHOW_STACKS, log)


def write_now() -> None:
    """Write where every thread of this process is into its log."""
    if _log:
        faulthandler.dump_traceback(_log[0])


def expect_progress(seconds: float) -> None:
    """Write the stacks unless this or `expect_nothing` is called again within `seconds`."""
    if _log:
        faulthandler.dump_traceback_later(seconds, file=_log[0])


def expect_nothing() -> None:
    """What comes now may take as long as it takes: a checkpoint, an evaluation, an export."""
    faulthandler.cancel_dump_traceback_later()
