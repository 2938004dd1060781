"""Robust training: one loss curve for every ZeRO stage and number of ranks, and plain training where nothing is
disturbed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import PROGRAM, run, settings, some_slow

pytestmark = pytest.mark.processes

METHODS = {
    "adversarial": {"method": "adversarial", "steps": 2, "step_size": 0.3, "magnitude": 0.3, "radius": 0.4},
    "random": {"method": "random", "radius": 0.5},
}
CELLS = [(name, stage, size) for name in METHODS for stage in (0, 1, 2, 3) for size in (1, 2, 3)]
DEFAULT = [("adversarial", 0, 1), ("adversarial", 2, 2), ("adversarial", 3, 2), ("random", 1, 2)]


def given(folder: Path, stage: int, robust: dict[str, Any] | None, **more: Any) -> str:
    found: dict[str, Any] = json.loads(settings(folder, stage, dropout=0.1, **more))
    found["training"] |= {"logging_steps": 1, "max_steps": 4, "robust": robust}
    return json.dumps(found)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Any]:
    """The curves of one process of plain torch that takes FreeLB's steps row by row."""
    found = {}
    for name in (None, *METHODS):
        out = tmp_path_factory.mktemp("reference") / "out.pt"
        run(PROGRAM, out, given(out.parent, -1, METHODS.get(name or "")))
        found[name] = torch.load(out, weights_only=True)
    return found


@pytest.mark.parametrize(("name", "stage", "size"), some_slow(CELLS, [c for c in CELLS if c not in DEFAULT]))
def test_a_robust_curve_is_that_of_one_process(
    name: str, stage: int, size: int, tmp_path: Path, references: dict[str | None, Any]
) -> None:
    """With dropout, accumulation, clipping, several heads and ranks without examples of some of them."""
    run(PROGRAM, tmp_path / "out.pt", given(tmp_path, stage, METHODS[name]), ranks=size)
    ours, reference = torch.load(tmp_path / "out.pt", weights_only=True), references[name]
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-5)
    for key, expected in reference["parameters"].items():
        if "key.bias" not in key:  # attention's key bias has no gradient in exact arithmetic
            torch.testing.assert_close(ours["parameters"][key], expected, rtol=0, atol=2e-5, msg=key)
    plain = references[None]["curve"]
    assert all(abs(a - b) > 1e-4 for a, b in zip(ours["curve"], plain)), "else the method does nothing"


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.slow), 3])
def test_one_step_of_radius_0_is_plain_training_bit_for_bit(stage: int, tmp_path: Path) -> None:
    for name, robust in (("plain", None), ("still", {"method": "adversarial", "steps": 1, "radius": 0})):
        folder = tmp_path / name
        folder.mkdir()
        run(PROGRAM, folder / "out.pt", given(folder, stage, robust), ranks=2)
    plain, still = (torch.load(tmp_path / name / "out.pt", weights_only=True) for name in ("plain", "still"))
    assert plain["curve"] == still["curve"] and plain["norms"] == still["norms"]
    for name, value in plain["parameters"].items():
        assert torch.equal(value, still["parameters"][name]), name


def test_a_robust_run_is_continued_bit_for_bit_and_no_step_looks_at_the_device(tmp_path: Path) -> None:
    told = json.loads(given(tmp_path, 2, METHODS["adversarial"], no_waiting=True))
    told["training"] |= {"save_steps": 2, "logging_steps": 4}
    run(PROGRAM, tmp_path / "whole.pt", json.dumps(told), ranks=2)
    (tmp_path / "phase").rename(tmp_path / "before")
    run(PROGRAM, tmp_path / "first.pt", json.dumps(told | {"stop_at": 2}), ranks=2)
    run(PROGRAM, tmp_path / "parts.pt", json.dumps(told), ranks=2)
    whole, parts = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    for name, value in whole["parameters"].items():
        assert torch.equal(value, parts["parameters"][name]), name
