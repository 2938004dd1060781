"""Slurm. Its commands and variables are named in this file and in the scripts of slurm/, and nowhere else.

Commands are lists of words; no shell text is built. Slurm knows a job as `<id>`, an element of an array as
`<id>_<index>`; the phases of one Job are the elements of an array.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from stilts_ds.errors import UserError
from stilts_launcher.backends.base import CurrentJob, Job, QueuedJob, Submitted, rank_program, script
from stilts_launcher.cluster import GPUS, Container, JobKind, Profile, Resources
from stilts_launcher.rank_place import FIRST_PORT, PORTS, RankPlace, read_number

REASONS = {  # Slurm's reasons for waiting, in words
    "Dependency": "waits for the phase it starts from",
    "BeginTime": "waits for Slurm to start it again",
    "Resources": "waits for nodes",
    "Priority": "waits its turn",
    "JobHeldUser": "held by its user",
    "None": "",  # it has not looked at the job yet
}
SECONDS_TO_BE_ENDED = 60
# Kinds of jobs that save before their time limit, and go on in another job.
CONTINUED = ("intermediate", "target", "phases")


class Slurm:
    """Slurm's commands as a launcher (see `base.Launcher`)."""

    settings = frozenset(Resources.model_fields) | {
        "account", "qos", "reservation", "container", "array_limit", "mail",
    }  # fmt: skip

    def submit(self, job: Job, profile: Profile, dry_run_as: str | None = None) -> Submitted:
        command = sbatch_command(job, profile, script(job.kind))
        job_id = (
            dry_run_as if dry_run_as is not None else submitted_id(_call(command, submission_environment(os.environ)))
        )
        elements = tuple(f"{job_id}_{index}" for index in range(len(job.phases)))
        return Submitted(job_id, elements, tuple(command))

    def queue(self) -> dict[str, QueuedJob]:
        # -r: a line for each element of an array, whose ids are those that `submit` returned.
        lines = _call(["squeue", "-h", "-r", "-u", str(os.getuid()), "-o", "%i|%T|%r|%M|%N"]).splitlines()
        queued = {}
        for columns in (line.split("|") for line in lines):
            # A site's wrapper may print lines of its own.
            if len(columns) == 5:
                job, state, reason, elapsed, nodes = columns
                queued[job] = QueuedJob(state == "PENDING", REASONS.get(reason, reason), elapsed, nodes)
        return queued

    def cancel(self, jobs: Sequence[str]) -> None:
        _call(["scancel", *jobs])

    def check(self, profile: Profile) -> None:
        for kind in get_args(JobKind):
            asked = profile.resources(kind)
            for option in asked.extra:
                _check_extra(option)
            limit = seconds_of_limit(asked.time or "")
            if kind in CONTINUED and limit is not None and limit <= profile.stop_seconds:
                raise UserError(
                    f"time: {kind} jobs of {asked.time} save {profile.stop_seconds} s before their end, which leaves "
                    "no second for work; give a longer time, or a smaller stop_seconds"
                )

    def seconds_left(self, job: str) -> float | None:
        return seconds_of(_call(["squeue", "-h", "-j", job, "-o", "%L"]))

    def requeue(self, job: str) -> None:
        _call(["scontrol", "requeue", job])
        time.sleep(SECONDS_TO_BE_ENDED)  # Slurm ends this process; leaving by itself would count as finished

    def preempted(self, job: str) -> bool:
        return _facts(job).get("PreemptTime", "None") not in ("None", "N/A", "Unknown", "(null)")

    def start_ranks(
        self,
        arguments: Sequence[str],
        profile: Profile,
        environment: Mapping[str, str],
        most: int | None = None,
        worlds: int = 1,
    ) -> int:
        options = fewer_tasks(environment, most, worlds)
        step = srun_command(rank_program(environment, arguments), profile.container, options)
        variables = step_environment(environment)
        return subprocess.call(step, env=variables, stdin=subprocess.DEVNULL)  # srun hands its own to rank 0

    def current_job(self, environment: Mapping[str, str]) -> CurrentJob:
        """What Slurm says of SLURM_JOB_ID. The other variables may be those of a job from inside which it was
        submitted, so they count only where Slurm cannot be asked."""
        if facts := _facts(environment.get("SLURM_JOB_ID", "")):
            element = f"{facts.get('ArrayJobId')}_{facts.get('ArrayTaskId')}"
            job = element if facts.get("ArrayTaskId", "").isdecimal() else facts["JobId"]
            return CurrentJob(job, int(facts.get("Restarts", "0")))
        count = environment.get("SLURM_RESTART_COUNT", "0")
        return CurrentJob(_job_id(environment), int(count) if count.isascii() and count.isdigit() else 0)

    def place(self, environment: Mapping[str, str]) -> RankPlace | None:
        """Only inside a step: a batch script itself also sees SLURM_PROCID=0."""
        tasks = read_number(environment, "SLURM_NTASKS", "srun") if "SLURM_NTASKS" in environment else 1
        if "SLURM_STEP_ID" not in environment:
            if tasks > 1 and "SLURM_JOB_ID" in environment:
                raise UserError(
                    f"this is one process in a Slurm job of {tasks} tasks; start all of them with `srun stilts ...`"
                )
            return None
        size = read_number(environment, "SLURM_STEP_NUM_TASKS", "srun")
        if size == 1 and tasks == 1:
            return None
        return RankPlace(
            rank=read_number(environment, "SLURM_PROCID", "srun"),
            local_rank=read_number(environment, "SLURM_LOCALID", "srun"),
            size=size,
            address=_address(environment),
            port=_port(environment),
            starter="srun",
            node=environment.get("SLURMD_NODENAME", ""),
            on_node=_tasks_on_node(environment),
            bound="mask" in environment.get("SLURM_CPU_BIND_TYPE", ""),
        )


