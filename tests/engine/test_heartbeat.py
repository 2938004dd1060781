"""A frozen rank is missed wherever the work is: real processes that meet in a store, one of them stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ranks
from stilts_launcher.rank_place import free_port

from stilts_ds.engine.heartbeat import BEAT_SECONDS, Silence

RANK = """
import ctypes, datetime, sys, time
import torch.distributed as dist
from stilts_ds.engine import pulse
from stilts_ds.engine.heartbeat import watched
rank, size, port, busy = map(int, sys.argv[1:5])
wait = datetime.timedelta(seconds=60)
kept = dist.TCPStore("127.0.0.1", port, size, rank == 0, wait)
beats = dist.TCPStore("127.0.0.1", port, None, False, wait, wait_for_workers=False)
with watched(beats, rank, size, 5.0, pulse.here("127.0.0.1", port)):
    print("works", flush=True)
    if rank == busy:
        time.sleep(2)  # both have been heard
        ctypes.PyDLL(None).sleep(14)  # one call, in which nothing else of Python runs
        print("is back", flush=True)
    time.sleep(600)
"""


@contextmanager
def two_ranks(busy: int = -1) -> Iterator[list[subprocess.Popen[str]]]:
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), "2", port, str(busy)],
            env=ranks.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "works\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.processes
@pytest.mark.parametrize("frozen", [1, 0])
def test_a_frozen_rank_is_named_by_those_that_wait_for_it(frozen: int) -> None:
    with two_ranks() as processes:
        time.sleep(2)  # both have been heard
        assert all(process.poll() is None for process in processes)
        processes[frozen].send_signal(signal.SIGSTOP)
        told, _ = processes[1 - frozen].communicate(timeout=400)
        assert processes[1 - frozen].returncode == 1
        assert f"error: [rank {frozen} does not answer] for 5 s" in told


@pytest.mark.long
@pytest.mark.processes
@pytest.mark.parametrize("busy", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_in_one_long_call_is_silent_and_not_frozen(busy: int) -> None:
    """Its beating thread cannot run for three times as long as a frozen rank is waited for."""
    with two_ranks(busy) as processes:
        waiting, working = processes[1 - busy].stdout, processes[busy].stdout
        assert waiting is not None and f"rank {busy} is silent, but its process lives" in waiting.readline()
        assert working is not None and working.readline() == "is back\n"
        time.sleep(2)
        assert all(process.poll() is None for process in processes)


def test_silence_counts_only_while_this_process_runs_itself() -> None:
    """Stopped together (a suspended job, a closed lid), nobody is missing."""
    silence = Silence([1, 2])
    silence.pass_time(3600.0)
    assert silence.missing(10.0) == []
    silence.hear(1, b"7")
    for _ in range(11):
        silence.pass_time(2 * BEAT_SECONDS)
        silence.hear(2, str(time.monotonic()).encode())
    assert silence.missing(10.0) == [1]
    silence.hear(1, b"7")  # the same beat again is no sign of life
    assert silence.missing(10.0) == [1]
    silence.hear(1, b"8")
    assert silence.missing(10.0) == []
