"""One process at a time in a run folder and in a phase, also where the file system locks no files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import ranks
from stilts_launcher.recipes import recipe_of_run
from stilts_launcher.submit import identity, jobs_of
from users import USERS, as_user

from stilts_ds import locks
from stilts_ds.config import recipe_yaml
from stilts_ds.engine.preflight import check_same_start
from stilts_ds.errors import UserError
from stilts_ds.locks import HELD_BY_JOB, HOLDER, folder_lock, lease, phase_lock, run_lock
from stilts_ds.run_dir import PhaseDir, RunDir, read_json, write_atomically, write_json

HOLDS = """
import sys
from pathlib import Path
from stilts_ds import locks
def no_flock(file, how):
    raise OSError(38, "Function not implemented")
if sys.argv[2] == "without flock":
    locks.fcntl.flock = no_flock
with locks.folder_lock(Path(sys.argv[1]), "busy"):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(folder: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder until the end of the block, or until it is killed."""
    command = [sys.executable, "-c", HOLDS, str(folder), how]
    with subprocess.Popen(
        command, env=ranks.environment(), text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        yield process
        process.kill()


def no_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file system without locks: there is none on this machine."""

    def flock(file: object, how: int) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_no_other_stilts(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_flock(monkeypatch, number)
    with folder_lock(tmp_path, "busy"):
        assert "this file system locks no files" in caplog.text
        with (
            pytest.raises(UserError, match=r"busy. .*\.lock\.holder names process \d+ on "),
            folder_lock(tmp_path, "busy"),
        ):
            pass
    assert not (tmp_path / HOLDER).exists()


@pytest.mark.processes
def test_without_locks_a_killed_holder_lets_go_and_a_living_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_flock(monkeypatch, errno.ENOSYS)
    with holder(tmp_path, "without flock") as process:
        with pytest.raises(UserError, match=f"process {process.pid} on"), folder_lock(tmp_path, "busy"):
            pass
        process.kill()
        process.wait()
        with folder_lock(tmp_path, "busy"):
            assert read_json(tmp_path / HOLDER)["process"] != process.pid


def test_without_locks_nobody_decides_about_a_holder_on_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_flock(monkeypatch, errno.ENOSYS)
    (tmp_path / HOLDER).write_text(json.dumps({"host": "n7", "boot": "b", "process": 1, "mark": "m"}))
    with (
        pytest.raises(UserError, match="process 1 on n7; delete it if that one is gone"),
        folder_lock(tmp_path, "busy"),
    ):
        pass


@pytest.mark.processes
def test_a_phase_is_one_processes_at_a_time_and_its_jobs_ranks_work_under_the_jobs_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase = PhaseDir(tmp_path / "target-mnli-0123")
    with holder(phase.root, "with flock"):
        with pytest.raises(UserError, match="at work in .*target-mnli-0123"), phase_lock(phase):
            pass
        monkeypatch.setenv(HELD_BY_JOB, "target-mnli-0123")
        with phase_lock(phase):
            pass
        monkeypatch.setenv(HELD_BY_JOB, "another phase")
        with pytest.raises(UserError), phase_lock(phase):
            pass


# --- copies ----------------------------------------------------------------------------------------------------------


def made_run(folder: Path) -> RunDir:
    from small_recipe import recipe

    run = RunDir(folder / "runs" / "study")
    write_atomically(run.recipe, recipe_yaml(recipe(output_dir=str(folder / "runs"))))
    write_json(run.jobs / "jobs.json", {"submitted": 1.0, "folder": identity(run), "jobs": {"a": "77_0"}})
    return run


def test_a_copy_works_in_itself_and_owns_no_jobs_and_a_moved_folder_keeps_them(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    assert jobs_of(run) == {"a": "77_0"}
    shutil.copytree(run.root, tmp_path / "copy")
    copy = RunDir(tmp_path / "copy")
    recipe = recipe_of_run(copy)
    assert (recipe.output_dir, recipe.name) == (tmp_path, "copy") and jobs_of(copy) == {}
    run.root.rename(tmp_path / "moved")
    moved = RunDir(tmp_path / "moved")
    assert recipe_of_run(moved).name == "moved" and jobs_of(moved) == {"a": "77_0"}


def test_jobs_that_an_earlier_version_noted_are_of_the_folder_that_their_setup_names(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    write_json(run.jobs / "jobs.json", {"submitted": 1.0, "jobs": {"a": "77_0"}})
    (run.jobs / "setup.sh").write_text(f"export PYTHONPATH={run.root}/jobs/code-0123\n")
    shutil.copytree(run.root, tmp_path / "copy")
    assert jobs_of(run) == {"a": "77_0"} and jobs_of(RunDir(tmp_path / "copy")) == {}


def test_a_folder_whose_name_no_run_can_have_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    run.root.rename(tmp_path / "copy of study")
    with pytest.raises(UserError, match="'copy of study' is no name of a run"):
        recipe_of_run(RunDir(tmp_path / "copy of study"))


def test_ranks_that_were_started_with_other_settings_are_named_with_the_setting() -> None:
    first = {"engine": {"zero_stage": 1}, "seeds": [1]}
    second = {"engine": {"zero_stage": 2}, "seeds": [1]}

    def started(*given: dict[str, object]) -> SimpleNamespace:
        """A world whose ranks bring what they were `given`, flattened as the first of them does it."""
        flat = [{"engine.zero_stage": str(g["engine"]["zero_stage"]), "seeds": "[1]"} for g in given]  # type: ignore[index]
        return SimpleNamespace(all_gather=lambda mine: [mine, *flat[1:]])

    check_same_start(started(first, first), first)  # type: ignore[arg-type]
    told = "rank 1 was started with engine.zero_stage=2, rank 0 with 1; start all ranks with one recipe"
    with pytest.raises(UserError, match=told):
        check_same_start(started(first, second), first)  # type: ignore[arg-type]


# --- leases ----------------------------------------------------------------------------------------------------------

ELSEWHERE = {"host": "another-node", "boot": "", "process": 1, "mark": "x"}


def test_of_two_that_want_the_same_work_done_one_waits_for_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits as long as the lease is touched, by whichever clock, and never longer than until the work is done."""
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.3)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    path, looks = tmp_path / "rows.lease", []
    write_json(path, ELSEWHERE)

    def is_done() -> bool:
        looks.append(1)
        os.utime(path, ns=(0, len(looks)))  # the other node touches it; its clock is that of 1970
        return len(looks) == 40

    with locks.lease(path, is_done) as is_left:
        assert not is_left
    assert len(looks) == 40 and read_json(path) == ELSEWHERE


def test_a_lease_that_nobody_touches_any_more_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "STALE_SECONDS", 0.1)
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.02)
    path = tmp_path / "rows.lease"
    write_json(path, ELSEWHERE)
    with locks.lease(path, lambda: False) as is_left:
        assert is_left and read_json(path)["process"] == os.getpid()
    assert not path.exists()


def test_a_dead_holder_on_this_machine_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.lease"
    dead = {**locks._this_process(), "process": 2**22 + 1}  # more than the kernel's largest number
    write_json(path, dead)
    with locks.lease(path, lambda: False) as is_left:
        assert is_left


def test_who_does_not_want_to_wait_hears_that_another_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "rows.lease"
    with (
        locks.lease(path, lambda: False) as is_left,
        pytest.raises(locks.HeldElsewhereError),
        locks.lease(path, lambda: False, waits=False),
    ):
        raise AssertionError("two hold the lease")
    assert is_left and not path.exists()


def test_a_lease_works_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / "rows.lease"
    with (
        locks.lease(path, lambda: False),
        pytest.raises(locks.HeldElsewhereError),
        locks.lease(path, lambda: False, waits=False),
    ):
        raise AssertionError("two hold the lease")
    assert not path.exists()


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two other users")
@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_a_run_of_a_group_is_continued_by_its_second_user_or_says_what_to_set(umask: int) -> None:
    """Its locks and lease, a status, a file that is replaced, a line that is added, a folder that is removed."""

    def go_on(run: RunDir, number: int) -> Callable[[], str]:
        def work() -> str:
            folder = run.phase("target-x")
            with run_lock(run), phase_lock(folder):
                folder.set_status("running")
                write_json(run.plan, {"start": number})
                with open(folder.metrics, "a") as curve:
                    curve.write(f"{number}\n")
                if number:
                    shutil.rmtree(folder.checkpoints)
                (folder.checkpoints / "step-1").mkdir(parents=True)
                with lease(run.root / "lease", lambda: False) as is_left:
                    assert is_left
            return folder.metrics.read_text()

        return work

    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o777)
        run = RunDir(Path(folder) / "study")
        assert as_user(USERS[0], umask, go_on(run, 0)) == "0\n"
        said = as_user(USERS[1], umask, go_on(run, 1))
        if umask == 0o002:
            assert said == "0\n1\n" and as_user(USERS[0], umask, go_on(run, 2)) == "0\n1\n2\n"
        else:
            assert said.startswith(
                f"UserError: {run.root / '.lock'} cannot be opened (Permission denied); have its owner"
            )
            assert "chmod -R g+rwXs" in said and "umask 002" in said and "output_dir=..." in said
