"""Words of messages: counts agree with their nouns, and what the system refuses is a sentence on any terminal."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import ranks

from stilts_ds.errors import counted, os_problem


@pytest.mark.parametrize(
    "number, nouns, shown",
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (2, ("file",), "2 files"),
        (12_345, ("gold pair",), "12,345 gold pairs"),
        (1, ("thing is", "things are"), "1 thing is"),
        (3, ("thing is", "things are"), "3 things are"),
    ],
)
def test_a_count_agrees_with_its_noun(number: int, nouns: tuple[str, ...], shown: str) -> None:
    assert counted(number, *nouns) == shown


@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied; give a folder that you"),
        (OSError(errno.EROFS, "Read-only file system", "/x"), "/x: Read-only file system; give a folder that you may"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a", None, "b"), "a and b: Not a directory; check the"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "No space left on device: the disk is full; free some space,",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "/x"),
            "'/x': the quota is used up (`quota -s`, `lfs quota` show",
        ),
        (ConnectionError("refused"), "refused; check what the last lines say"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(error: OSError, message: str) -> None:
    assert message in os_problem(error)


def stilts(*words: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "stilts_launcher.cli", *words], cwd=folder, capture_output=True,
                          env={**ranks.environment(), **variables})  # fmt: skip


@pytest.mark.processes
def test_a_file_in_a_folder_s_place_ends_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("no folder")
    done = stilts("plan", "quickstart", folder=tmp_path)
    assert done.returncode == 1
    [line] = done.stderr.decode().splitlines()
    assert line.startswith(f"error: {tmp_path}/runs") and "Not a directory" in line or "File exists" in line


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_a_terminal_of_another_encoding_gets_what_it_can_show(tmp_path: Path, encoding: str) -> None:
    for side in ("predictions", "labels"):
        (tmp_path / side / "panx").mkdir(parents=True)
        (tmp_path / side / "panx" / "test-de.tsv").write_text("O\n")
    done = stilts("score", "--predictions", "predictions", "--labels", "labels", folder=tmp_path,
                  PYTHONIOENCODING=f"{encoding}:strict")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)
    # A text of a stranger's file: its letters are shown, or escaped.
    (tmp_path / "panx").mkdir()
    (tmp_path / "panx" / "test-de.tsv").write_text("K\u0142odzko\tO\n", encoding="utf-8")
    done = stilts("tasks", "panx", "--show", "1", "--split", "test", "--language", "de", "--xtreme", ".",
                  folder=tmp_path, PYTHONIOENCODING=f"{encoding}:strict")  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = "K\u0142odzko" if encoding == "utf-8" else "K\\u0142odzko"
    assert shown in done.stdout.decode(encoding)


@pytest.mark.processes
def test_a_python_without_docstrings_is_refused_by_its_variable(tmp_path: Path) -> None:
    """transformers would stumble over them while it loads a model, and blame the folder."""
    command = [sys.executable, "-OO", "-m", "stilts_launcher.cli", "tasks"]
    done = subprocess.run(command, cwd=tmp_path, env=ranks.environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "PYTHONOPTIMIZE=2 or -OO" in done.stderr
