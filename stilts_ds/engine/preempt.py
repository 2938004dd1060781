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
# The largest of the ranks' counts: a cancelled run is not to be continued, whatever else was asked for.
SIGNALS = ("SIGUSR1", "SIGHUP", "SIGINT", "SIGTERM")
ASKING_SECONDS = 0.2  # a question costs some milliseconds among a thousand ranks, and a stop has seconds at least
MOST_STEPS = 64  # that go by without a question: at worst, the next ones take much longer than these
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


class Asking:
    """Asking all ranks, between steps or batches, whether one of them was told to stop; a collective that each rank
    enters equally often.

    Ranks ask each other by the clock and not each time: one all-reduce of a few integers, each `ASKING_SECONDS` or,
    where steps are longer, after each. How many steps that is says rank 0, in the answer before, for all of them.
    """

    def __init__(self, world: World, prompt: bool = False) -> None:
        self.world, self.prompt = world, prompt
        self.steps = self.left = 1  # from one question to the next, and until then
        self.asked = time.monotonic()

    def stop_if_requested(self) -> None:
        """Raise Stopped on every rank if any of them was told to stop."""
        self.stop_or_save(wanted=False)

    def stop_or_save(self, wanted: bool) -> bool:
        """The same, and otherwise whether any rank wants a checkpoint."""
        self.left -= 1
        if self.left:
            return False
        signal_number, is_wanted, self.steps = self.world.maximum(
            [_requested(), int(wanted), self._steps_to_next()], self.prompt
        )
        self.left, self.asked = self.steps, time.monotonic()
        _raise(signal_number)
        return bool(is_wanted)

    def _steps_to_next(self) -> int:
        """How many steps take `ASKING_SECONDS`, by rank 0's clock; 0 elsewhere, which the maximum leaves out."""
        if not self.world.first:
            return 0
        seconds = max(time.monotonic() - self.asked, 1e-6) / self.steps
        # Twice as many as last time at most: a few quick steps say little about those that follow.
        return max(1, min(int(ASKING_SECONDS / seconds), 2 * self.steps, MOST_STEPS))


def stop_if_requested(world: World) -> None:
    """Raise Stopped on every rank if any of them was told to stop, now (a collective)."""
    Asking(world).stop_if_requested()


def stop_this_rank_if_requested() -> None:
    """Raise Stopped on this rank where it was told to stop, for work in which no rank waits for another."""
    _raise(_requested())


def _raise(number: int) -> None:
    if number:
        raise Stopped(SIGNALS[number - 1])


def _requested() -> int:
    """The number of what this rank was told to stop by, from 1; 0 where it was not."""
    if _received:
        return 1 + SIGNALS.index(_received[0])
    return int(time.time() > float(os.environ.get("STILTS_STOP_AT", "inf")))  # counts as the first
