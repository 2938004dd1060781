"""Ranks on one machine: each knows its place, a failure ends them all with a status that tells, signals are passed on.

The ranks are real processes started by `start_ranks`; their program is a few lines that behave as told.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ranks
from processes import all_end
from stilts_launcher import rank_place
from stilts_launcher.discover import discover
from stilts_launcher.rank_place import FIRST_PORT, PORTS, free_port

LEADER = ranks.PROGRAMS / "lead_ranks.py"
# `python -m stilts_launcher.rank` finds this one first, because its folder stands first in PYTHONPATH.
CHILD = """
import json, os, signal, sys, time
from pathlib import Path

rank, action = os.environ["RANK"], json.loads(sys.argv[1]).get(os.environ["RANK"], "end")
received = []
if action != "stubborn":
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda n, _: received.append(signal.Signals(n).name))
else:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
temporary = Path(f"{rank}.new")
temporary.write_text(json.dumps({"pid": os.getpid(), "environment": dict(os.environ), "arguments": sys.argv[1:]}))
temporary.rename(f"{rank}.json")
if action == "signal the leader":
    os.kill(os.getppid(), signal.SIGTERM)
if action == "end":
    sys.exit(0)
deadline = time.monotonic() + 120
# Only when all are there: the others are ended soon afterwards, and would not have written their files.
while not received and len(list(Path().glob("*.json"))) < int(os.environ["WORLD_SIZE"]) and time.monotonic() < deadline:
    time.sleep(0.01)
if action.startswith("exit"):
    sys.exit(int(action.split()[1]))
if action.startswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
while time.monotonic() < deadline:
    time.sleep(0.01)
    if received:
        Path(f"{rank}.received").write_text(received[0])
        sys.exit(85)
sys.exit(99)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    package = tmp_path / "stilts_launcher"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "rank.py").write_text(CHILD)
    return tmp_path


def lead(folder: Path, count: int, actions: dict[int, str], grace: float = 0.3) -> subprocess.Popen[str]:
    environment = {k: v for k, v in ranks.environment().items() if k != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        [sys.executable, str(LEADER), str(count), str(grace), json.dumps(actions), "more"],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Under nohup it would be ignored here and in every process below.
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),
    )


def ended(leader: subprocess.Popen[str]) -> int:
    output, _ = leader.communicate(timeout=240)
    assert "Traceback" not in output, output
    return leader.returncode


def started(folder: Path, count: int) -> list[dict[str, Any]]:
    """What each rank wrote about itself, as soon as all of them have."""
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.json"))) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]


def test_each_rank_knows_its_place_and_one_token_and_ends_well(folder: Path) -> None:
    assert ended(lead(folder, 3, {})) == 0
    found = started(folder, 3)
    environments = [dict(rank["environment"]) for rank in found]  # type: ignore[call-overload]
    places = [discover(environment) for environment in environments]
    assert [(p.rank, p.local_rank, p.size) for p in places if p] == [(0, 0, 3), (1, 1, 3), (2, 2, 3)]
    assert len({(place.address, place.port) for place in places if place}) == 1
    (token,) = {environment["STILTS_RUN_TOKEN"] for environment in environments}
    assert len(token) >= 16 and found[0]["arguments"] == [json.dumps({}), "more"]
    assert {environment["OMP_NUM_THREADS"] for environment in environments} == {str(max(1, (os.cpu_count() or 1) // 3))}


def test_every_start_has_a_token_of_its_own(folder: Path) -> None:
    tokens = set()
    for _ in range(2):
        assert ended(lead(folder, 1, {})) == 0
        tokens.add(dict(started(folder, 1)[0]["environment"])["STILTS_RUN_TOKEN"])  # type: ignore[call-overload]
    assert len(tokens) == 2


@pytest.mark.parametrize("action, status", [("exit 2", 2), ("exit 1", 1), ("exit 85", 85), ("killed", 1)])
@pytest.mark.parametrize("other", ["wait", "stubborn"])
def test_a_rank_that_fails_ends_the_others_and_its_status_is_told(
    action: str, status: int, other: str, folder: Path
) -> None:
    leader = lead(folder, 3, {0: other, 1: action, 2: other})
    pids = [rank["pid"] for rank in started(folder, 3)]
    assert ended(leader) == status  # one that had waited to its end would have its own status told
    assert all_end(pids)


def test_the_others_get_time_to_end_by_themselves(folder: Path) -> None:
    """A rank that leaves within the grace period is not killed: its own status counts."""
    leader = lead(folder, 2, {0: "exit 7", 1: "killed"}, grace=20)
    assert ended(leader) == 7


def test_a_rank_that_stays_is_asked_where_it_hangs_before_it_is_killed(folder: Path) -> None:
    hanging = CHILD.replace(
        "received = []",
        """received = []
import faulthandler
faulthandler.register(signal.SIGUSR2, open(f"{rank}.stack", "a"))""",
    )
    (folder / "stilts_launcher" / "rank.py").write_text(hanging)
    leader = lead(folder, 2, {0: "stubborn", 1: "exit 7"})
    [stubborn, _] = started(folder, 2)
    assert ended(leader) == 7 and all_end([stubborn["pid"]])
    assert "rank.py" in (folder / "0.stack").read_text() and (folder / "1.stack").read_text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on_and_the_ranks_leave_by_themselves(number: signal.Signals, folder: Path) -> None:
    leader = lead(folder, 2, {0: "wait", 1: "wait"}, grace=20)
    started(folder, 2)
    leader.send_signal(number)
    assert ended(leader) == 85
    assert [(folder / f"{rank}.received").read_text() for rank in range(2)] == [number.name] * 2


def test_a_signal_while_ranks_are_being_started_leaves_none_behind(folder: Path) -> None:
    leader = lead(folder, 16, {0: "signal the leader", **dict.fromkeys(range(1, 16), "wait")})
    assert ended(leader) in (85, 1)  # 1: the signal reached a rank before it had handlers
    assert all_end([json.loads(path.read_text())["pid"] for path in folder.glob("*.json")])


def test_a_taken_port_is_not_called_free(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(rank_place, "FIRST_PORT", port)
        monkeypatch.setattr(rank_place, "PORTS", 1)
        with pytest.raises(OSError, match="no free port"):
            free_port()
    assert free_port() == port


def test_free_ports_lie_below_the_range_of_clients() -> None:
    ports = {free_port() for _ in range(50)}
    assert all(FIRST_PORT <= port < FIRST_PORT + PORTS <= 32768 for port in ports) and len(ports) > 40
