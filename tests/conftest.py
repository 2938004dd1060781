"""Fixtures: the data folder beside the repository, and a toy run shared by the tests that look at its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
import ranks
import slurm_cluster
import study
import toy_worlds
from built_once import built_once, of_all_processes
from slurm_cluster import Cluster
from stilts_launcher.imports import heavy_imports

from stilts_ds import hub_client
from stilts_ds.tasks.registry import TASKS

SHARED = ranks.SHARED

# Test processes side by side share the cores: two of them with a thread for each core spend their time waiting for each
# other. Before torch is imported, which reads it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


LONGEST = (
    "test_slurm.py", "test_faults.py", "test_backends.py", "test_campaign.py", "test_user_tasks.py", "test_engine.py",
    "test_strangers.py", "test_fetch.py", "test_run.py", "test_mining_tool.py", "test_slurm_worlds.py",
    "test_prepare.py", "test_transcript.py", "test_notebooks.py", "test_worlds.py",
)  # fmt: skip


# Fixtures that start programs: who asks for one starts processes, too.
WITH_PROCESSES = {"toy_run", "undisturbed", "mini_xlmr"}
WITH_DATA = {"shared_data", "mini_xlmr"}
STARTS = {"subprocess.Popen", "os.fork", "os.posix_spawn", "os.system"}
QUICK = ("unit", "families")  # the folders of `make check`


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: packed ones hold the time, and workers must collect the same names."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that none of them is left to one process at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        marks = {mark.name for mark in item.iter_markers()}
        if fixtures & WITH_PROCESSES or marks & {"cluster", "browser"}:
            item.add_marker(pytest.mark.processes)
        if fixtures & WITH_DATA:
            item.add_marker(pytest.mark.data)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The mark `data` names what a test reads below `../shared/data`."""
    for mark in item.iter_markers("data"):
        for path in mark.args:
            if not (SHARED / "data" / path).exists():
                pytest.skip(f"needs the real data in ../shared/data/{path}, which are not here")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    """The test modules import everything. With the collector at work, that took as long again."""
    with heavy_imports():
        return (yield)


@pytest.fixture(autouse=True)
def hub_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test puts something of its own in the hub's place, the real one is not asked whether it is there."""
    monkeypatch.setattr(hub_client, "_unreachable", lambda address: None)


class Watch:
    """Which test runs, for the audit hook below; an audit hook cannot be taken away again."""

    test: pytest.Item | None = None
    process = os.getpid()


def refuse_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """`make check` leaves out the tests marked `processes`; so a quick test without the mark starts none.

    Each record of a run asks git for the commit and uname for the machine: those two are let through.
    """
    if event not in STARTS or Watch.test is None or os.getpid() != Watch.process:
        return
    if event == "subprocess.Popen" and arguments[0] in ("git", "uname"):
        return
    raise AssertionError(f"{Watch.test.nodeid} starts a process: mark it with pytest.mark.processes")


sys.addaudithook(refuse_processes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    in_quick_folder = item.path.parent.name in QUICK
    if in_quick_folder and item.get_closest_marker("processes") is None:
        Watch.test = item
    try:
        return (yield)
    finally:
        Watch.test = None


@pytest.fixture(scope="session", autouse=True)
def worlds_are_written_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tell forked runs where the toy worlds lie (helpers/toy_worlds.py)."""
    os.environ[toy_worlds.FOLDER] = str(of_all_processes(tmp_path_factory) / "worlds")


@pytest.fixture(scope="module", autouse=True)
def tasks_of_a_module_stay_in_it() -> Generator[None]:
    """A run that is loaded brings its own tasks along; tests of other files know the shipped ones."""
    before = dict(TASKS)
    yield
    TASKS.clear()
    TASKS.update(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real data in ../shared/data, which is not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def mini_xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pretrained XLM-R of 118 million parameters, built by the tool beside the data."""
    tool = SHARED / "tools" / "make_mini_xlmr.py"
    if not tool.exists():
        pytest.skip("needs ../shared/tools/make_mini_xlmr.py, which is not here")

    def build(folder: Path) -> None:
        made = subprocess.run([sys.executable, str(tool), str(folder)], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"the small XLM-R could not be built: {made.stderr.strip().splitlines()[-1:]}")

    return built_once(tmp_path_factory, "mini-xlmr", build)


def stilts(*arguments: object, cwd: Path, status: int = 0, timeout: int = 300, warm: bool = True, **extra: str) -> str:
    """Run the command as a user would; returns what it printed and checks its exit status.

    `warm`: forked with its imports done, as are its ranks; importing torch, transformers and DeepSpeed takes longer
    than most of what is looked at here. Never with an environment of its own: libraries read theirs when they are
    imported.
    """
    if warm and not extra:
        ended = forked.stilts(cwd, arguments, timeout=timeout)
        assert ended.returncode == status, ended.output[-6000:]
        return ended.output
    command = [sys.executable, "-m", "stilts_launcher.cli", *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=ranks.environment(**extra),
        text=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == status, done.stdout[-6000:]
    return done.stdout


# A toy study in which everything happens, only less of it.
SMALL = [
    "intermediate={none: [], nli: [mnli, ccg, hellaswag]}",
    "targets=[xnli, udpos, xquad, bucc2018, tatoeba]",
    "intermediate_training.max_steps=4",
    "target_training.max_steps=3",
    "evaluation.max_examples=20",
]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small study on two ranks of this machine, where nothing went wrong."""
    folder = built_once(tmp_path_factory, "undisturbed", lambda folder: study.stilts(folder, "run", "study.yaml"))
    return folder / "runs" / "study"


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that most tests look at is started just as a user starts it. Each test process has a copy: some tests
    damage it and mend it again."""

    def build(folder: Path) -> None:
        stilts("run", "quickstart", *SMALL, cwd=folder, warm=False)

    built = built_once(tmp_path_factory, "toy-built", build)
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(built, folder, symlinks=True, dirs_exist_ok=True)
    return folder / "runs" / "quickstart"


@pytest.fixture
def cluster_with_gpus(tmp_path: Path) -> Iterator[Cluster]:
    """A real Slurm of two nodes with two GPUs each, which are make-believe."""
    (tmp_path / "slurm").mkdir()
    with slurm_cluster.running(tmp_path / "slurm", gpus=2) as cluster:
        yield cluster
