"""One loss curve with dropout: the masks of one process of plain torch, whatever the ranks, the stage and the stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_runs import PROGRAM, run, settings, some_slow

from stilts_ds.config import EnginePart
from stilts_ds.engine.zero import check_compilation
from stilts_ds.errors import UserError
from stilts_ds.model.masks import SCHEME
from stilts_ds.run_dir import read_sealed, write_sealed

pytestmark = pytest.mark.processes

CELLS = [(stage, size, "example") for stage in (0, 1, 2, 3) for size in (1, 2, 3)]
CELLS += [(0, 2, "step"), (3, 3, "step")]
DEFAULT = [(0, 2, "example"), (2, 3, "example"), (3, 2, "example")]


def given(folder: Path, stage: int, unit: str = "example", **more: Any) -> dict[str, Any]:
    """Settings with dropout in hidden states, in attention and in the heads."""
    found: dict[str, Any] = json.loads(settings(folder, stage, unit, dropout=0.1, **more))
    found["training"]["logging_steps"] = 1
    return found


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for unit in ("example", "step"):
        out = tmp_path_factory.mktemp("reference") / "out.pt"
        run(PROGRAM, out, json.dumps(given(out.parent, -1, unit)))
        found[unit] = torch.load(out, weights_only=True)
    return found


def expect_same(ours: dict[str, Any], reference: dict[str, Any]) -> None:
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-6)
    for name, expected in reference["parameters"].items():
        if "key.bias" not in name:  # attention's key bias has no gradient in exact arithmetic
            torch.testing.assert_close(ours["parameters"][name], expected, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage, size, unit", some_slow(CELLS, [cell for cell in CELLS if cell not in DEFAULT]))
def test_losses_with_dropout_are_those_of_one_process(
    stage: int, size: int, unit: str, tmp_path: Path, references: dict[str, Any]
) -> None:
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given(tmp_path, stage, unit)), ranks=size)
    expect_same(torch.load(tmp_path / "out.pt", weights_only=True), references[unit])


def test_losses_are_other_ones_without_dropout(tmp_path: Path, references: dict[str, Any]) -> None:
    """Else the tests here would show nothing."""
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given(tmp_path, -1) | {"dropout": 0.0}))
    without = torch.load(tmp_path / "out.pt", weights_only=True)["curve"]
    assert all(abs(a - b) > 1e-4 for a, b in zip(without, references["example"]["curve"]))


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param([(0, 1), (2, 2), (3, 3)], id="three"),
        pytest.param([(3, 2), (1, 1), (0, 3), (2, 1), (1, 2), (3, 1)], id="six", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_dropout_is_handed_over_without_leaving_its_curve(
    chain: list[tuple[int, int]], tmp_path: Path
) -> None:
    """Two steps at each stage and number of ranks; from one rank to two the curve once moved by 2.5e-2."""
    training = given(tmp_path, -1)["training"] | {"max_steps": 2 * len(chain)}
    run(PROGRAM, tmp_path / "reference.pt", json.dumps(given(tmp_path, -1) | {"training": training}))
    for number, (stage, size) in enumerate(chain, start=1):
        here = given(tmp_path, stage) | {"training": training, "stop_at": 2 * number}
        run(PROGRAM, tmp_path / "out.pt", json.dumps(here), ranks=size)
    ours, reference = (torch.load(tmp_path / name, weights_only=True) for name in ("out.pt", "reference.pt"))
    expect_same(ours, reference)


@pytest.mark.parametrize("dropout", [0.1, pytest.param(0.0, marks=pytest.mark.slow)])
def test_a_checkpoint_with_other_masks_is_continued_with_a_warning(dropout: float, tmp_path: Path) -> None:
    """One of a version that named no masks; where nothing is dropped they do not matter."""
    stopped = given(tmp_path, 0) | {"dropout": dropout}
    run(PROGRAM, tmp_path / "out.pt", json.dumps(stopped | {"stop_at": 2}))
    (manifest,) = (tmp_path / "phase" / "checkpoints").glob("step-*/manifest.json")
    written = read_sealed(manifest)
    assert written.pop("masks") == SCHEME
    write_sealed(manifest, written)
    said = run(PROGRAM, tmp_path / "out.pt", json.dumps(stopped))
    assert ("drew other dropout masks" in said) == (dropout > 0)
    assert len(torch.load(tmp_path / "out.pt", weights_only=True)["curve"]) == 6


@pytest.mark.parametrize("stage", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_activations_that_are_computed_again_take_the_same_masks(
    stage: int, tmp_path: Path, references: dict[str, Any]
) -> None:
    recomputed = given(tmp_path, stage)
    recomputed["engine"]["gradient_checkpointing"] = True
    run(PROGRAM, tmp_path / "out.pt", json.dumps(recomputed), ranks=2)
    expect_same(torch.load(tmp_path / "out.pt", weights_only=True), references["example"])


def test_compiled_layers_whose_activations_are_computed_again_are_refused_with_dropout() -> None:
    part = EnginePart(torch_compile=True, gradient_checkpointing=True)
    with pytest.raises(UserError, match="do not go together with dropout; turn one of them off, or set model.dropout"):
        check_compilation(part, drops=True)
    check_compilation(part, drops=False)
    check_compilation(EnginePart(torch_compile=True), drops=True)
