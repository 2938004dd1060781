"""Arguments for sbatch and srun as pure functions, and the few calls to Slurm's commands. No shell text is built."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_launcher.cluster import Container, Kind, Profile


@dataclass(frozen=True)
class Job:
    """One sbatch call: `phases` share it as an array (empty for the report). `after` are job ids."""

    kind: Kind
    name: str
    phases: tuple[str, ...]
    after: tuple[str, ...] = ()


def script(kind: str) -> Path:
    """Path of slurm/<kind>.sbatch, in the checkout or the installed package."""
    checkout = Path(__file__).resolve().parents[2] / "slurm" / f"{kind}.sbatch"
    return checkout if checkout.exists() else Path(str(files("stilts_launcher") / "slurm" / f"{kind}.sbatch"))


def sbatch_command(job: Job, profile: Profile, run: Path, batch_script: Path) -> list[str]:
    """The whole command. Slurm reads a job as `<id>`, an element of an array as `<id>_<index>`."""
    asked = profile.resources(job.kind)
    options = {
        "job-name": job.name,
        "output": f"{str(run / 'logs').replace('%', '%%')}/{job.name}-{'%A_%a' if job.phases else '%j'}.log",
        "partition": asked.partition,
        "account": profile.account,
        "qos": profile.qos,
        "reservation": profile.reservation,
        "constraint": asked.constraint,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.tasks,
        "gpus-per-node": asked.gpus_per_node or None,
        "cpus-per-task": asked.cpus_per_task,
        "mem": asked.mem,
        "time": asked.time,
        "array": _array(job, profile),
        # A report tells what is there; everything else must not start on half a result.
        "dependency": f"{'afterany' if job.kind == 'report' else 'afterok'}:{':'.join(job.after)}"
        if job.after
        else None,
        "kill-on-invalid-dep": "yes",
        "signal": None if job.kind == "report" else f"USR1@{profile.stop_seconds}",
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return ["sbatch", "--parsable", *given, *asked.extra, str(batch_script), str(run), *job.phases]


def _array(job: Job, profile: Profile) -> str | None:
    if not job.phases:
        return None
    return f"0-{len(job.phases) - 1}" + (f"%{profile.array_limit}" if profile.array_limit else "")


def srun_command(python: str, container: Container | None, arguments: Sequence[str]) -> list[str]:
    """Start the ranks of a job's allocation. A rank that fails ends its step."""
    inside = [python, "-m", "stilts_launcher.rank", *arguments]
    step = ["srun", "--kill-on-bad-exit=1"]
    if container is None:
        return [*step, *inside]
    if container.runtime == "pyxis":
        mounts = [f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []
        return [*step, f"--container-image={container.image}", *mounts, *inside]
    binds = [part for mount in container.mounts for part in ("--bind", mount)]
    return [*step, container.runtime, "exec", "--nv", *binds, container.image, *inside]


def call(command: Sequence[str]) -> str:
    """Output of one of Slurm's commands; raises UserError with its own words when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on this machine; `stilts run` works without Slurm") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within two minutes; ask again when Slurm does") from None
    if done.returncode:
        raise UserError(f"{command[0]} refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def submit(command: Sequence[str]) -> str:
    """Hand one job in; returns its id."""
    return call(command).split(";")[0]


@dataclass(frozen=True)
class Queued:
    """A job in Slurm's queue."""

    state: str
    reason: str
    elapsed: str
    nodes: str


def queue() -> dict[str, Queued]:
    """This user's jobs that wait or run, by id; elements of arrays apart."""
    lines = call(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%T|%r|%M|%N"]).splitlines()
    parts = [line.split("|") for line in lines]
    return {p[0]: Queued(p[1], p[2], p[3], p[4]) for p in parts if len(p) == 5}