def _mail(job: Job, profile: Profile) -> dict[str, str]:
    """The options of a job's mail. Only the report ends the study: a mail for each phase would be hundreds."""
    if profile.mail is None:
        return {}
    events = [event for event in profile.mail.on if event != "end" or job.kind == "report"]
    return {"mail-user": profile.mail.to, "mail-type": ",".join(events).upper()} if events else {}


def sbatch_command(job: Job, profile: Profile, batch_script: Path) -> list[str]:
    """The whole command that hands a job in."""
    asked = profile.resources(job.kind)
    logs = str(job.run / "logs").replace("%", "%%")  # in --output, %A and the like are Slurm's
    number = "%A_%a" if job.phases else "%j"
    warning = f"USR1@{profile.stop_seconds}" if job.kind in CONTINUED else None
    options = {
        "job-name": job.name,
        "output": f"{logs}/{job.name}-{number}.log",
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
        "dependency": _dependency(job),
        # Otherwise what waits for a failed phase stays in the queue for ever.
        "kill-on-invalid-dep": "yes",
        "signal": warning,
        **_mail(job, profile),
    }
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    return ["sbatch", "--parsable", *given, *asked.extra, str(batch_script), str(job.run), *job.phases]


def _array(job: Job, profile: Profile) -> str | None:
    if not job.phases:
        return None
    # `%N` limits how many elements run at a time.
    return f"0-{len(job.phases) - 1}" + (f"%{profile.array_limit}" if profile.array_limit else "")


def _dependency(job: Job) -> str | None:
    if not job.after:
        return None
    if job.kind != "report":  # a phase must not start on half a result
        return f"afterok:{':'.join(job.after)}"
    # A report waits for all there is: whole arrays in place of their elements keep the command short.
    arrays = sorted({element.split("_")[0] for element in job.after})
    return f"afterany:{':'.join(arrays)}"


# Options of sbatch that the plan itself gives (dependencies, arrays, logs, the warning before the end), and those with
# which its jobs would not be found again or do nothing.
OWNED = (
    "array", "dependency", "kill-on-invalid-dep", "no-requeue", "output", "parsable", "signal", "test-only", "wait",
    "wrap",
)  # fmt: skip
# Options that the profile has a key for, which is checked and planned with.
KEYED = (
    "account", "constraint", "cpus-per-task", "gpus-per-node", "mem", "nodes", "ntasks-per-node", "partition", "qos",
    "reservation", "time",
)  # fmt: skip
WHOLE = ("gpus", "ntasks")  # options themselves, and no short forms of longer ones


