"""What a batch script does: start the ranks of a phase, and act on how they ended.

    python -m stilts_launcher.supervise RUN PHASE [PHASE ...]

Neither torch nor deepspeed is loaded here. How a phase ended stands in its status file, never in srun's exit code:

    done              the job ends well, and what waits for it starts
    stopped:SIGUSR1   the time limit is near: the job is put back into the queue and continues where it was
    stopped:SIGTERM   cancelled: the job ends and stays so
    anything else     a crash: the ranks start again in this allocation, unless they keep crashing at one place
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from subprocess import call
from typing import Annotated

from pydantic import Strict, ValidationError

from stilts_ds.errors import UserError, redacted
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, write_json
from stilts_ds.values import Value
from stilts_launcher import sbatch
from stilts_launcher.cluster import Profile, load_profile
from stilts_launcher.start import held

USER_ERROR, CANCELLED, STOPPED = 2, 143, 85


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print("usage: python -m stilts_launcher.supervise RUN PHASE [PHASE ...]", file=sys.stderr)
        return USER_ERROR
    run = RunDir(Path(arguments[0]))
    try:
        for phase in arguments[1:]:
            if status := Supervisor(run, phase, os.environ).work():
                return status
    except UserError as problem:
        say(f"error: {problem}")
        return USER_ERROR
    return 0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {redacted(text)}", flush=True)


Place = tuple[bool, str, int]  # what `progress` says


class Attempt(Value):
    """One start of a phase's ranks: in which job, how often that job was continued, and where the phase stood."""

    job: str
    restart: int
    at: Annotated[Place, Strict(False)]  # a list in JSON


