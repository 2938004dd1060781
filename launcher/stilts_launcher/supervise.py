"""What a batch script does: start the ranks of a phase, and act on how they ended.

    python -m stilts_launcher.supervise RUN PHASE [PHASE ...]
    python -m stilts_launcher.supervise RUN --prepare       # no phase: rows for all of them
    python -m stilts_launcher.supervise RUN --worlds        # all phases, side by side (`worlds` of the profile)

Neither torch nor deepspeed is loaded here. How a phase ended stands in its status file, never in the ranks' exit code:

    done              the job ends well, and what waits for it starts
    stopped:SIGUSR1   the time limit is near: the job is put back into the queue and continues where it was
    stopped:SIGTERM   cancelled: the job ends and stays so
    anything else     a crash: the ranks start again in this allocation, unless they keep crashing at one place
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import Strict, ValidationError

from stilts_ds.display import CONSOLE
from stilts_ds.errors import UserError, counted, print_anywhere, printable, redacted
from stilts_ds.lineage import unfinished
from stilts_ds.locks import HELD_BY_JOB, phase_lock
from stilts_ds.phase_queue import Entry, PhaseQueue, continued_queue, make_queue
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import most_ranks
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, write_json
from stilts_ds.values import Value
from stilts_launcher.backends.base import PREPARE, WORLDS, Launcher
from stilts_launcher.backends.registry import launcher_of, profile_of
from stilts_launcher.cluster import Profile
from stilts_launcher.rank_place import OWN_CODE_ONLY
from stilts_launcher.worlds import fed_worlds, say_what_lacks, work

# 143 is 128 + SIGTERM, as in a shell; 85 is what ranks leave with after a stop that saved everything (engine/ranks.py).
USER_ERROR, CANCELLED, STOPPED = 2, 143, 85
# Ranks that had no handler yet when the warning came: it is not sent again.
KILLED_BY_WARNING = 128 + signal.SIGUSR1
PUT_BACK = 75  # saved, and to be continued: a status inside this program, EX_TEMPFAIL of sysexits.h
REFUSAL = "UserError: "  # how an error begins that the same start would meet again


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print("usage: python -m stilts_launcher.supervise RUN PHASE [PHASE ...]", file=sys.stderr)
        return USER_ERROR
    print_anywhere()
    run = RunDir(Path(arguments[0]))
    try:
        run.check_links()
        if arguments[1] == PREPARE:
            profile = profile_of(run)
            return launcher_of(profile).start_ranks([str(run.root), PREPARE], profile, os.environ)
        job = JobInside(run, os.environ)
        if arguments[1] == WORLDS:
            return job.ended(job.side_by_side())
        for phase in arguments[1:]:
            # The phases of one job follow each other; a later one may start from this one, so a failure ends the job.
            if status := Supervisor(run, phase, os.environ).work():
                return job.ended(status)
    except UserError as problem:
        say(f"error: {problem}")
        return USER_ERROR
    return 0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {printable(redacted(text))}", flush=True)


class JobInside:
    """The job that this process runs in: its phases side by side, and how it ends."""

    def __init__(self, run: RunDir, environment: Mapping[str, str]) -> None:
        self.run, self.environment = run, environment
        self.profile = profile_of(run)
        self.launcher = launcher_of(self.profile)
        self.id = self.launcher.current_job(environment).id
        self.worlds = self._worlds()
        self.stops: list[int] = []  # statuses of phases that were stopped: all worlds leave then

    def _worlds(self) -> int:
        if self.profile.worlds == "auto":
            asked = self.profile.resources("phases")
            return fed_worlds(asked.nodes * asked.tasks, Plan.load(self.run.plan).phases)
        return self.profile.worlds or 1

    def side_by_side(self) -> int:
        """Work through the phases of the run by worlds, each of which has its share of the job; returns the status."""
        # Of a job that is continued, the queue is there: what failed before is not tried again.
        queue = continued_queue(self.run, self.id) or make_queue(self.run, Plan.load(self.run.plan).phases, self.id, 0)
        stop_at = stop_time(self.launcher, self.id, self.profile)

        def is_stopped() -> bool:
            return bool(self.stops) or (stop_at is not None and time.time() > stop_at)

        # Threads: each waits for its step, and what ends this process ends the whole job.
        with ThreadPoolExecutor(self.worlds) as pool:
            futures = [
                pool.submit(work, PhaseQueue(self.run, self.id), self.begin, is_stopped) for _ in range(self.worlds)
            ]
            for future in futures:
                future.result()
        if queue.is_over():
            say_what_lacks(queue)
            status = queue.status()
        else:  # stopped; the largest says most, and without one the time was up between two phases
            status = max(self.stops, default=PUT_BACK)
        if status != PUT_BACK:
            queue.remove()
        return status

    def begin(self, entry: Entry) -> int:
        """Run a phase in one world."""
        try:
            status = Supervisor(self.run, entry.name, self.environment, self.worlds).work()
        except UserError as problem:  # another job is at work on the phase, say: the other phases go on
            say(f"{entry.title}: {problem}")
            return USER_ERROR
        if status not in (PUT_BACK, CANCELLED, STOPPED):
            return status
        self.stops.append(status)
        return STOPPED

    def ended(self, status: int) -> int:
        """Put the job back into the queue where it is to be continued; returns its exit status."""
        if status != PUT_BACK:
            return status
        say(f"job {self.id} goes back into the queue, to be continued")
        try:
            self.launcher.requeue(self.id)
        except UserError as problem:
            say(f"{problem}; `stilts retry` continues from here")
        return STOPPED


def stop_time(launcher: Launcher, job: str, profile: Profile) -> float | None:
    """When a job must begin to save, in seconds since 1970; None without a time limit."""
    try:
        left = launcher.seconds_left(job)
    except UserError as problem:
        say(f"the time limit is unknown ({problem}); only a signal will stop the ranks")
        return None
    # Not in the past, where a job has less time than its warning: it saves at once.
    return None if left is None else time.time() + max(0, left - profile.stop_seconds)


Progress = tuple[bool, str, int]  # what `progress` says


class Attempt(Value):
    """One start of a phase's ranks: in which job, how often that job was continued, and where the phase stood."""

    job: str
    restart: int
    at: Annotated[Progress, Strict(False)]  # a list in JSON


