"""Ranks on this machine: start them, pass signals on, and end all when one fails."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

from stilts_ds.engine.stacks import SHOW_STACKS
from stilts_launcher.rank_place import OWN_CODE_ONLY, RankPlace, free_port, usable_cores

STOPPED = 85
LEAVING_SECONDS = 300.0  # what ranks get to save after a signal
GRACE_SECONDS = 15.0  # what the others get to notice that one rank is gone


def start_ranks(arguments: list[str], count: int, threads: int | None, program: str = "stilts_launcher.rank") -> int:
    """Run `python -m PROGRAM ARGUMENTS` as `count` ranks; returns the exit status that tells most.

    A rank that fails ends the others. SIGINT, SIGTERM, SIGHUP and SIGUSR1 are passed on, and the ranks save before they
    leave. When this process is killed, they are killed with it.
    """
    ranks: list[subprocess.Popen[bytes]] = []
    with passing_signals_to(ranks) as received:  # from the first one on: a signal now must not leave it behind
        return run_ranks(ranks, received, arguments, count, threads, free_port(), program)


def run_ranks(
    ranks: list[subprocess.Popen[bytes]],
    received: Sequence[int],
    arguments: Sequence[str],
    count: int,
    threads: int | None,
    port: int,
    program: str = "stilts_launcher.rank",
) -> int:
    """The same inside `passing_signals_to(ranks)`, whose list it fills; the ranks meet at `port`."""
    token = secrets.token_hex(8)
    given = str(threads) if threads else os.environ.get("OMP_NUM_THREADS", "")
    shared = given or str(max(1, usable_cores() // count))
    for rank in range(count):
        if received:  # the ranks that are there would wait for the others
            break
        rank_place = RankPlace(rank, rank, count, "127.0.0.1", port, "stilts")
        extra = {
            "STILTS_RUN_TOKEN": token,
            "STILTS_LAUNCHER": str(os.getpid()),
            "OMP_NUM_THREADS": shared,
            "TOKENIZERS_PARALLELISM": "true",
        }
        command = [sys.executable, "-m", program, *arguments]
        environment = {**os.environ, **rank_place.variables(), **extra, **OWN_CODE_ONLY}
        # A library that asks a question gets no answer.
        ranks.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
    if received and len(ranks) < count:
        return stopped_early(ranks, received[0])
    for number in received:  # the last rank may have been made while a signal came
        ranks[-1].send_signal(number)
    return wait_for(ranks, received)


@contextlib.contextmanager
def passing_signals_to(children: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass signals on to the children, and note them: one may come while a child is still being made."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            if child.poll() is None:
                child.send_signal(number)
                child.send_signal(signal.SIGCONT)  # one that was frozen can save, too

    # Who started this with nohup wants it to outlive the terminal.
    hangup = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else []
    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, *hangup)
    before = {number: signal.signal(number, forward) for number in passed}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped_early(children: list[subprocess.Popen[bytes]], number: int) -> int:
    """End the ranks of a start that a signal interrupted before all were there: none has begun to work."""
    for child in children:
        child.kill()
    for child in children:
        child.wait()
    print(f"stopped by {signal.Signals(number).name} before the ranks began", file=sys.stderr)
    return STOPPED


def wait_for(children: list[subprocess.Popen[bytes]], received: Sequence[int] = ()) -> int:
    """Wait for all ranks; returns the status that tells most. One that fails ends the others after GRACE_SECONDS, and
    so does a signal (noted in `received`) after LEAVING_SECONDS, in which ranks save."""
    failed_at: float | None = None
    asked_at: float | None = None
    while any(child.poll() is None for child in children):
        if asked_at is None and received:
            asked_at = time.monotonic()
        if asked_at is not None and time.monotonic() - asked_at > LEAVING_SECONDS:
            message = f"the ranks did not leave within {LEAVING_SECONDS:.0f} s of the signal; they are ended"
            print(message, file=sys.stderr)
            end(children)
        if failed_at is None and any(child.poll() for child in children):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            end(children)
        time.sleep(0.05)
    codes = [child.returncode for child in children]
    failures = [code for code in codes if code > 0]
    if failures:
        return failures[0]
    return 1 if any(codes) else 0  # those that signals ended have negative numbers, which are no exit status


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, after it has written where it hangs into its log."""
    hanging = [child for child in children if child.poll() is None]
    for number in (SHOW_STACKS, signal.SIGKILL):
        for child in hanging:
            child.send_signal(number)
        time.sleep(0.5)