class Supervisor:
    """Runs one phase to its end inside a Slurm allocation, or to the point where the job must leave it."""

    def __init__(self, run: RunDir, phase: str, environment: Mapping[str, str]) -> None:
        self.run, self.phase, self.environment = run, phase, environment
        self.folder = run.phase(phase)
        self.profile = load_profile(run.profile) if run.profile.exists() else Profile()
        self.job = job_id(environment)
        count = environment.get("SLURM_RESTART_COUNT", "0")
        self.restart = int(count) if count.isascii() and count.isdigit() else 0

    def work(self) -> int:
        if self.phase not in {phase.id for phase in Plan.load(self.run.plan).phases}:
            raise UserError(f"{self.run.plan} has no phase {self.phase!r}; `stilts plan` lists them")
        busy = f"another job is at work in {self.folder.root}; `stilts status` shows it"
        with held(self.folder.root, busy):  # only one job works on a phase at a time
            while True:
                if self.folder.status() == "done":
                    say(f"{self.phase} is done")
                    return 0
                attempt = self._note_attempt()
                outcome, text = self._start_ranks(attempt)
                say(f"{self.phase}: {outcome}{f' ({text})' if text else ''}")
                if outcome == "stopped:SIGUSR1":
                    return self._continue_later()
                if outcome.startswith("stopped:"):
                    return CANCELLED
                if outcome == "refused":
                    self.folder.set_status("failed", error=text)
                    return USER_ERROR
                if outcome != "done" and (why := self._give_up()):
                    self.folder.set_status("failed", error=f"{text}; {why}")
                    say(why)
                    return 1

    def _start_ranks(self, attempt: int) -> tuple[str, str]:
        """Run srun once; returns the outcome and, for a crash, what is known of it."""
        token = f"{self.job}.{self.restart}.{attempt}"
        # srun does not take over --cpus-per-task from sbatch (Slurm 22.05 and later): each rank would get one core.
        cpus = self.environment.get("SLURM_CPUS_PER_TASK", "1")
        environment = {"OMP_NUM_THREADS": cpus, **self.environment, "SRUN_CPUS_PER_TASK": cpus}
        environment["STILTS_RUN_TOKEN"] = token
        if (stop_at := self._stop_at()) is not None:
            environment["STILTS_STOP_AT"] = str(stop_at)
        python = self.environment.get("STILTS_PYTHON", sys.executable)
        command = sbatch.srun_command(python, self.profile.container, [str(self.run.root), self.phase])
        say(f"{self.phase}: attempt {attempt} of job {self.job}, {' '.join(command[:2])}")
        code = call(command, env=environment)
        status = self.folder.read_status()
        if code == USER_ERROR and status.state != "done":
            told = status.error if status.token == token else None
            return "refused", told or "refused before the phase began; `stilts logs` shows why"
        if status.token != token:
            return "crashed", f"srun ended with status {code} before the phase began"
        if status.state in ("running", "trained"):
            return "crashed", f"the ranks ended without a word, srun with status {code}"
        return status.state, status.error or ""

    def _stop_at(self) -> float | None:
        """When this job must begin to save, in seconds since 1970; None without a time limit."""
        try:
            left = seconds_of(sbatch.call(["squeue", "-h", "-j", self.job, "-o", "%L"]))
        except UserError as problem:
            say(f"the time limit is unknown ({problem}); only Slurm's signal will stop the ranks")
            return None
        return None if left is None else time.time() + max(0, left - self.profile.stop_seconds)

    def _continue_later(self) -> int:
        before = [attempt.at for attempt in self._earlier()]
        if self.restart >= self.profile.max_requeues:
            say(f"continued {self.restart} times already (max_requeues); `stilts retry` goes on from here")
            return STOPPED
        if len(before) > 1 and progress(self.folder) == before[-1] == before[-2]:
            say("two slices in a row made no progress; give the jobs a longer `time`, then `stilts retry`")
            return STOPPED
        try:
            sbatch.call(["scontrol", "requeue", self.job])
        except UserError as problem:
            say(f"{problem}; `stilts retry` continues from here")
            return STOPPED
        say(f"job {self.job} is back in the queue and will continue")
        time.sleep(60)  # Slurm ends this script; leaving by itself would count as finished
        return STOPPED

    @property
    def _attempts(self) -> Path:
        return self.run.jobs / "attempts" / f"{self.phase}.json"

    def _earlier(self) -> list[Attempt]:
        """The attempts so far. A damaged note counts as none: it must not keep a job from its work."""
        try:
            noted = read_json(self._attempts) if self._attempts.exists() else []
        except UserError as problem:
            say(str(problem))
            return []
        attempts = []
        for note in noted if isinstance(noted, list) else []:
            with suppress(ValidationError):
                attempts.append(Attempt.model_validate(note))
        return attempts

    def _note_attempt(self) -> int:
        """Write down where the phase stands before an attempt; returns the attempt's number."""
        before = self._earlier()
        attempt = Attempt(job=self.job, restart=self.restart, at=progress(self.folder))
        write_json(self._attempts, [noted.model_dump() for noted in (*before, attempt)])
        return len(before)

    def _give_up(self) -> str | None:
        """Why the ranks are not started again, or None. Attempts of this start of the job count."""
        this_start = (self.job, self.restart)
        places = [attempt.at for attempt in self._earlier() if (attempt.job, attempt.restart) == this_start]
        if len(places) > self.profile.max_restarts:
            return f"started again {self.profile.max_restarts} times (max_restarts)"
        if len(places) > 1 and progress(self.folder) == places[-1] == places[-2]:
            return "two starts in a row made no progress"
        return None


def progress(folder: PhaseDir) -> Place:
    """How far a phase is: trained or not, its newest checkpoint, and how many prediction files it has."""
    tags = sorted(p.parent.name for p in folder.checkpoints.glob("step-*/manifest.json"))
    trained = folder.status() in ("trained", "done")
    return trained, tags[-1] if tags else "", len(list(folder.predictions.glob("*/*")))


def job_id(environment: Mapping[str, str]) -> str:
    """The id by which Slurm's commands know this job; an element of an array is <array>_<index>."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    if "SLURM_JOB_ID" not in environment:
        raise UserError("this is no Slurm job; use `stilts submit`, sbatch slurm/*.sbatch, or `stilts run`")
    return environment["SLURM_JOB_ID"]


def seconds_of(text: str) -> int | None:
    """Slurm's [days-][hours:]minutes:seconds as seconds; None for UNLIMITED and the like."""
    days, dash, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(p.isdigit() for p in [*parts, days or "0"]) or not clock:
        return None
    seconds = 0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 86400 + seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
