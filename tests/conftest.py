"""Fixtures: the data folder beside the repository, and a toy run shared by the tests that look at its files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import study

SHARED = ranks.SHARED


LONGEST = ("test_slurm.py", "test_engine.py", "test_checkpoints.py", "test_deepspeed.py", "test_faults.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that none of them is left to one process at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


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
    folder = tmp_path_factory.mktemp("mini-xlmr")
    made = subprocess.run([sys.executable, str(tool), str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"the small XLM-R could not be built: {made.stderr.strip().splitlines()[-1:]}")
    return folder


def stilts(*arguments: object, cwd: Path, status: int = 0, timeout: int = 300, **extra: str) -> str:
    """Run the command as a user would; returns what it printed and checks its exit status."""
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
    folder = tmp_path_factory.mktemp("undisturbed")
    study.stilts(folder, "run", "study.yaml")
    return folder / "runs" / "study"


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    stilts("run", "quickstart", *SMALL, cwd=folder)
    return folder / "runs" / "quickstart"
