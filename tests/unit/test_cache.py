"""Cached rows: built once, found by their key, rebuilt when damaged, safe when two processes build at one time."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ranks
from row_builder import RowsBuilder
from users import USERS, as_user

from stilts_ds.config import TrainingPart
from stilts_ds.data.cache import cached_rows, find_rows
from stilts_ds.data.known_hashes import KnownHashes
from stilts_ds.data.split import encoding_key
from stilts_ds.errors import UnreadableError
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import checksum

PROGRAM = ranks.PROGRAMS / "build_cache.py"
KEY = {"task": "mnli", "files": "abc", "max_seq_length": 128}


def make_rows(first: int = 1) -> Rows:
    out = RowsBuilder(labels=True)
    for example in range(3):
        out.add_row([0, first + example, 2], 3, example)
        out.end_item()
        assert out.label is not None
        out.label.append(example % 2)
    out.tally["rows cut to max_seq_length"] = 5
    return out.rows()


class Builder:
    """Counts how often rows were built."""

    def __init__(self, first: int = 1) -> None:
        self.first, self.times = first, 0

    def __call__(self, folder: Path) -> Rows:
        self.times += 1
        return make_rows(self.first)


def same(a: Rows, b: Rows) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in Rows.ARRAYS]
    return a.tally == b.tally and all((x is None and y is None) or np.array_equal(x, y) for x, y in pairs)


def folder_of(cache: Path) -> Path:
    folders = [path for path in cache.iterdir() if path.is_dir() and path.name != "hashes"]
    (folder,) = [path for path in folders if ".damaged." not in path.name]
    return folder


def test_rows_are_named_by_where_they_are_cut_and_by_nothing_that_is_not_in_force() -> None:
    plain = {"tokenizer": "t", "max_seq_length": 256, "doc_stride": 128, "max_query_length": 64}
    assert encoding_key(TrainingPart(), "t") == plain
    assert encoding_key(TrainingPart(learning_rate=1e-3, save_steps=9), "t") == plain
    moved = {key: value for key, value in plain.items() if key != "doc_stride"} | {"window_step": 128}
    assert encoding_key(TrainingPart(window_step=128), "t") == moved
    assert encoding_key(TrainingPart(pair_truncation_side="right"), "t") == {**plain, "pair_truncation_side": "right"}


def test_rows_are_built_once_and_mapped_afterwards(tmp_path: Path) -> None:
    build = Builder()
    first, again = cached_rows(tmp_path, KEY, build), cached_rows(tmp_path, dict(reversed(KEY.items())), build)
    assert build.times == 1 and same(first, make_rows()) and same(again, make_rows())
    assert isinstance(again.input_ids, np.memmap) and not again.input_ids.flags.writeable
    assert again.span is None and len(again) == 3


@pytest.mark.parametrize("change", [{"files": "abd"}, {"max_seq_length": 129}, {"split": "dev"}])
def test_another_key_has_rows_of_its_own(change: dict[str, object], tmp_path: Path) -> None:
    cached_rows(tmp_path, KEY, Builder())
    other = Builder(first=9)
    assert same(cached_rows(tmp_path, {**KEY, **change}, other), make_rows(9)) and other.times == 1
    assert same(cached_rows(tmp_path, KEY, other), make_rows()) and other.times == 1


@pytest.mark.parametrize("name", ["input_ids.npy", "starts.npy", "label.npy", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut short", "missing", "empty"])
def test_damaged_rows_are_built_again(name: str, damage: str, tmp_path: Path) -> None:
    cached_rows(tmp_path, KEY, Builder())
    victim = folder_of(tmp_path) / name
    if damage == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[: -5 if damage == "cut short" else 0])
    build = Builder()
    assert same(cached_rows(tmp_path, KEY, build), make_rows()) and build.times == 1
    assert same(cached_rows(tmp_path, KEY, build), make_rows()) and build.times == 1
    assert len([path for path in tmp_path.iterdir() if path != folder_of(tmp_path)]) == 1  # the damaged one


@pytest.mark.parametrize("verify", [False, True])
def test_rows_that_cannot_be_read_now_are_an_error_and_stay(verify: bool, tmp_path: Path) -> None:
    """No file can be opened for a moment, as after EIO or ESTALE of a network file system: nothing is wrong with it."""
    written = cached_rows(tmp_path, KEY, Builder())
    build, (soft, hard) = Builder(7), resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        with pytest.raises(UnreadableError, match=r"manifest.json cannot be read \(Too many open files\)"):
            cached_rows(tmp_path, KEY, build, verify=verify)
        with pytest.raises(UnreadableError, match="run the same command again"):
            find_rows(tmp_path, KEY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [path for path in tmp_path.iterdir()] == [folder_of(tmp_path)]
    again = cached_rows(tmp_path, KEY, build, verify=True)
    assert build.times == 0 and same(again, written)


@pytest.mark.parametrize("name", ["input_ids.npy", "starts.npy"])
def test_a_file_of_rows_that_cannot_be_opened_is_named(name: str, tmp_path: Path) -> None:
    cached_rows(tmp_path, KEY, Builder())
    path = folder_of(tmp_path) / name
    path.rename(tmp_path / name)
    path.symlink_to(path)  # ELOOP
    for verify in (False, True):
        with pytest.raises(UnreadableError, match=f"{name} cannot be read"):
            cached_rows(tmp_path, KEY, Builder(7), verify=verify)
    path.unlink()
    (tmp_path / name).rename(path)
    assert same(cached_rows(tmp_path, KEY, Builder(7), verify=True), make_rows())


def test_damaged_rows_stay_with_who_has_mapped_them(tmp_path: Path) -> None:
    """Pages that were not read yet can still be read when another process has made the rows again."""
    mapped = cached_rows(tmp_path, KEY, Builder())
    path = folder_of(tmp_path) / "label.npy"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    before = {each.name: each.read_bytes() for each in folder_of(tmp_path).iterdir()}
    cached_rows(tmp_path, KEY, Builder(), verify=True)
    (aside,) = tmp_path.glob(".*.damaged.*")
    assert {each.name: each.read_bytes() for each in aside.iterdir()} == before
    assert np.array_equal(mapped.input_ids, make_rows().input_ids)


def test_a_failed_build_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(folder: Path) -> Rows:
        raise RuntimeError("bad row")

    with pytest.raises(RuntimeError, match="bad row"):
        cached_rows(tmp_path, KEY, fail)
    assert not list(tmp_path.rglob("*.npy"))
    assert same(cached_rows(tmp_path, KEY, Builder()), make_rows())


def test_the_later_of_two_builders_keeps_what_the_earlier_one_wrote(tmp_path: Path) -> None:
    """One stood still for so long that its lease was taken; the folder that a run may have mapped already must stay."""
    early: list[Rows] = []

    def slow(folder: Path) -> Rows:
        [taken] = tmp_path.glob("*.lease")
        taken.unlink()
        early.append(cached_rows(tmp_path, KEY, Builder()))
        return make_rows()

    assert not list(tmp_path.iterdir())
    late = cached_rows(tmp_path, KEY, slow)
    assert same(late, make_rows()) and late.input_ids.filename == early[0].input_ids.filename  # type: ignore[attr-defined]
    written = folder_of(tmp_path) / "input_ids.npy"
    assert written.stat().st_nlink == 1 and same(cached_rows(tmp_path, KEY, Builder(7)), make_rows())


def start(folder: Path, keys: int, processes: int) -> list[str]:
    """Outputs of processes that build rows for the same keys at the same moments; all must succeed."""
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder), str(keys), str(processes)],
            text=True,
            env=ranks.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(processes)
    ]
    outputs = [process.communicate(timeout=400)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, outputs
    return outputs


@pytest.mark.processes
def test_processes_that_build_the_same_rows_at_one_time_all_get_them(tmp_path: Path) -> None:
    """Half of the folders are not there, half are damaged."""
    start(tmp_path, 40, 1)
    for number, folder in enumerate(path for path in sorted(tmp_path.iterdir()) if path.is_dir()):
        shutil.rmtree(folder) if number % 2 else (folder / "input_ids.npy").write_bytes(b"torn")
    for ready in tmp_path.glob("*.ready"):
        ready.unlink()
    start(tmp_path, 40, 3)
    assert len([path for path in tmp_path.iterdir() if path.is_dir() and path.name[0] != "."]) <= 40
    # Each was made in one of the processes, the first time by the one that was alone.
    assert not list(tmp_path.glob("*.lease"))
    built = [path.suffix for path in tmp_path.glob("*.built")]
    assert len(built) == 80
    assert not [path for path in tmp_path.iterdir() if path.name[0] == "." and ".damaged." not in path.name]


def test_arrays_that_did_not_change_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stilts_ds.data.known_hashes.SMALL", 0)
    monkeypatch.setattr("stilts_ds.data.known_hashes.SETTLED_SECONDS", -1.0)
    read: list[str] = []
    monkeypatch.setattr("stilts_ds.data.cache.checksum", read_by(read))
    cached_rows(tmp_path, KEY, Builder())
    arrays = len(list(folder_of(tmp_path).glob("*.npy")))
    read.clear()
    for _ in range(3):
        cached_rows(tmp_path, KEY, Builder(), verify=True)
    assert len(read) == arrays
    path = folder_of(tmp_path) / "label.npy"
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as some programs that copy files do
    build = Builder()
    cached_rows(tmp_path, KEY, build, verify=True)
    assert build.times == 1


def test_a_file_that_changed_a_moment_ago_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change once more without another time, as a clock of four milliseconds does not tell."""
    monkeypatch.setattr("stilts_ds.data.known_hashes.SMALL", 0)
    monkeypatch.setattr("stilts_ds.data.known_hashes.SETTLED_SECONDS", 1e6)
    path, read = tmp_path / "text", []
    path.write_text("a")
    known = KnownHashes(tmp_path / "cache")
    for _ in range(2):
        assert known.of([path], read_by(read)) == [checksum(path)]
    assert len(read) == 2


