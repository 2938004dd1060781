"""Ranks on this machine: start them, pass signals on, and end all when one fails."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType

from stilts_ds.engine.stacks import SHOW_STACKS
from stilts_launcher.rank_place import OWN_CODE_ONLY, RankPlace, free_port

GRACE_SECONDS = 15.0  # what the others get to notice that one rank is gone


def start_ranks(arguments: list[str], count: int, threads: int | None, program: str = "stilts_launcher.rank") -> int:
    """Run `python -m PROGRAM ARGUMENTS` as `count` ranks; returns the exit status that tells most.

    A rank that fails ends the others. SIGINT, SIGTERM and SIGUSR1 are passed on, and the ranks save before they leave.
    When this process is killed, they are killed with it.
    """
    port, token = free_port(), secrets.token_hex(8)
    threads = threads or max(1, (os.cpu_count() or 1) // count)
    children: list[subprocess.Popen[bytes]] = []
    with passing_signals_to(children):  # from the first one on: a signal now must not leave it behind
        for rank in range(count):
            place = RankPlace(rank, rank, count, "127.0.0.1", port, "stilts")
            extra = {
                "STILTS_RUN_TOKEN": token,
                "STILTS_LAUNCHER": str(os.getpid()),
                "OMP_NUM_THREADS": str(threads),
                "TOKENIZERS_PARALLELISM": "true",
            }
            command = [sys.executable, "-m", program, *arguments]
            environment = {**os.environ, **place.variables(), **extra, **OWN_CODE_ONLY}
            # A library that asks a question gets no answer.
            children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        return wait_for(children)


@contextlib.contextmanager
def passing_signals_to(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    passed = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, forward) for number in passed}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for(children: list[subprocess.Popen[bytes]]) -> int:
    failed_at: float | None = None
    while any(child.poll() is None for child in children):
        if failed_at is None and any(child.poll() for child in children):
            failed_at = time.monotonic()
        if failed_at is not None and time.monotonic() - failed_at > GRACE_SECONDS:
            end(children)
        time.sleep(0.05)
    codes = [child.returncode for child in children]
    told = [code for code in codes if code > 0]
    return told[0] if told else (1 if any(codes) else 0)


def end(children: list[subprocess.Popen[bytes]]) -> None:
    """Kill what still runs, after it has written where it hangs into its log."""
    hanging = [child for child in children if child.poll() is None]
    for number in (SHOW_STACKS, signal.SIGKILL):
        for child in hanging:
            child.send_signal(number)
        time.sleep(0.5)