class Supervisor:
    """Runs one phase to its end inside a job of a launcher, or to the point where the job must leave it."""

    def __init__(self, run: RunDir, phase: str, environment: Mapping[str, str], worlds: int = 1) -> None:
        self.run, self.phase, self.environment, self.worlds = run, phase, environment, worlds
        self.label = phase  # until the plan says how people call it
        self.folder = run.phase(phase)
        self.profile = profile_of(run)
        self.launcher = launcher_of(self.profile)
        current = self.launcher.current_job(environment)
        self.job, self.restart = current.id, current.restarts

    def work(self) -> int:
        planned = [phase for phase in Plan.load(self.run.plan).phases if phase.id == self.phase]
        if not planned:
            raise UserError(f"{self.run.plan} has no phase {self.phase!r}; `stilts plan` lists them")
        self.label = planned[0].label
        # Held over all attempts: two jobs of one phase (submitted twice, say) must not train into one folder.
        with phase_lock(self.folder):
            while True:
                if not unfinished(self.run, planned):
                    say(f"{self.label} is done")
                    return 0
                attempt = self._note_attempt()
                outcome, text = self._start_ranks(attempt, planned)
                say(f"{self.label}: {outcome}{f' ({text})' if text else ''}")
                if outcome == "stopped:SIGUSR1":
                    return self._continue_later()
                if outcome.startswith("stopped:"):
                    # After SIGTERM: a job that has to make room is continued, one that was taken back stays so.
                    if not self.launcher.preempted(self.job):
                        return CANCELLED
                    say(f"job {self.job} makes room for another one")
                    return PUT_BACK
                # What the recipe or the data forbid, the next start would meet again.
                if outcome == "refused":
                    self.folder.set_status("failed", error=text)
                    return USER_ERROR
                if outcome != "done" and (why := self._give_up()):
                    self.folder.set_status("failed", error=f"{text}; {why}")
                    say(why)
                    return 1

    def _start_ranks(self, attempt: int, planned: list[Phase]) -> tuple[str, str]:
        """Start the ranks once and wait; returns the outcome and, for a crash, what is known of it."""
        token = f"{self.job}.{self.restart}.{attempt}"
        environment = {**self.environment, **OWN_CODE_ONLY, "STILTS_RUN_TOKEN": token, HELD_BY_JOB: self.phase}
        if self.worlds > 1:  # their lines come into one log; all of a phase's stand in the file of its rank 0
            environment.setdefault(CONSOLE, "milestones")
        if (stop_at := stop_time(self.launcher, self.job, self.profile)) is not None:
            environment["STILTS_STOP_AT"] = str(stop_at)
        say(f"{self.label}: attempt {attempt} of job {self.job}")
        code = self.launcher.start_ranks(
            [str(self.run.root), self.phase], self.profile, environment, most_ranks(planned), self.worlds
        )
        status = self.folder.read_status()
        # An earlier start's error stays in the file until ranks begin anew; by the token this start's is told apart.
        error = status.error if status.token == token else None
        # A launcher gives the highest status of all ranks; those that it ended have another than the one that refused.
        if status.state == "failed" and error and error.startswith(REFUSAL):
            return "refused", error
        if code == USER_ERROR and status.state != "done":
            return "refused", error or "refused before the phase began; `stilts logs` shows why"
        if status.token != token:
            if code == KILLED_BY_WARNING:
                return "stopped:SIGUSR1", "before the phase began"
            return "crashed", f"the ranks ended with status {code} before the phase began"
        if status.state in ("running", "trained"):
            return "crashed", f"the ranks ended without a word, with status {code}"
        return status.state, status.error or ""

    def _continue_later(self) -> int:
        before = [attempt.at for attempt in self._earlier()]
        if self.restart >= self.profile.max_requeues:
            say(f"continued {counted(self.restart, 'time')} already (max_requeues); `stilts retry` goes on from here")
            return STOPPED
        # A slice too short to reach a checkpoint would be continued for ever.
        if len(before) > 1 and progress(self.folder) == before[-1] == before[-2]:
            say("two slices in a row made no progress; give the jobs a longer `time`, then `stilts retry`")
            return STOPPED
        return PUT_BACK

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
                # Notes of another version count as none, like damaged ones.
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
        starts = [attempt.at for attempt in self._earlier() if (attempt.job, attempt.restart) == this_start]
        if len(starts) > self.profile.max_restarts:
            return f"started again {counted(self.profile.max_restarts, 'time')} (max_restarts)"
        # One start without progress may be a node's bad luck; two in a row are the phase's own fault.
        if len(starts) > 1 and progress(self.folder) == starts[-1] == starts[-2]:
            return "two starts in a row made no progress"
        return None


def progress(folder: PhaseDir) -> Progress:
    """How far a phase is: trained or not, its newest checkpoint, and how many prediction files it has."""
    # Numbers in tags have leading zeros, so names sort as steps do. A checkpoint without its manifest is not whole.
    tags = sorted(p.parent.name for p in folder.checkpoints.glob("step-*/manifest.json"))
    trained = folder.status() in ("trained", "done")
    return trained, tags[-1] if tags else "", len(list(folder.predictions.glob("*/*")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