def read_by(read: list[str]) -> Callable[[Path], str]:
    """The checksum of a file, whose name is noted."""

    def checksum_of(path: Path) -> str:
        read.append(path.name)
        return checksum(path)

    return checksum_of


@pytest.mark.parametrize("name", ["input_ids.npy", "manifest.json"])
def test_a_flipped_bit_is_found_where_a_start_looks_at_its_caches(name: str, tmp_path: Path) -> None:
    build = Builder()
    cached_rows(tmp_path, KEY, build)
    path = folder_of(tmp_path) / name
    data = bytearray(path.read_bytes())
    data[-8] ^= 1
    path.write_bytes(data)
    assert same(cached_rows(tmp_path, KEY, build, verify=True), make_rows()) and build.times == 2
    assert same(cached_rows(tmp_path, KEY, build, verify=True), make_rows()) and build.times == 2


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two other users")
@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_a_cache_of_a_group_works_for_its_second_user_or_says_what_to_set(umask: int) -> None:
    def use(cache: Path, task: str) -> Callable[[], str]:
        def work() -> str:
            build = Builder()
            assert same(cached_rows(cache, {"task": task}, build, verify=True), make_rows())
            return f"built {build.times}"

        return work

    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o777)
        cache = Path(folder) / "cache"
        assert as_user(USERS[0], umask, use(cache, "mnli")) == "built 1"
        assert as_user(USERS[1], umask, use(cache, "mnli")) == "built 0"
        found = as_user(USERS[1], umask, use(cache, "qqp"))
        if umask == 0o002:
            assert found == "built 1" and as_user(USERS[0], umask, use(cache, "qqp")) == "built 0"
        else:
            assert found.startswith(f"UserError: rows cannot be added to the cache {cache} (Permission denied)")
            assert "chmod -R g+rwXs" in found and "another data.cache" in found
