"""A launcher in one file: every job is a process of this machine, which waits for what it needs and then runs.

What a job is stands in a folder of its own under $PROCESSES: `job.json` (what to run, after what), `pid`, and, when it
happens, `started`, `requeued` and `ended` (its exit status). There is no daemon: each job keeps itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stilts_launcher import local
from stilts_launcher.backends.base import CurrentJob, Job, QueuedJob, Submitted, rank_program
from stilts_launcher.cluster import Profile
from stilts_launcher.rank_place import RankPlace, free_port

from stilts_ds.errors import UserError

CANCELLED = 143


class Processes:
    """Processes of this machine as a launcher (see `base.Launcher`)."""

    settings = frozenset({"ntasks_per_node"})

    def submit(self, job: Job, profile: Profile, dry_run_as: str | None = None) -> Submitted:
        job_id = dry_run_as if dry_run_as is not None else self._new_id()
        phase_ids = tuple(f"{job_id}-{index}" for index in range(len(job.phases)))
        if dry_run_as is None:
            ranks = profile.resources(job.kind).tasks
            for phase_id, phase in zip(phase_ids, job.phases):
                self._start(phase_id, job, [phase], ranks)
            if not job.phases:
                self._start(job_id, job, [], ranks)
        return Submitted(job_id, phase_ids, tuple(job.program(*job.phases)))

    def _new_id(self) -> str:
        number = 1
        while True:
            try:
                (spool() / f"p{number}").mkdir(parents=True)
                return f"p{number}"
            except FileExistsError:
                number += 1

    def _start(self, job_id: str, job: Job, phases: list[str], ranks: int) -> None:
        folder = spool() / job_id
        folder.mkdir(exist_ok=True)
        log = job.run / "logs" / f"{job.name}-{job_id}.log"
        told = {
            "program": job.program(*phases),
            "after": job.after,
            "any": job.kind == "report",
            "log": str(log),
            "ranks": ranks,
        }
        (folder / "job.json").write_text(json.dumps(told))
        # A cancellation while the keeper's Python starts must wait until there is a handler for it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        keeper = subprocess.Popen(
            [sys.executable, __file__, str(folder)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        (folder / "pid").write_text(str(keeper.pid))

    def queue(self) -> dict[str, QueuedJob]:
        queued = {}
        for folder in sorted(path.parent for path in spool().glob("*/job.json")):
            if not (folder / "ended").exists():
                after = json.loads((folder / "job.json").read_text())["after"]
                waiting = not (folder / "started").exists()
                queued[folder.name] = QueuedJob(waiting, f"waits for {', '.join(after)}" if after else "waits")
        return queued

    def cancel(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            for folder in [spool() / job, *spool().glob(f"{job}-*")]:
                if (folder / "pid").exists() and not (folder / "ended").exists():
                    with suppress(ProcessLookupError):
                        os.kill(int((folder / "pid").read_text()), signal.SIGTERM)

    def check(self, profile: Profile) -> None:
        pass  # nothing in its settings can be wrong

    def preempted(self, job: str) -> bool:
        return False

    def seconds_left(self, job: str) -> float | None:
        return None  # processes have no time limit

    def requeue(self, job: str) -> None:
        (spool() / job / "requeued").touch()

    def start_ranks(
        self,
        arguments: Sequence[str],
        profile: Profile,
        environment: Mapping[str, str],
        most: int | None = None,
        worlds: int = 1,
    ) -> int:
        count, port = int(environment["PROCESSES_RANKS"]) // worlds, free_port()
        count = count if most is None else min(count, most)
        children: list[subprocess.Popen[bytes]] = []
        with local.passing_signals_to(children):
            for rank in range(count):
                place = RankPlace(rank, rank, count, "127.0.0.1", port, "processes")
                variables = {**environment, **place.variables()}
                children.append(subprocess.Popen(rank_program(environment, arguments), env=variables))
            return local.wait_for(children)

    def current_job(self, environment: Mapping[str, str]) -> CurrentJob:
        if "PROCESSES_JOB" not in environment:
            raise UserError("this is no job of processes; use `stilts submit`, or `stilts run`")
        return CurrentJob(environment["PROCESSES_JOB"], int(environment["PROCESSES_RESTARTS"]))

    def place(self, environment: Mapping[str, str]) -> RankPlace | None:
        return None  # its ranks have torchrun's variables


def spool() -> Path:
    if "PROCESSES" not in os.environ:
        raise UserError("PROCESSES is not set; name the folder of this machine's jobs")
    return Path(os.environ["PROCESSES"])


def keep(folder: Path) -> int:
    """Wait for what the job needs, run it, and run it again when it was requeued. Returns its exit status."""
    job = json.loads((folder / "job.json").read_text())
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    ends = [folder.parent / other / "ended" for other in job["after"]]
    while not signals and not all(end.exists() for end in ends):
        time.sleep(0.05)
    if signals or not (job["any"] or all(end.read_text() == "0" for end in ends)):
        return CANCELLED
    restarts = 0
    while True:
        (folder / "started").touch()
        variables = {
            "PROCESSES_JOB": folder.name,
            "PROCESSES_RESTARTS": str(restarts),
            "PROCESSES_RANKS": str(job["ranks"]),
        }
        with open(job["log"], "ab") as log:
            child = subprocess.Popen(job["program"], stdout=log, stderr=log, env={**os.environ, **variables})
        while child.poll() is None:
            for number in signals:
                child.send_signal(number)
            signals.clear()
            time.sleep(0.05)
        if not (folder / "requeued").exists():
            return child.returncode
        (folder / "requeued").unlink()
        restarts += 1


def main(folder: Path) -> None:
    status = keep(folder)
    (folder / "ended.new").write_text(str(status))
    (folder / "ended.new").rename(folder / "ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