def _check_extra(option: str) -> None:
    """Raise UserError for an option that would take the place of one of the plan's or the profile's. Slurm accepts
    shortened names."""
    name = option.removeprefix("--").partition("=")[0]
    if name in WHOLE:
        return
    taken = [owned for owned in OWNED if name and owned.startswith(name)]
    if taken:
        raise UserError(f"extra: {option!r} would override the plan's own --{taken[0]}; leave it out")
    keyed = [long for long in KEYED if name and long.startswith(name)]
    if keyed:
        key = keyed[0].replace("-", "_")
        raise UserError(f"extra: {option!r} would pass by the profile's key `{key}`; set that one")


def submitted_id(printed: str) -> str:
    """The job's id in what sbatch prints: `id` or `id;cluster`, the last such line, since a site's wrapper may print
    lines of its own. Raises UserError where there is none."""
    for line in reversed(printed.splitlines()):
        if named := re.fullmatch(r"(\d+)(;[\w.-]+)?", line.strip()):
            return named[1]
    raise UserError(
        f"sbatch printed no id of a job, but {printed[:300]!r}; look whether it was handed in (squeue --me)"
    )


# A user's or site's defaults that sbatch puts above the batch scripts' own lines: a job that is not requeued is lost at
# its time limit, a report is one job, logs go on, and sbatch says at once what it handed in.
DEFAULTS = ("SBATCH_NO_REQUEUE", "SBATCH_OPEN_MODE", "SBATCH_ARRAY_INX", "SBATCH_WAIT")


def submission_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment to hand jobs in from: without the job that this process may run in (a notebook, say), whose
    identity and shape a new one would take for its own, and without defaults that the plan's jobs cannot live with."""
    dropped = {*DEFAULTS, "SRUN_CPUS_PER_TASK"}
    return {
        name: value
        for name, value in environment.items()
        if name == "SLURM_CONF" or not (name.startswith("SLURM_") or name in dropped)
    }


def step_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a job's ranks."""
    # Of a site or user with SBATCH_EXPORT=NONE: srun would hand on nothing, neither the run's token nor its code.
    dropped = ("SLURM_EXPORT_ENV", "SRUN_EXPORT_ENV")
    variables = {name: value for name, value in environment.items() if name not in dropped}
    # srun does not take over --cpus-per-task from sbatch (Slurm 22.05 and later). Where nothing was asked for, the
    # choice stays Slurm's, and each rank takes its threads from the cores that it may use.
    if cores := environment.get("SLURM_CPUS_PER_TASK"):
        variables = {"OMP_NUM_THREADS": cores, **variables, "SRUN_CPUS_PER_TASK": cores}
    return variables


def _facts(job: str) -> dict[str, str]:
    """What Slurm knows of a job, by its words; {} where it cannot be asked.

    The number of an array's last element is the array's own, too, for which Slurm shows every element, a line each.
    """
    if not job:
        return {}
    try:
        shown = _call(["scontrol", "show", "job", "-o", job])
    except UserError:
        return {}
    jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in shown.splitlines()]
    return next((facts for facts in jobs if facts.get("JobId") == job), jobs[0] if jobs else {})


