"""What a launcher is: the surface that `stilts submit`, `status`, `cancel`, `retry` and the jobs themselves speak to.

A launcher is one file in this folder, with a class that has these functions, and one line in registry.py. Everything
else (the plan's dependencies, restarts after a crash, statuses, logs) is the same for all launchers and knows none.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from stilts_launcher.cluster import JobKind, Profile
from stilts_launcher.rank_place import RankPlace

PREPARE = "--prepare"  # in place of phases: a rank that makes rows for all of them
WORLDS = "--worlds"  # in place of phases: a job whose worlds work through all of them


@dataclass(frozen=True)
class Job:
    """What is handed to a launcher at once: one job for each of `phases`, or, without phases, the one that makes the
    rows, that works through all phases, or the report's.

    `run` is the run folder, `after` the ids of jobs that this one waits for. A phase starts only if all of them ended
    well; a report tells what is there, so it starts when they have ended in any way.
    """

    kind: JobKind
    name: str
    run: Path
    phases: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def program(self, *phases: str) -> list[str]:
        """The words that run this job's script in a shell, for `phases` or the report. They end with status 0 only if
        the work is done."""
        return ["bash", str(script(self.kind)), str(self.run), *phases]


@dataclass(frozen=True)
class Submitted:
    """What became of a Job: an id for the whole, an id for the job of each of its phases (in their order), and the
    command that handed it in, as words of a shell."""

    id: str
    phase_ids: tuple[str, ...]
    command: tuple[str, ...]


@dataclass(frozen=True)
class QueuedJob:
    """A job that waits or runs. `reason` says in words why it waits, `elapsed` and `nodes` how long and where it runs;
    each is empty where the launcher does not know it."""

    waiting: bool
    reason: str = ""
    elapsed: str = ""
    nodes: str = ""


@dataclass(frozen=True)
class CurrentJob:
    """The job that a process belongs to, and how often the launcher has started that job before this time."""

    id: str
    restarts: int


class Launcher(Protocol):
    """Eight functions act for a launcher; two more read what it tells its processes through their environment.

    Ids of jobs are letters, digits, `.`, `_` and `-`, and do not begin with a mark. All functions raise UserError with
    the launcher's own words where it refuses or is not there.
    """

    @property
    def settings(self) -> frozenset[str]:
        """Keys of the cluster profile that this launcher reads, besides those that hold for every launcher
        (`registry.COMMON`). A profile that sets any other key is refused."""

    # --- on a login node

    def check(self, profile: Profile) -> None:
        """Raise UserError, naming the key, for settings with which its jobs cannot work as planned."""

    def submit(self, job: Job, profile: Profile, dry_run_as: str | None = None) -> Submitted:
        """Hand a job in. Its output goes to `<job.run>/logs/<job.name>-<id>.log`, with the id of each phase's own job.

        With `dry_run_as` nothing is handed in: the result is what it would be if the job got that id.
        """

    def queue(self) -> dict[str, QueuedJob]:
        """This user's jobs that wait or run, by id."""

    def cancel(self, jobs: Sequence[str]) -> None:
        """Take jobs back, those of a whole Job by its one id. Processes of running ones get SIGTERM and time to save.
        What waits for them never starts; a report does."""

    # --- inside a job

    def seconds_left(self, job: str) -> float | None:
        """Seconds until the running job's time limit; None without a limit."""

    def requeue(self, job: str) -> None:
        """Put the running job back into the queue under the same id, to be started again from its beginning. The
        caller leaves right after, if the launcher did not end it."""

    def preempted(self, job: str) -> bool:
        """Whether the running job, whose ranks were asked to stop, has to make room for another one and is to be
        continued; false where a user took it back."""

    def start_ranks(
        self,
        arguments: Sequence[str],
        profile: Profile,
        environment: Mapping[str, str],
        most: int | None = None,
        worlds: int = 1,
    ) -> int:
        """Start `rank_program(environment, arguments)` as the job's ranks, but no more than `most`, and wait; returns
        their exit status. Of several `worlds`, which call this side by side, each gets its share of the job.

        Each rank gets `environment` and finds its place: through torchrun's five variables, Open MPI's, or those that
        `place` reads. A rank that fails ends the others. SIGTERM to the job reaches the ranks.
        """

    # --- what a process is

    def current_job(self, environment: Mapping[str, str]) -> CurrentJob:
        """The job that the process with this environment works for; UserError where it is in none."""

    def place(self, environment: Mapping[str, str]) -> RankPlace | None:
        """The rank that this process is, by this launcher's own variables; None where they name none."""


def rank_program(environment: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The words that start one rank, with the Python that the profile names."""
    return [environment.get("STILTS_PYTHON", sys.executable), "-m", "stilts_launcher.rank", *arguments]


def script(kind: str) -> Path:
    """The shell script of a kind of job, in the checkout's slurm/ or the installed package. Its first words after the
    run folder are the phases to work on; what it says to Slurm are comments to everybody else."""
    checkout = Path(__file__).resolve().parents[3] / "slurm" / f"{kind}.sbatch"
    return checkout if checkout.exists() else Path(str(files("stilts_launcher") / "slurm" / f"{kind}.sbatch"))
