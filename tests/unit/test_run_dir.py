"""Files of a run: a kill in the middle of a write leaves the old or the new content, and hashes see contents only."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ranks
import torch
import xxhash
from safetensors.torch import save_file

from stilts_ds.errors import UserError
from stilts_ds.locks import folder_lock
from stilts_ds.run_dir import (
    Provenance,
    RunDir,
    checksum,
    fresh_folder,
    git_commit,
    hash_file,
    hash_files,
    hash_json,
    open_to_others,
    provenance,
    read_json,
    write_atomically,
    write_json,
)

WRITER = """
import sys
from pathlib import Path
from stilts_ds.run_dir import write_atomically
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    write_atomically(path, f"{number}\\n" * 300_000)
"""


@pytest.mark.processes
def test_a_kill_while_writing_leaves_the_old_or_the_new_content(tmp_path: Path) -> None:
    path, chance, in_the_middle = tmp_path / "status.json", random.Random(0), 0
    for _ in range(100):  # until three kills fell inside a write, however long one takes here
        if in_the_middle == 3:
            break
        path.unlink(missing_ok=True)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], env=ranks.environment())
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.1)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        lines = path.read_text().splitlines()
        assert len(lines) == 300_000 and len(set(lines)) == 1
        left = list(tmp_path.glob(".status.json.*"))
        in_the_middle += bool(left)
        for temporary in left:
            temporary.unlink()
    assert in_the_middle == 3, "hardly a kill fell inside a write: this test showed nothing"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "phase.json"
    write_json(path, {"step": 1})
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "half of it \ud800")
    with pytest.raises(TypeError):
        write_json(path, {"step": object()})
    assert read_json(path) == {"step": 1} and list(tmp_path.iterdir()) == [path]


def test_json_is_written_readable_in_its_own_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.json"
    write_json(path, {"b": "é", "a": [1]})
    assert path.read_bytes() == '{\n "b": "é",\n "a": [\n  1\n ]\n}\n'.encode()


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_and_folders_are_for_those_that_the_umask_names(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_json(tmp_path / "x.json", {})
        made = fresh_folder(tmp_path / "rows")
        tensors = tmp_path / "x.safetensors"
        save_file({"a": torch.ones(1)}, tensors)
        open_to_others(tensors)
        with folder_lock(made, "busy"):
            lock = made / ".lock"
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "x.json", tensors, lock)] == [mode] * 3
    assert made.stat().st_mode & 0o777 == 0o777 & ~umask
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([made.name, "x.json", "x.safetensors"])


def test_missing_and_broken_json_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none.json does not exist"):
        read_json(tmp_path / "none.json")
    for broken in (b"{", b"\xff\xfe{}", b""):
        (tmp_path / "x.json").write_bytes(broken)
        with pytest.raises(UserError, match="x.json is not valid JSON"):
            read_json(tmp_path / "x.json")


def test_hashes_of_json_ignore_the_order_of_keys_and_nothing_else() -> None:
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    values = [{"a": 1}, {"a": "1"}, {"a": 1.5}, {"a": None}, {"a": [1]}, {"a": True}, {"b": 1}, [["a", 1]], {}, [], "é"]
    assert len({hash_json(value) for value in values}) == len(values)
    assert hash_json([1, 2]) != hash_json([2, 1])
    assert hash_json({"a": [1, "é"]}) == hashlib.sha256('{"a":[1,"é"]}'.encode()).hexdigest()


def test_hashes_of_files_see_contents_and_order_but_no_names(tmp_path: Path) -> None:
    contents = {"a": b"x" * 3_000_000, "b": b"", "c": b"x" * 3_000_000}
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    a, b, c = (tmp_path / name for name in contents)
    assert hash_file(a) == hashlib.sha256(contents["a"]).hexdigest() == hash_file(c) != hash_file(b)
    assert checksum(a) == xxhash.xxh3_128(contents["a"]).hexdigest() == checksum(c) != checksum(b)
    assert hash_files([a, b]) == hash_files([c, b]) != hash_files([b, a])
    assert len({hash_files(part) for part in ([], [a], [b], [a, a], [a, b])}) == 5


def test_a_phases_status_is_pending_until_it_is_set(tmp_path: Path) -> None:
    folder = RunDir(tmp_path).phase("target-x")
    assert folder.root == tmp_path / "phases" / "target-x" and folder.status() == "pending"
    folder.set_status("stopped:SIGUSR1", seconds=3.0)
    assert folder.status() == "stopped:SIGUSR1" and folder.read_status().seconds == 3.0
    whole = folder.status_json.read_text()
    folder.status_json.write_text(whole.replace('"seconds": 3.0', '"seconds": 2.0'))
    with pytest.raises(UserError, match="changed since it was written"):
        folder.status()
    folder.status_json.write_text("{")
    with pytest.raises(UserError, match="status.json"):
        folder.status()


@pytest.mark.processes
def test_a_process_names_the_commit_that_it_began_with(tmp_path: Path) -> None:
    """A rank that runs for days would else name what was checked out meanwhile."""
    shutil.copytree(ranks.ROOT / "stilts_ds", tmp_path / "stilts_ds", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    commit = [*git, "commit", "-q", "--allow-empty", "-m", "one"]
    for command in ([*git, "init", "-q"], [*git, "add", "."], commit):
        subprocess.run(command, cwd=tmp_path, check=True)
    program = (
        "import subprocess, sys; from stilts_ds.run_dir import provenance; first = provenance();"
        f"subprocess.run({commit!r}, check=True); assert provenance() == first; print(first.git_commit)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    before = subprocess.run(["git", "rev-parse", "HEAD~1"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == before.stdout


def test_provenance_names_commit_and_versions_and_is_json() -> None:
    found = provenance()
    assert Provenance.model_validate(json.loads(json.dumps(found.to_json()))) == found
    assert {"python", "stilts-ds", "torch"} <= set(found.versions)
    commit = git_commit().removesuffix("-dirty")
    assert commit == "unknown" or (len(commit) == 40 and int(commit, 16))
