"""A curve that is continued: steps after the checkpoint go, all else stays, and damage is told and never sealed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.engine.monitor import Monitor
from stilts_ds.engine.progress import Progress
from stilts_ds.run_dir import hash_file
from stilts_ds.trackers import Tracking

CHANGED = "changed since the checkpoint of step 5 was written"


def line(step: int, **more: Any) -> str:
    return json.dumps({"step": step, "train/loss": 1 / step, "train/tokens_per_second": 9.0, **more}) + "\n"


def write(path: Path, steps: int) -> list[str]:
    lines = [line(step) for step in range(1, steps + 1)]
    path.write_text("".join(lines))
    return lines


def open_curve(path: Path, progress: Progress) -> Monitor:
    tracking = Tracking(path.parent, path.parent, "study", "none/seed1", "target-1", "name: study\n", {}, ())
    return Monitor(path, tracking, "phase", progress, 8)


def kept(path: Path, step: int, selected_step: int) -> str:
    """What a start keeps that goes on from a checkpoint of a version that kept no hash of the curve."""
    open_curve(path, Progress(step=step, selected_step=selected_step)).close()
    return path.read_text()


def test_a_resumed_run_writes_the_steps_after_its_checkpoint_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    path.write_text("".join(lines) + lines[0][:9])  # the last line of a killed run is cut
    assert kept(path, 5, 0) == "".join(lines[:5])
    assert kept(path, 0, 0) == ""


def test_an_evaluation_that_the_checkpoint_does_not_know_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 6)
    first, second = (json.dumps({"step": step, "eval/mnli/en/accuracy": 40.0}) + "\n" for step in (3, 5))
    path.write_text("".join([*lines[:3], first, *lines[3:5], second, lines[5]]))
    assert kept(path, 5, 3) == "".join([*lines[:3], first, *lines[3:5]])


def test_a_damaged_record_costs_no_other_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    path.write_text("".join([*lines[:3], lines[3][4:], *lines[4:]]))
    with caplog.at_level(logging.WARNING):
        assert kept(path, 6, 6) == "".join([*lines[:3], *lines[4:6]])
    assert "lacks the records of 1 of the 6 steps" in caplog.text


def test_a_kill_while_a_curve_is_shortened_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    monkeypatch.setattr("os.replace", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        kept(path, 5, 5)
    assert path.read_text() == "".join(lines)


# --- the hash of what was written ------------------------------------------------------------------------------------


def trained(path: Path, progress: Progress, until: int) -> Progress:
    """Steps up to `until`, with an evaluation after step 3; returns what a checkpoint of the last one holds."""
    monitor = open_curve(path, progress)
    for step in range(progress.step + 1, until + 1):
        monitor.steps([json.loads(line(step))])
        progress.step = step
        if step == 3:
            monitor.evaluation(step, {"eval/xnli/en/accuracy": 40.0})
            progress.selected_step = step
    monitor.sync()
    monitor.close()
    return Progress(**json.loads(json.dumps(asdict(progress))))


def cut(data: bytes) -> bytes:
    return data[:80]


def flipped(data: bytes) -> bytes:
    place = data.index(b"0.5")  # the loss of step 2: a number that is one still
    return data[: place + 2] + bytes([data[place + 2] ^ 1]) + data[place + 3 :]


def lost(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines[2:]])


def doubled(data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines[:2], *lines[1:]])


def gone(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [flipped, cut, lost, doubled, gone])
def test_a_curve_that_was_damaged_before_a_start_is_told_by_it_and_never_sealed(
    harm: Callable[[bytes], bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    saved = trained(path, Progress(), 5)
    assert saved.curve == hash_file(path) and saved.curve_bytes == path.stat().st_size
    path.write_bytes(harm(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        saved = trained(path, saved, 7)
    assert CHANGED in caplog.text
    assert saved.curve != hash_file(path)
    # Nor by a later start, which the checkpoint of step 7 tells that the file is not what was written.
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ended = trained(path, saved, 8)
    assert "changed since the checkpoint of step 7 was written" in caplog.text
    assert ended.curve != hash_file(path)


@pytest.mark.parametrize("harm", [flipped, cut, lost, doubled, gone])
def test_a_curve_that_is_damaged_while_it_is_written_is_not_sealed(
    harm: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "metrics.jsonl"
    progress = Progress()
    monitor = open_curve(path, progress)
    monitor.steps([json.loads(line(step)) for step in range(1, 6)])
    with open(path, "r+b") as file:
        harmed = harm(file.read())
        file.seek(0)
        file.truncate()
        file.write(harmed)
    monitor.steps([json.loads(line(6))])
    monitor.close()
    assert progress.curve != hash_file(path)


def test_what_was_written_after_the_checkpoint_needs_no_guard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A start drops it, whole or damaged, also an evaluation that the checkpoint does not know."""
    path, quiet = tmp_path / "metrics.jsonl", tmp_path / "quiet" / "metrics.jsonl"
    saved = trained(path, Progress(), 2)
    before = path.read_bytes()
    trained(path, Progress(**asdict(saved)), 6)
    after = path.read_bytes()
    quiet.parent.mkdir()
    trained(quiet, Progress(), 6)
    assert after == quiet.read_bytes()
    with caplog.at_level(logging.WARNING):
        for end in (after, after[:-7], before, before + b"\xff\0", before + lost(after[len(before) :])):
            path.write_bytes(end)
            ended = trained(path, Progress(**asdict(saved)), 6)
            assert path.read_bytes() == after and ended.curve == hash_file(path)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_checkpoint_without_a_hash_of_the_curve_is_continued_and_guarded_from_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    state = asdict(trained(path, Progress(), 6))
    whole = path.read_bytes()
    with caplog.at_level(logging.WARNING):
        earlier = {key: value for key, value in state.items() if not key.startswith("curve")}
        ended = trained(path, Progress(**earlier), 7)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert path.read_bytes() == whole + line(7).encode() and ended.curve == hash_file(path)
