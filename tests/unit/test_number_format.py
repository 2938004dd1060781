"""The number format of training: `auto` takes what is clearly faster, stays with it, and a slow choice is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import stilts

from stilts_ds.config import EnginePart
from stilts_ds.engine import number_format, stopwatch
from stilts_ds.engine.number_format import choose_format

CPU = torch.device("cpu")


def rates(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> None:
    """A device with these rates of matrix products."""
    known = {torch.float32: fp32, torch.bfloat16: bf16}
    for module in (number_format, stopwatch):
        monkeypatch.setattr(module, "matmul_rate", lambda device, dtype: known[dtype])


@pytest.mark.parametrize(
    ("fp32", "bf16", "stage", "chosen"),
    [
        (1.0, 7.5, 1, "bf16"),
        (1.0, 1.4, 1, "fp32"),  # no clear gain
        (7.5, 1.0, 2, "fp32"),
        (1.0, 7.5, 0, "fp32"),  # bf16 does not work at stage 0
    ],
)
def test_auto_takes_what_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float, stage: int, chosen: str
) -> None:
    rates(monkeypatch, fp32, bf16)
    assert choose_format(EnginePart(dtype="auto", zero_stage=stage), CPU, None) == chosen


def test_a_phase_stays_with_what_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, 1.0, 7.5)
    part = EnginePart(dtype="auto", zero_stage=1)
    assert choose_format(part, CPU, "fp32") == "fp32"
    assert choose_format(EnginePart(dtype="bf16", zero_stage=1), CPU, "fp32") == "bf16"  # asked for by name


def test_a_slow_choice_is_told_with_the_measured_ratio(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rates(monkeypatch, 7.5, 1.0)
    with caplog.at_level(logging.WARNING):
        assert choose_format(EnginePart(dtype="bf16", zero_stage=1), CPU, None) == "bf16"
    [told] = [record.getMessage() for record in caplog.records]
    assert "engine.dtype=bf16 multiplies matrices 7.5 times as slowly as fp32 on this processor" in told
    caplog.clear()
    rates(monkeypatch, 1.0, 7.5)
    choose_format(EnginePart(dtype="bf16", zero_stage=1), CPU, None)
    assert not caplog.records


def test_the_peak_is_that_of_the_fastest_way(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, 7.5, 1.0)
    assert stopwatch.peak_rate(CPU, torch.bfloat16) == 7.5
    rates(monkeypatch, 1.0, 7.5)
    assert stopwatch.peak_rate(CPU, torch.bfloat16) == 7.5 and stopwatch.peak_rate(CPU, torch.float32) == 1.0


@pytest.mark.processes
def test_what_was_chosen_stands_in_the_status_and_the_report(tmp_path: Path) -> None:
    stilts("run", "quickstart", "intermediate={none: []}", "targets=[pawsx]", "target_training.max_steps=2",
           "evaluation.max_examples=10", "engine={dtype: auto, zero_stage: 1}", cwd=tmp_path)  # fmt: skip
    [path] = (tmp_path / "runs/quickstart/phases").glob("target-*/status.json")
    chosen = json.loads(path.read_text())["dtype"]
    assert chosen in ("fp32", "bf16")
    report = (tmp_path / "runs/quickstart/report.md").read_text(encoding="utf-8")
    assert f"- Number format (chosen by `auto`): `{chosen}`" in report
