"""The toy world, its tasks written once for all test processes: each run would write the same into its own folder."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from stilts_ds.toy import world

FOLDER = "STILTS_TEST_WORLDS"  # the variable that names where the worlds are kept; the tests' configuration sets it


def copied() -> None:
    """Have this process, and what is forked from it, copy the tasks of a world in place of writing them."""
    if FOLDER not in os.environ:  # a tool outside the tests
        return
    write = world.write_tasks

    def copy(folder: Path, seed: int) -> None:
        kept = Path(os.environ[FOLDER]) / str(seed)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with open(f"{kept}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (kept / "whole").exists():  # nobody wrote it yet, or was killed while writing
                shutil.rmtree(kept, ignore_errors=True)
                write(kept / "tasks", seed)
                (kept / "whole").touch()
        # Copies and not links: some tests damage the files of their run.
        shutil.copytree(kept / "tasks", folder, dirs_exist_ok=True)

    world.write_tasks = copy
