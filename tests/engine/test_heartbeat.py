"""A frozen rank is missed wherever the work is: real processes that meet in a store, one of them stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
import ranks
from stilts_launcher.rank_place import free_port

from stilts_ds.engine.heartbeat import BEAT_SECONDS, Silence

RANK = """
import datetime, sys, time
import torch.distributed as dist
from stilts_ds.engine.heartbeat import watched
rank, size, port = map(int, sys.argv[1:4])
wait = datetime.timedelta(seconds=60)
kept = dist.TCPStore("127.0.0.1", port, size, rank == 0, wait)
beats = dist.TCPStore("127.0.0.1", port, None, False, wait, wait_for_workers=False)
with watched(beats, rank, size, 5.0):
    print("works", flush=True)
    time.sleep(600)
"""


@pytest.mark.processes
@pytest.mark.parametrize("frozen", [1, 0])
def test_a_frozen_rank_is_named_by_those_that_wait_for_it(frozen: int) -> None:
    port = str(free_port())
    command = [sys.executable, "-c", RANK]
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", port],
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
        time.sleep(2)  # both have been heard
        assert all(process.poll() is None for process in processes)
        processes[frozen].send_signal(signal.SIGSTOP)
        told, _ = processes[1 - frozen].communicate(timeout=120)
        assert processes[1 - frozen].returncode == 1
        assert f"error: [rank {frozen} does not answer] for 5 s" in told
    finally:
        for process in processes:
            process.kill()
            process.wait()


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
