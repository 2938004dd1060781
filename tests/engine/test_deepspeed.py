"""What DeepSpeed is asked for: exact weights at the start, and keys of an own file that change no result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from engine_runs import PROGRAM, run, settings, some_slow

from stilts_ds.ds_files import ALLOWED, ALLOWED_ZERO

pytestmark = pytest.mark.processes

MASTERS = [(stage, offload) for stage in (1, 2, 3) for offload in (False, True)]


@pytest.mark.parametrize("stage, offload", some_slow(MASTERS, [(1, True), (2, True), (3, True)]))
def test_a_phase_in_bf16_starts_from_the_exact_weights_of_its_model(stage: int, offload: bool, tmp_path: Path) -> None:
    """Bit for bit, before any step. DeepSpeed itself starts from weights that were rounded to bf16."""
    given = json.loads(settings(tmp_path, stage, offload=offload, masters=True))
    given["engine"]["dtype"] = "bf16"
    given["training"]["max_steps"] = 1
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    masters = torch.load(tmp_path / "masters.pt", weights_only=True)
    exact = dict(small.model().named_parameters())
    assert masters.keys() == exact.keys()
    for name, expected in exact.items():
        assert masters[name].dtype == torch.float32 and torch.equal(masters[name], expected), name
    assert not all(torch.equal(value, value.bfloat16().float()) for value in exact.values())


# Every key that an own file may set, with a value that is not DeepSpeed's own.
OWN_FILES: dict[str, tuple[int, bool, dict[str, Any], dict[str, Any]]] = {
    "stage 1": (1, False, {"communication_data_type": "fp32"}, {
        "reduce_bucket_size": 700.0, "allgather_bucket_size": 600,
        "allgather_partitions": False}),
    "stage 2": (2, False, {"communication_data_type": "fp32"}, {
        "contiguous_gradients": False, "overlap_comm": False, "reduce_scatter": False, "reduce_bucket_size": 700}),
    "stage 3": (3, False, {"communication_data_type": "fp32"}, {
        "stage3_param_persistence_threshold": 20, "stage3_model_persistence_threshold": 100, "sub_group_size": 1000,
        "stage3_max_live_parameters": 2000, "stage3_max_reuse_distance": 2000, "stage3_prefetch_bucket_size": 900,
        "reduce_bucket_size": 5000, "overlap_comm": True, "contiguous_gradients": True}),
    "offload": (3, True, {}, {"offload_param": {"device": "cpu"}, "reduce_bucket_size": 5000,
                              "stage3_param_persistence_threshold": 0}),
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("reference") / "out.pt"
    run(PROGRAM, out, settings(out.parent, -1))
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] * (name != "stage 2")) for name in OWN_FILES]
)
def test_what_an_own_file_may_set_changes_no_result(name: str, tmp_path: Path, reference: dict[str, Any]) -> None:
    """Losses and weights are those of plain torch, over a stop and a start."""
    stage, offload, top, zero = OWN_FILES[name]
    given = json.loads(settings(tmp_path, stage, offload=offload))
    file = Path(given["engine"]["ds_config"])
    file.write_text(json.dumps({**top, "zero_optimization": {"stage": stage, **zero}}))
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given | {"stop_at": 3}), ranks=2)
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    ours = torch.load(tmp_path / "out.pt", weights_only=True)
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-5)
    for key, expected in reference["parameters"].items():
        if "key.bias" not in key:
            torch.testing.assert_close(ours["parameters"][key], expected, rtol=0, atol=1e-5, msg=key)


def test_each_key_that_an_own_file_may_set_is_tried() -> None:
    assert {key for _, _, top, _ in OWN_FILES.values() for key in top} == set(ALLOWED) - {"zero_optimization"}
    assert {key for _, _, _, zero in OWN_FILES.values() for key in zero} == set(ALLOWED_ZERO) - {"stage"}
