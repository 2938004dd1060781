"""Stopping on a signal: the handler only sets a flag; all ranks act on it together between two steps.

SIGUSR1 (a time limit is near), SIGTERM (cancelled) and SIGINT (Ctrl-C) all save and leave; which one it was stands in
the phase's status file, because what follows differs: only USR1 may be continued without being asked.
"""

from __future__ import annotations

import signal
from types import FrameType

from stilts_ds.engine.world import World

_received: list[str] = []


class Stopped(Exception):
    """The run was asked to stop; everything done so far is saved. `args[0]` is the signal's name."""


def install_handlers() -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)


def stop_requested(world: World) -> str | None:
    """The first signal that any rank received, or None; the same answer on all ranks (a collective)."""
    for name in world.all_gather(_received[0] if _received else None):
        if name:
            return name
    return None