def fewer_tasks(environment: Mapping[str, str], most: int | None, worlds: int = 1) -> list[str]:
    """Options of a step of at most `most` tasks, on as few nodes as can be; [] where it has all of the job's tasks.

    Of several `worlds` each has its share of the tasks, and the cores and GPUs that belong to them: the steps of the
    others run beside it. Raises UserError for more worlds than tasks.
    """
    if "SLURM_NTASKS" not in environment:
        return []
    tasks = read_number(environment, "SLURM_NTASKS", "srun")
    if worlds > tasks:
        raise UserError(f"worlds: {worlds} are more than the job's {tasks} tasks; give no more worlds than ranks")
    count = tasks // worlds if most is None else min(tasks // worlds, most)
    if count == tasks:
        return []
    nodes = read_number(environment, "SLURM_JOB_NUM_NODES", "srun") if "SLURM_JOB_NUM_NODES" in environment else 1
    taken = -(-count * nodes // tasks)
    options = [f"--ntasks={count}", f"--nodes={taken}"]
    if worlds > 1:
        # No memory of its own: a step would else have all of the job's, and the next one would wait for it.
        options += ["--exclusive", "--mem=0", *_gpus_of_step(environment, -(-count // taken), -(-tasks // nodes))]
    return options


def _gpus_of_step(environment: Mapping[str, str], tasks: int, of: int) -> list[str]:
    """The option for a step's share of a node's GPUs: for `tasks` of the node's `of` tasks."""
    gpus = GPUS.fullmatch(environment.get("SLURM_GPUS_PER_NODE", ""))
    return [f"--gpus-per-node={max(1, int(gpus[1]) * tasks // of)}"] if gpus else []


def srun_command(program: Sequence[str], container: Container | None, options: Sequence[str] = ()) -> list[str]:
    """Start the ranks of a job's allocation. A rank that fails ends its step."""
    step = ["srun", "--kill-on-bad-exit=1", *options]
    if container is None:
        return [*step, *program]
    # A plugin of srun; the others are programs that srun starts.
    if container.runtime == "pyxis":
        mounts = [f"--container-mounts={','.join(container.mounts)}"] if container.mounts else []
        return [*step, f"--container-image={container.image}", *mounts, *program]
    # --nv brings the host's GPU driver into the container.
    binds = [word for mount in container.mounts for word in ("--bind", mount)]
    return [*step, container.runtime, "exec", "--nv", *binds, container.image, *program]


def _call(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Output of one of Slurm's commands; raises UserError with its own words when it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not on this machine; `stilts run` works without Slurm") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]} did not answer within two minutes; ask again when Slurm does") from None
    if done.returncode:
        raise UserError(f"{command[0]} refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def _job_id(environment: Mapping[str, str]) -> str:
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    if "SLURM_JOB_ID" not in environment:
        raise UserError("this is no Slurm job; use `stilts submit`, sbatch slurm/*.sbatch, or `stilts run`")
    return environment["SLURM_JOB_ID"]


def seconds_of(text: str) -> float | None:
    """Slurm's [days-][hours:]minutes:seconds as seconds; None for UNLIMITED and the like."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not clock or not all(number.isdigit() for number in [*parts, days or "0"]):
        return None
    seconds = 0
    for number in parts:
        seconds = seconds * 60 + int(number)
    return int(days or 0) * 86400 + seconds


def seconds_of_limit(text: str) -> float | None:
    """A time limit as sbatch reads it, in seconds: minutes[:seconds], hours:minutes:seconds, or days-hours[:minutes
    [:seconds]]; None for none."""
    days, dash, clock = text.strip().rpartition("-")
    numbers = [int(number) for number in clock.split(":") if number.isdecimal()]
    if len(numbers) != len(clock.split(":")):
        return None
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, [*numbers, 0][:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def _tasks_on_node(environment: Mapping[str, str]) -> int:
    """The first number of `2(x3),1`: as many tasks on each of three nodes, one on the last; near enough for threads."""
    first = re.match(r"[1-9][0-9]{0,5}", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    return int(first[0]) if first else 1


def _address(environment: Mapping[str, str]) -> str:
    """Where rank 0 listens: what the user says, this machine for a step on one node, or the step's first node."""
    if given := environment.get("STILTS_MASTER_ADDR"):
        return given
    if environment.get("SLURM_STEP_NUM_NODES", "1") == "1":
        return "127.0.0.1"
    return _first_host(environment.get("SLURM_STEP_NODELIST", ""))


def _first_host(nodes: str) -> str:
    """The first host of a list such as `n[01-04,7],m3`, read without Slurm's commands: inside a container there are
    none, and thousands of ranks would ask the controller at once. Raises UserError for what is no list."""
    first = re.match(r"(?:[A-Za-z0-9._-]|\[[0-9][0-9,-]*\])+(?=,|$)", nodes)
    if first is None or nodes.startswith("-"):
        raise UserError(f"Slurm's node list {nodes!r} cannot be read; set STILTS_MASTER_ADDR yourself")
    return re.sub(r"\[([0-9]+)[0-9,-]*\]", r"\1", first[0])


def _port(environment: Mapping[str, str]) -> int:
    """A port of this start of the step's own: the same on its ranks, which cannot ask each other yet."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    start = "/".join(environment.get(name, "") for name in names)
    return FIRST_PORT + int(hashlib.sha256(start.encode()).hexdigest(), 16) % PORTS
