"""Checkpoints: damaged, torn or unreadable ones, the best models beside them, disks that are full."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import forked
import pytest
import torch
from engine_runs import PROGRAM, run, settings

from stilts_ds.engine import checkpoint
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.run_dir import read_sealed, write_sealed

pytestmark = pytest.mark.processes
LONE = World(0, 0, 1, torch.device("cpu"), None, None)  # the only rank


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    given = json.loads(settings(folder, 1))
    given["training"]["save_steps"] = 2
    run(PROGRAM, folder / "out.pt", json.dumps(given))
    return folder / "phase" / "checkpoints"


def newest_in(folder: Path) -> str:
    """The checkpoint from which a start would go on, which removes the others that it cannot use."""
    found, _ = checkpoint.find(folder, LONE)
    return "" if found is None else found.folder.name


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "no manifest", "another version"])
def test_a_damaged_checkpoint_is_passed_over(damage: str, tmp_path: Path, three_checkpoints: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    assert newest_in(folder) == "step-000006"
    newest = folder / "step-000006"
    victim = (
        newest / "manifest.json"
        if damage == "no manifest"
        else max(newest.glob("*.safetensors"), key=lambda p: p.stat().st_size)
    )
    data = bytearray(victim.read_bytes())
    if damage == "another version":
        manifest = read_sealed(newest / "manifest.json")
        for entry in manifest["files"].values():
            entry["sha256"] = entry.pop("xxh3_128")
        write_sealed(newest / "manifest.json", manifest)
    elif damage in ("missing", "no manifest"):
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    assert newest_in(folder) == "step-000004"


@pytest.mark.parametrize("victim", ["heads.safetensors", "heads.json"])
@pytest.mark.parametrize("how", ["missing", "flip"])
def test_a_checkpoint_is_one_thing_with_the_best_model_that_it_names(
    victim: str, how: str, tmp_path: Path, three_checkpoints: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    path = folder / "best-000006" / victim
    assert checkpoint.damage(folder / "step-000006") is None
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    assert f"{path} " in str(checkpoint.damage(folder / "step-000006"))
    assert newest_in(folder) == "step-000004"


@pytest.mark.parametrize(
    "victim", ["step-000006/shard-00000.safetensors", "step-000006/manifest.json", "best-000006/heads.json"]
)
def test_a_checkpoint_that_cannot_be_read_now_is_an_error_and_stays(
    victim: str, tmp_path: Path, three_checkpoints: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    path = folder / victim
    path.rename(tmp_path / "whole")
    path.symlink_to(path)  # opening it fails, but not because it is missing
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        newest_in(folder)
    path.unlink()
    (tmp_path / "whole").rename(path)
    assert newest_in(folder) == "step-000006"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("limit, kept", [(1, ["step-000005"]), (2, ["step-000004", "step-000005"])])
def test_what_a_start_writes_is_kept_and_what_it_cannot_use_is_removed(
    limit: int, kept: list[str], tmp_path: Path, three_checkpoints: Path
) -> None:
    """The newest checkpoint is damaged, and kills left torn ones before and after the one that is continued from."""
    folder = tmp_path / "phase" / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    (folder / "step-000006" / "shard-00000.safetensors").write_bytes(b"damaged")
    for torn in ("step-000003", "step-000007"):
        (folder / torn).mkdir()
        (folder / torn / "shard-00000.safetensors").write_bytes(b"torn")
    shutil.copytree(folder / "best-000006", folder / "best-000002")  # of no checkpoint, too
    given = json.loads(settings(tmp_path, 1)) | {"stop_at": 5}
    given["training"]["save_total_limit"] = limit
    assert "stopped by SIGTERM" in run(PROGRAM, tmp_path / "out.pt", json.dumps(given))
    assert names_in(folder) == kept
    assert newest_in(folder) == "step-000005"
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given))
    assert "best-000006" in names_in(folder)


def test_steps_that_were_lost_do_not_come_back_from_a_file_system_that_kept_them(
    tmp_path: Path, three_checkpoints: Path
) -> None:
    """The checkpoint of step 6 was damaged when a start looked, and removed; later it is there again, and whole."""
    folder = tmp_path / "phase" / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    (folder / "step-000006" / "shard-00000.safetensors").write_bytes(b"damaged")
    given = json.loads(settings(tmp_path, 1)) | {"stop_at": 5}
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given))
    assert checkpoint.lineage_of(folder / "step-000005") == [[1, 4], [2, 5]]
    for name in ("step-000006", "best-000006"):
        shutil.copytree(three_checkpoints / name, folder / name)
    found, lineage = checkpoint.find(folder, LONE)
    assert found is not None and found.folder.name == "step-000005" and lineage == [[1, 4], [2, 5], [3, 0]]
    assert names_in(folder) == ["step-000004", "step-000005"]


def test_checkpoints_of_versions_without_a_lineage_go_by_their_steps(tmp_path: Path, three_checkpoints: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three_checkpoints, folder)
    for tag in folder.glob("step-*"):
        manifest = read_sealed(tag / "manifest.json")
        del manifest["lineage"]
        write_sealed(tag / "manifest.json", manifest)
    found, lineage = checkpoint.find(folder, LONE)
    assert found is not None and found.folder.name == "step-000006" and lineage == [[0, 6], [1, 0]]
    assert names_in(folder) == ["best-000006", "step-000004", "step-000006"]


def test_each_rank_compares_its_share_of_the_files(tmp_path: Path, three_checkpoints: Path) -> None:
    tag = tmp_path / "checkpoints" / "step-000006"
    shutil.copytree(three_checkpoints, tag.parent)
    (tag / "shard-00000.safetensors").write_bytes(b"damaged")
    problems = [checkpoint.damage(tag, rank, 3) for rank in range(3)]
    assert "changed" in str(problems[0]) and problems[1:] == [None, None]
    (tag.parent / "best-000006" / "heads.safetensors").unlink()
    problems = [checkpoint.damage(tag, rank, 3) for rank in range(3)]
    assert problems[1] is None and "the best model" in str(problems[2])


def test_best_models_are_kept_as_long_as_a_checkpoint_names_them(tmp_path: Path) -> None:
    """A new best at each step, checkpoints after steps 2, 4 and 6 of which two stay."""
    given = json.loads(settings(tmp_path, 1, rising=True))
    given["training"] |= {"eval_steps": 1, "save_steps": 2, "max_steps": 7}
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given))
    kept = ["best-000004", "best-000006", "best-000007", "step-000004", "step-000006"]
    assert names_in(tmp_path / "phase" / "checkpoints") == kept


def test_a_second_stop_before_the_next_step_leaves_the_checkpoint_alone(tmp_path: Path) -> None:
    """It comes while dev is evaluated again after a resume: writing the checkpoint anew would risk the only one."""
    given = json.loads(settings(tmp_path, 1, stop_in_evaluation=True))
    manifest = tmp_path / "phase" / "checkpoints" / "step-000006" / "manifest.json"
    written = set()
    for _ in range(2):
        assert "stopped by SIGTERM" in run(PROGRAM, tmp_path / "out.pt", json.dumps(given))
        written.add(manifest.stat().st_mtime_ns)
    assert len(written) == 1


@pytest.mark.parametrize("full", [0, 1])
def test_one_rank_that_cannot_write_its_part_ends_all(full: int, tmp_path: Path) -> None:
    given = json.loads(settings(tmp_path, 1, full_disk=full))
    given["training"]["save_steps"] = 2
    processes = forked.start(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    assert all(process.returncode for process in processes), outputs
    assert "No space left on device" in outputs[full] and "GB free" in outputs[full]
    assert f"failed on rank {full}" in outputs[1 - full], outputs
    assert not list((tmp_path / "phase").glob("checkpoints/*/manifest.json"))
