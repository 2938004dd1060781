"""Memory-mapped .npy banks: exact, resumed file by file, and refused with a clear text when broken."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from kernel_cases import gaussian
from stilts_kernels import topk
from stilts_kernels.common.npy import open_npy
from stilts_kernels.common.progress import bar
from stilts_kernels.mining import files

QUERIES = gaussian(21, 16, 1)
BANK = gaussian(400, 16, 2)


def write_shards(folder: Path, dtype: type = np.float32) -> list[Path]:
    """Three files, one of fewer rows than k."""
    paths = [folder / f"bank-{i}.npy" for i in range(3)]
    for path, rows in zip(paths, (BANK[:250], BANK[250:253], BANK[253:])):
        np.save(path, rows.numpy().astype(dtype))
    return paths


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_files_are_bit_equal_to_memory(dtype: type, tmp_path: Path) -> None:
    found = files.topk_files(QUERIES, write_shards(tmp_path, dtype), 5, tmp_path / "out", metric="cosine")
    whole = topk(QUERIES, BANK.half().float() if dtype is np.float16 else BANK, 5, "cosine")
    assert torch.equal(found.values, whole.values) and torch.equal(found.indices, whole.indices)


def test_resumes_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished files are not searched again; a file whose content changed, or another question, is."""
    paths, searched = write_shards(tmp_path), []
    search = files.topk_float64

    def counted(*arguments: object, **options: object) -> object:
        searched.append(arguments[1])
        if len(searched) == 2:
            raise KeyboardInterrupt
        return search(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "topk_float64", counted)
    with pytest.raises(KeyboardInterrupt):
        files.topk_files(QUERIES, paths, 5, tmp_path / "out")
    files.topk_files(QUERIES, paths, 5, tmp_path / "out")
    assert len(searched) == 4, "one file was finished before the interruption"
    files.topk_files(QUERIES, paths, 5, tmp_path / "out")
    assert len(searched) == 4
    np.save(paths[1], (BANK[250:253] * 2).numpy())
    files.topk_files(QUERIES, paths, 5, tmp_path / "out")
    assert len(searched) == 5
    files.topk_files(QUERIES, paths, 4, tmp_path / "out")
    assert len(searched) == 8


KILLED = """
import os, signal, sys
from pathlib import Path
from kernel_cases import gaussian
from stilts_kernels.mining.files import topk_files

folder = Path(sys.argv[1])

def stop(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)

topk_files(gaussian(21, 16, 1), sorted(folder.glob("bank-*.npy")), 5, folder / "out", progress=stop)
"""


def test_resumes_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL after two of three files: the next run searches the third alone and gives the same bits."""
    paths, searched = write_shards(tmp_path), []
    environment = ranks.environment()
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, capture_output=True, timeout=400
    )
    assert done.returncode == -9, done.stderr[-2000:]
    search = files.topk_float64

    def counted(*arguments: object, **options: object) -> object:
        searched.append(arguments)
        return search(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "topk_float64", counted)
    found = files.topk_files(QUERIES, paths, 5, tmp_path / "out")
    whole = topk(QUERIES, BANK, 5)
    assert len(searched) == 1
    assert torch.equal(found.values, whole.values) and torch.equal(found.indices, whole.indices)


def test_progress_counts_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files.topk_files(QUERIES, write_shards(tmp_path), 2, tmp_path / "out", progress=bar)
    assert "] 3/3\n" in capsys.readouterr().err


def test_broken_files_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    with pytest.raises(ValueError, match="bank shard .*gone.npy is missing"):
        files.topk_files(QUERIES, [*paths, tmp_path / "gone.npy"], 2, tmp_path / "out")
    with pytest.raises(ValueError, match="k = 401 is outside 1..400"):
        files.topk_files(QUERIES, paths, 401, tmp_path / "out")
    with pytest.raises(ValueError, match="D = 16, queries have D = 3"):
        files.topk_files(QUERIES[:, :3], paths, 2, tmp_path / "out")
    spoiled = BANK[250:253].clone()
    spoiled[2, 0] = float("nan")
    np.save(paths[1], spoiled.numpy())
    with pytest.raises(ValueError, match="bank-1.npy: row 2 holds NaN"):
        files.topk_files(QUERIES, paths, 2, tmp_path / "out")


def test_npy_headers(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    for version in ((1, 0), (2, 0), (3, 0)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, BANK.numpy(), version=version)
        path.write_bytes(buffer.getvalue())
        assert torch.equal(open_npy(path)[0], BANK)
    whole = path.read_bytes()
    for content, text in (
        (whole[:-8], "cut short"),
        (whole + whole, "bytes more than shape"),
        (b"not npy at all, just text", "not a .npy file"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=text):
            open_npy(path)
    for array in (np.zeros((3, 4)), np.asfortranarray(np.zeros((3, 4), np.float32)), np.zeros(3, np.float32)):
        np.save(path, array)
        with pytest.raises(ValueError, match="C-ordered"):
            open_npy(path)


def test_two_searches_share_a_folder_and_keep_apart(tmp_path: Path) -> None:
    """Each merges its own parts alone, also when the other wrote its parts in between."""
    paths, folder = write_shards(tmp_path), tmp_path / "out"
    other = gaussian(21, 16, 9)
    for queries in (QUERIES, other, QUERIES):
        whole = topk(queries, BANK, 5)
        shared = files.topk_files(queries, paths, 5, folder)
        assert torch.equal(shared.values, whole.values) and torch.equal(shared.indices, whole.indices)
    assert len(list(folder.glob("part-*.pt"))) == 6


def test_a_part_of_another_search_is_never_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even under the right name, as a file system may show yesterday's file."""
    monkeypatch.setattr(files, "PAUSE", 0.01)
    [path, *_] = write_shards(tmp_path)
    files.topk_files(QUERIES, [path], 5, tmp_path / "out")
    [part] = (tmp_path / "out").iterdir()
    assert files.awaited_part(part, torch.load(part, weights_only=True)["key"])["values"].shape == (21, 5)
    with pytest.raises(ValueError, match="of another search: do all ranks share its folder"):
        files.awaited_part(part, "another key", patience=0.05)


def test_ranks_that_ask_different_questions_are_refused() -> None:
    files.check_same_question([["a", 3], ["a", 3]])
    with pytest.raises(ValueError, match="ranks 0 and 2 search for different queries"):
        files.check_same_question([["a", 3], ["a", 3], ["b", 3]])
