"""XTREME and XTREME-R as values: which tasks in which languages, in which groups, make one average."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.tasks import targets, test_sizes
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class Benchmark:
    """`groups` are its tasks by group. Its average is the mean over the tasks, each the mean over its languages.

    `languages` are those of tasks that have others here than in their literals; `test_sizes` what is known of them.
    """

    name: str
    title: str
    groups: Mapping[str, tuple[str, ...]]
    languages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test_sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(name for names in self.groups.values() for name in names)

    def fitted(self, task: Task) -> Task:
        """The task with the benchmark's languages; a task of another benchmark stays as it is."""
        languages = self.languages.get(task.name, task.languages)
        # Added to the literal's sizes: most languages of a test set are in both benchmarks.
        sizes = {**task.test_sizes, **self.test_sizes.get(task.name, {})}
        return dataclasses.replace(task, languages=languages, test_sizes=sizes)

    def group_of(self, task: Task, otherwise: str) -> str:
        """The group that a task's score belongs to, `otherwise` for a task that is none of the benchmark's."""
        named = (group for group, names in self.groups.items() if task.name in names)
        return next(named, otherwise)


XTREME = Benchmark(
    name="xtreme",
    title="XTREME",
    groups={
        "classification": ("xnli", "pawsx"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("bucc2018", "tatoeba"),
    },
)

# XTREME-R leaves out PAWS-X and BUCC, where models had little left to gain, and adds XCOPA, Mewsli-X and LAReQA.
XTREME_R = Benchmark(
    name="xtreme-r",
    title="XTREME-R",
    groups={
        "classification": ("xnli", "xcopa"),
        "tagging": ("udpos", "panx"),
        "qa": ("xquad", "mlqa", "tydiqa"),
        "retrieval": ("tatoeba", "mewslix", "lareqa"),
    },
    # The literals hold XTREME's languages, so what stands here is only where XTREME-R scores more of them.
    languages={
        "udpos": targets.UDPOS.languages + targets.UD27_LANGUAGES,
        "panx": targets.PANX_LANGUAGES + targets.PANX_ADDED,
        "xquad": (*targets.XQUAD.languages, "ro"),
        "tatoeba": targets.TATOEBA.languages + targets.TATOEBA_ADDED,
    },
    test_sizes={
        "udpos": test_sizes.UDPOS_ADDED,
        "panx": test_sizes.PANX_ADDED,
        "xquad": {"ro": 1_190},
        "tatoeba": dict.fromkeys(targets.TATOEBA_ADDED, 1_000),
    },
)

BENCHMARKS: dict[str, Benchmark] = {benchmark.name: benchmark for benchmark in (XTREME, XTREME_R)}


def get_benchmark(name: str) -> Benchmark:
    """The benchmark called `name`. Raises UserError with the nearest names for an unknown one."""
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}{did_you_mean(name, BENCHMARKS)}")
    return BENCHMARKS[name]
