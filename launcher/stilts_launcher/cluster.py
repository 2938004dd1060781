"""A cluster profile: what `stilts submit --cluster profile.yaml` asks a launcher for. Written once for each cluster.

Nothing in it reaches a shell but `setup`, which is shell text by its nature; all else travels as arguments of the
launcher's commands. `backends/registry.py` reads profiles and checks them against the launcher that they name.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from stilts_ds.config import Section, parse_section
from stilts_ds.values import RankCount

JobKind = Literal["prepare", "intermediate", "target", "phases", "report"]
# A report computes for a minute; short jobs are started in the gaps that longer ones leave.
REPORT_TIME = "00:30:00"
GPUS = re.compile(r"(?:[A-Za-z][A-Za-z0-9_.-]*:)?(\d{1,4})")
TIME = re.compile(r"(\d+-)?\d+(:\d\d){0,2}|UNLIMITED")


class Resources(Section):
    """What a job asks for; an unset value leaves the choice to the launcher."""

    partition: str | None = Field(None, description="queue that the job waits in")
    nodes: int = Field(1, ge=1, description="machines of a job")
    gpus_per_node: int | str = Field(0, description="GPUs of a node, such as 4, or with their type a100:4")
    ntasks_per_node: int | None = Field(None, ge=1, description="ranks on a node; default: one for each GPU, or one")
    cpus_per_task: int | None = Field(None, ge=1, description="cores of a rank")
    mem: str | None = Field(None, description="memory of a node, such as 120G")
    time: str | None = Field(None, description='time limit of a job, such as "12:00:00"; a longer phase is continued')
    constraint: str | None = Field(None, description="features that the nodes must have")
    extra: list[str] = Field(default_factory=list, description="more options of the submission, as --option=value")

    @field_validator("time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        if isinstance(value, int):  # minutes to one launcher, seconds to another
            raise ValueError("give hours:minutes:seconds, such as 12:00:00")
        if isinstance(value, str) and not TIME.fullmatch(value):
            raise ValueError('give hours:minutes:seconds or days-hours:minutes:seconds, such as "1-12:00:00"')
        return value

    @field_validator("gpus_per_node", mode="before")
    @classmethod
    def _gpus(cls, value: Any) -> Any:
        # YAML reads `yes` as True, which Python counts as the number 1.
        if isinstance(value, bool) or not GPUS.fullmatch(str(value)):
            raise ValueError("give the number of GPUs, such as 4, or type and number, such as a100:4")
        return int(value) if str(value).isdigit() else value

    @field_validator("mem", mode="before")
    @classmethod
    def _plain_number(cls, value: Any) -> Any:
        # Not isinstance: True is an int to Python, and no size.
        return str(value) if type(value) is int else value  # megabytes to Slurm

    @field_validator("extra")
    @classmethod
    def _extra(cls, options: list[str]) -> list[str]:
        for option in options:
            # Short options have no `=`, and a bare word would become the name of the batch script.
            if not option.startswith("--"):
                raise ValueError(f"{option!r} is no option; write --option=value")
        return options

    @field_validator("partition", "mem", "constraint", "extra")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        return one_line(value)

    @property
    def gpus(self) -> int:
        """GPUs of each node."""
        return int(str(self.gpus_per_node).rpartition(":")[2])

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.ntasks_per_node or max(1, self.gpus)


class Container(Section):
    """A container that the ranks run in. The batch script itself stays outside, where the launcher's commands are."""

    runtime: Literal["apptainer", "singularity", "pyxis"] = Field(description="program that runs the container")
    image: str = Field(description="path or address of the image")
    mounts: list[str] = Field(default_factory=list, description="folders that the ranks see, each as source:target")

    @field_validator("image", "mounts")
    @classmethod
    def _one_line(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            # Both travel as words of a command line.
            if text.startswith("-"):
                raise ValueError(f"{text!r} would be read as an option; give a path or an address")
        return one_line(value)


class Mail(Section):
    """Mail of the launcher. One tells that the study has ended, and others that jobs failed or were put back."""

    to: str = Field(description="address, such as me@example.org")
    on: list[Literal["begin", "end", "fail", "requeue"]] = Field(
        ["end", "fail"],
        min_length=1,
        description="`end` of the study; jobs that `begin`, `fail` or are put back (`requeue`)",
    )

    @field_validator("to")
    @classmethod
    def _address(cls, value: str) -> str:
        if not re.fullmatch(r"[^\s@,-][^\s@,]*(@[^\s@,]+)?", value):  # a user's name is one, too, on many clusters
            raise ValueError(f"{value!r} is no address; write one, such as me@example.org")
        return one_line(value)


class Profile(Resources):
    """The resources of every job, what differs by kind of job, and the site's ways."""

    backend: str = Field("slurm", description="the launcher: a name in backends/registry.py")
    account: str | None = Field(None, description="project that the jobs are charged to")
    qos: str | None = Field(None, description="quality of service, which sets limits and priority")
    reservation: str | None = Field(None, description="reserved nodes to run on")
    mail: Mail | None = Field(None, description="who is written to: an address, or `to` and `on`; null: nobody")
    setup: list[str] = Field(
        default_factory=list, description="shell lines before Python starts, such as `module load cuda`"
    )
    python: str | None = Field(None, description="Python of the jobs; default: the one that submits")
    container: Container | None = Field(None, description="container that the ranks run in; null: none")
    jobs: dict[JobKind, dict[str, Any]] = Field(
        default_factory=dict, description="other resources for prepare, intermediate, target, phases or report jobs"
    )
    worlds: RankCount | None = Field(
        None,
        description="one job for all phases, whose ranks are divided into so many worlds, each at work on one phase at "
        "a time; `auto`: as many as leave no rank without an example of a step; null: a job for each phase",
    )
    array_limit: int | None = Field(None, ge=1, description="most jobs of one array that run at the same time")
    stop_seconds: int = Field(
        300, ge=15, description="seconds before the time limit at which a job saves and asks to be continued"
    )
    max_requeues: int = Field(50, ge=0, description="times that a job may be continued after its time limit")
    max_restarts: int = Field(3, ge=0, description="times that a job starts its ranks again after a crash")

    @field_validator("mail", mode="before")
    @classmethod
    def _mail_by_address(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value

    @field_validator("backend", "account", "qos", "reservation", "python")
    @classmethod
    def _one_line_too(cls, value: Any) -> Any:
        return one_line(value)

    @model_validator(mode="after")
    def _jobs_are_resources(self) -> Profile:
        # When the profile is read: a typing error in `jobs` must not come up when the last kind of job is submitted.
        for kind in self.jobs:
            self.resources(kind)
        asked = self.resources("phases")
        ranks = asked.nodes * asked.tasks
        if isinstance(self.worlds, int) and self.worlds > ranks:
            raise ValueError(f"worlds: {self.worlds} are more than the {ranks} ranks of a job; give no more than ranks")
        return self

    @property
    def prepares(self) -> bool:
        """Whether a job makes the rows before phases run: where their jobs ask for GPUs, which would wait for it."""
        kinds: tuple[JobKind, ...] = ("intermediate", "target") if self.worlds is None else ("phases",)
        return any(self.resources(kind).gpus > 0 for kind in kinds)

    def resources(self, kind: JobKind) -> Resources:
        """The resources of one kind of job. The report takes one core for a minute, wherever it runs: what other jobs
        ask for beyond partition and memory would give it a whole node. Preparing takes a node's cores and no GPU, where
        the report does unless its own key says otherwise."""
        base = {name: getattr(self, name) for name in Resources.model_fields}
        if kind in ("prepare", "report"):
            base |= {"nodes": 1, "gpus_per_node": 0, "ntasks_per_node": 1}
        if kind == "prepare":
            # The nodes that have the GPUs are not asked for, nor options that mean them.
            partition = self.jobs.get("report", {}).get("partition", self.partition)
            base |= {"constraint": None, "extra": [], "partition": partition}
            if self.cpus_per_task is not None:
                base["cpus_per_task"] = self.cpus_per_task * self.tasks
        if kind == "report":
            # A profile without time limits sets none here, either.
            base |= {"cpus_per_task": None, "constraint": None, "extra": [], "time": self.time and REPORT_TIME}
        return parse_section(Resources, {**base, **self.jobs.get(kind, {})}, f"jobs.{kind}")


def one_line(value: Any) -> Any:
    """Refuse line breaks and other control characters: an option is one line."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (not text or not text.isprintable()):
            raise ValueError(f"{text!r} is empty or holds control characters; give one line of text")
    return value
