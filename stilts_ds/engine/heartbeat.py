"""Who is frozen: each rank tells twice a second that it lives, wherever its work is, and leaves when another does not.

Collectives of a training step time out by themselves. Elsewhere ranks may wait for hours, while rank 0 reads or mines,
and a rank that was stopped, swapped out or lost with its machine would not be missed. A thread beats for it: it stands
still when its process does, and not when its work takes long. A single call that holds the interpreter's lock silences
it, too; so a silent rank's process is asked whether it lives (engine/pulse.py) before it is given up.
"""

from __future__ import annotations

import datetime
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from stilts_ds.engine import pulse, stacks

log = logging.getLogger(__name__)
BEAT_SECONDS = 0.5
FAILED = 1  # the exit status, as of any other failure (engine/ranks.py)


class Beats(Protocol):
    """What is asked of the store in which ranks meet."""

    def set(self, key: str, value: str) -> None: ...

    def check(self, keys: list[str]) -> bool: ...

    def get(self, key: str) -> bytes: ...


class Silence:
    """How long each of the `others` has not been heard, in seconds during which this process ran itself: where all were
    stopped together (a suspended job), nobody is missing."""

    def __init__(self, others: Sequence[int]) -> None:
        self.last: dict[int, bytes] = dict.fromkeys(others, b"")
        self.seconds = dict.fromkeys(others, 0.0)
        self.addresses: dict[int, str] = {}  # where the process of each rank that was heard once answers

    def pass_time(self, seconds: float) -> None:
        for rank in self.seconds:
            self.seconds[rank] += min(seconds, 2 * BEAT_SECONDS)

    def hear(self, rank: int, beat: bytes) -> None:
        if beat != self.last[rank]:
            self.last[rank], self.seconds[rank] = beat, 0.0

    def answered(self, rank: int) -> None:
        """It has not beaten, but its process lives."""
        self.seconds[rank] = 0.0

    def missing(self, limit: float) -> list[int]:
        return [rank for rank, seconds in self.seconds.items() if seconds > limit]


class Questions:
    """Asks silent ranks whether their processes live, each in a thread, which stays as long as there is no answer."""

    def __init__(self, silence: Silence) -> None:
        self.silence = silence
        self.threads: dict[int, threading.Thread] = {}
        self.reported: set[int] = set()

    def ask(self, rank: int) -> None:
        """Ask a rank, unless it was never heard or owes an answer."""
        before = self.threads.get(rank)
        if rank not in self.silence.addresses or (before is not None and before.is_alive()):
            return
        self.threads[rank] = threading.Thread(target=self._ask, args=(rank,), daemon=True, name=f"ask rank {rank}")
        self.threads[rank].start()

    def _ask(self, rank: int) -> None:
        if not pulse.answers(self.silence.addresses[rank]):
            return
        self.silence.answered(rank)
        if rank not in self.reported:  # once: it may go on for an hour
            self.reported.add(rank)
            log.warning(
                "rank %d is silent, but its process lives: one call holds its interpreter; it is waited for", rank
            )


@contextmanager
def watched(store: Beats, rank: int, size: int, limit: float, here: str) -> Iterator[None]:
    """Beat for this rank, and end this process when one that it watches has been silent for `limit` seconds and does
    not answer either: rank 0 watches all, the others rank 0. `here` is this rank's address for the others."""
    if size == 1:
        yield
        return
    others = range(1, size) if rank == 0 else [0]
    silence, over = Silence(others), threading.Event()
    address, keeper = pulse.answering(here)
    threads = [
        threading.Thread(target=_beat, args=(store, rank, address, silence, over), daemon=True, name="heartbeat"),
        threading.Thread(target=_watch, args=(silence, limit, over, _leave), daemon=True, name="watch"),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        del keeper


def _beat(store: Beats, rank: int, address: str, silence: Silence, over: threading.Event) -> None:
    """Tell and hear. Where the store's keeper is frozen, these calls do not come back, and `_watch` counts."""
    number, reached = 0, False
    while not over.wait(BEAT_SECONDS):
        number += 1
        try:
            if not reached:
                store.set(f"pulse/{rank}", address)
                reached = True
            store.set(f"beat/{rank}", str(number))
            for peer in silence.last:
                if store.check([f"beat/{peer}"]):  # a beat that was never laid down would be waited for
                    if peer not in silence.addresses:
                        silence.addresses[peer] = store.get(f"pulse/{peer}").decode()
                    silence.hear(peer, store.get(f"beat/{peer}"))
        except RuntimeError:  # the store is gone, and rank 0 with it; where that is no end, its silence tells
            time.sleep(BEAT_SECONDS)


def _watch(silence: Silence, limit: float, over: threading.Event, leave: Callable[[list[int], float], None]) -> None:
    before, questions = time.monotonic(), Questions(silence)
    while not over.wait(BEAT_SECONDS):
        now = time.monotonic()
        silence.pass_time(now - before)
        before = now
        for rank in silence.missing(limit / 2):  # so that the other half is left for the answer
            questions.ask(rank)
        if missing := silence.missing(limit):
            leave(missing, limit)
            return


def _leave(missing: list[int], limit: float) -> None:
    """Name who is missing, and where this rank was, and end this process: its work waits inside a library."""
    names = ", ".join(map(str, missing))
    text = f"[rank {names} does not answer] for {limit:.0f} s: frozen, or gone with its machine; this start ends"
    log.error(text)
    print(f"error: {text}", file=sys.stderr, flush=True)
    stacks.write_now()
    os._exit(FAILED)


def patience(limit: float) -> datetime.timedelta:
    """How long a call of the watch's own connection to the store may take."""
    return datetime.timedelta(seconds=2 * limit + 60)
