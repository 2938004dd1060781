"""A curve that is continued: steps after the checkpoint go away, everything else stays, and gaps are told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from stilts_ds import monitor


def write(path: Path, steps: int) -> list[str]:
    lines = [json.dumps({"step": step, "train/loss": 1 / step}) + "\n" for step in range(1, steps + 1)]
    path.write_text("".join(lines))
    return lines


def test_a_resumed_run_writes_the_steps_after_its_checkpoint_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    path.write_text("".join(lines) + lines[0][:9])  # the last line of a killed run is cut
    monitor._keep_steps(path, 5, 0)
    assert path.read_text() == "".join(lines[:5])
    monitor._keep_steps(path, 0, 0)
    assert path.read_text() == ""


def test_an_evaluation_that_the_checkpoint_does_not_know_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 6)
    first, second = (json.dumps({"step": step, "eval/mnli/en/accuracy": 40.0}) + "\n" for step in (3, 5))
    path.write_text("".join([*lines[:3], first, *lines[3:5], second, lines[5]]))
    monitor._keep_steps(path, 5, 3)
    assert path.read_text() == "".join([*lines[:3], first, *lines[3:5]])


def test_a_damaged_record_costs_no_other_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    path.write_text("".join([*lines[:3], lines[3][4:], *lines[4:]]))
    with caplog.at_level(logging.WARNING):
        monitor._keep_steps(path, 6, 6)
    assert path.read_text() == "".join([*lines[:3], *lines[4:6]])
    assert "lacks the records of 1 of the 6 steps" in caplog.text


def test_a_kill_while_a_curve_is_shortened_leaves_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = write(path, 8)
    monkeypatch.setattr("os.replace", lambda *_: exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        monitor._keep_steps(path, 5, 5)
    assert path.read_text() == "".join(lines)
