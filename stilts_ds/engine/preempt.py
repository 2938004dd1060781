"""Stopping on a signal: the handler only sets a flag; all ranks act on it together between two steps or batches.

SIGUSR1 (a time limit is near), SIGTERM (cancelled), SIGINT (Ctrl-C) and SIGHUP (the terminal is gone) all save and
leave; which one it was stands in the phase's status file, because what follows differs: only USR1 may be continued
without being asked. A time to stop at (STILTS_STOP_AT, seconds since 1970) counts as SIGUSR1: a signal may come late,
or while Python still starts.

No torch here: the handlers are installed before the heavy imports.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stilts_ds.engine.world import World

PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
_received: list[str] = []


class Stopped(Exception):
    """The run was asked to stop; everything done so far is saved. `args[0]` is the signal's name."""


def install_handlers() -> None:
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _on_signal)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # started with nohup, a run outlives its terminal
        signal.signal(signal.SIGHUP, _on_signal)


def die_with(launcher: int) -> None:
    """Have this process killed when its parent, process `launcher`, is: the run's lock is free then, and the next start
    must not meet ranks of this one in the run folder."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher:  # it was gone already
        os.kill(os.getpid(), signal.SIGKILL)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(signal.Signals(number).name)


def stop_if_requested(world: World) -> None:
    """Raise Stopped on every rank if any of them was asked to stop (a collective)."""
    _raise_first(world.all_gather(_requested()))


def stop_this_rank_if_requested() -> None:
    """Raise Stopped on this rank where it was asked to stop, for work in which no rank waits for another."""
    _raise_first([_requested()])


def stop_or_save(world: World, overdue: bool) -> bool:
    """Between two training steps: raise Stopped on every rank if any was asked to stop; otherwise return whether rank 0
    finds a checkpoint overdue. Clocks differ, so only rank 0's counts. One collective for both questions."""
    answers = world.all_gather((_requested(), overdue), prompt=True)
    _raise_first([name for name, _ in answers])
    return answers[0][1]


def _raise_first(names: list[str | None]) -> None:
    for name in names:
        if name:
            raise Stopped(name)


def _requested() -> str | None:
    if _received:
        return _received[0]
    return "SIGUSR1" if time.time() > float(os.environ.get("STILTS_STOP_AT", "inf")) else None
