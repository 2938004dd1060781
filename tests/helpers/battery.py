"""Run hostile programs in the sandbox and see what they did: `python battery.py NAME.json`, in a process of its own.

The process is held from outside as well, so that a sandbox that fails cannot hurt the machine: hard limits on
processes, memory, files and CPU that every descendant inherits, and a time limit of the test that started it.
Reads {"attacks": [[language, name, program, tests]], "workers"} and writes what it saw as JSON to standard output.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

OUTER_LIMITS = {
    "RLIMIT_NPROC": 400,
    "RLIMIT_FSIZE": 600 << 20,
    "RLIMIT_CPU": 400,
    "RLIMIT_CORE": 0,
    "RLIMIT_NOFILE": 512,
}


def limit_everything() -> None:
    """Before anything is started: the limits that hold where the sandbox does not."""
    for name, value in OUTER_LIMITS.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bounded, bounded))
    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))


class World:
    """What an attack could get at: files, a token, a process, a TCP port, an abstract socket."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "secret").write_text("TOP SECRET")
        (folder / "results").write_text("honest")
        for path in (folder, folder / "secret", folder / "results"):
            path.chmod(0o777)  # nothing but the sandbox stands between it and the attack
        os.environ["HF_TOKEN"] = "CANARY_hf_abcdef123456"
        self.victim = subprocess.Popen(["sleep", "1000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.connections = 0
        tcp, datagrams, abstract = socket.socket(), socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
        tcp.bind(("127.0.0.1", 0))
        self.port = tcp.getsockname()[1]
        datagrams.bind(("127.0.0.1", self.port))
        self.name = f"stilts-battery-{os.getpid()}"
        abstract.bind(f"\0{self.name}")
        for listener in (tcp, abstract):
            listener.listen(20)
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        threading.Thread(target=self._receive, args=(datagrams,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            listener.accept()[0].close()
            self.connections += 1

    def _receive(self, listener: socket.socket) -> None:
        while True:
            listener.recv(100)
            self.connections += 1

    def fill_in(self, program: str) -> str:
        words = {
            "FOLDER": str(self.folder),
            "VICTIM": str(self.victim.pid),
            "PORT": str(self.port),
            "SOCKET": self.name,
        }
        for word, value in words.items():
            program = program.replace(word, value)
        return program

    def harm(self) -> list[str]:
        seen = []
        if sorted(path.name for path in self.folder.iterdir()) != ["results", "secret"]:
            seen.append("files in the folder")
        elif (self.folder / "results").read_text() != "honest":
            seen.append("results written")
        if self.victim.poll() is not None:
            seen.append("victim killed")
        if self.connections:
            seen.append("connection made")
        return seen


CLAIMS: list[socket.socket] = []


def record_uids() -> list[int]:
    """Have the ids of all workers to come noted, to look for their processes afterwards.

    They stay claimed till this process ends: the sandbox of another test would take one up, and its processes would be
    counted as left over.
    """
    from stilts_ds.execute import policy

    claim, noted = policy.claim_uid, []

    def noting() -> tuple[int, socket.socket] | None:
        claimed = claim()
        if claimed is not None:
            noted.append(claimed[0])
            CLAIMS.append(claimed[1].dup())
        return claimed

    policy.claim_uid = noting
    return noted


def run_attacks(given: dict[str, Any], world: World) -> dict[str, Any]:
    """Execute them all, wait a second, and say what is left of them and what they did."""
    from stilts_ds.execute import ExecuteSettings, Program, execute
    from stilts_ds.execute.worker import processes_of

    uids = record_uids()
    programs = [
        Program(f"{language}: {name}", world.fill_in(program), tests, language, "add")
        for language, name, program, tests in given["attacks"]
    ]
    readable = tuple(given.get("readable", ()))
    verdicts = execute(
        programs, ExecuteSettings(allow=True, workers=given["workers"], seconds=1.0, rerun=False, readable=readable)
    )
    harm = world.harm()
    time.sleep(1)
    # An ordinary user's workers have this process's own id: what it has not started itself is left over.
    own = {os.getpid(), world.victim.pid}
    looked_at = set(uids) if os.getuid() == 0 else {os.getuid()}
    left = [process for uid in looked_at for process in processes_of(uid) if process not in own]
    return {
        "verdicts": {verdict.id: [verdict.verdict, verdict.reason, verdict.weak] for verdict in verdicts},
        "harm": harm,
        "left": left,
        "uid": os.getuid(),
        "uids": sorted(set(uids)),
    }


def main() -> None:
    limit_everything()
    given = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.TemporaryDirectory(prefix="stilts-battery-") as folder:
        world = World(Path(folder))
        try:
            seen = run_attacks(given, world)
        finally:
            world.victim.kill()
            world.victim.wait()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
