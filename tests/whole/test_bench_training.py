"""The training benchmark: what it compares is the same work, and a difference stops it before anything is timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import ranks
import small
import torch
from conftest import stilts
from stilts_bench.training import gradient_errors, padded_to

from stilts_ds.batches.collate import Collator

pytestmark = pytest.mark.processes


def batch_of(count: int = 24):
    tasks = small.tasks()
    items = [(i, sorted(tasks)[i % len(tasks)], i // len(tasks)) for i in range(count)]
    return Collator(tasks, small.tokenizer_stub(), 0.15, 0)(items, 0, dict.fromkeys(tasks, 1 / count))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [0, 100])
def test_gradients_are_the_same_for_any_padding_and_another_weight_shows(width: int) -> None:
    theirs = padded_to(width, small.model(packed=False))
    assert max(gradient_errors(small.model(), theirs, batch_of()).values()) < 1e-6
    with torch.no_grad():
        theirs.heads["nli"].out_proj.weight[0, 0] += 0.1
    errors = gradient_errors(small.model(), theirs, batch_of())
    assert min(errors["packed_to_padded"], errors["padded_to_float64"]) > 1e-4 > 100 * errors["packed_to_float64"]


@pytest.mark.long
def test_the_benchmark_runs_as_one_command(shared_data: Path, tmp_path: Path) -> None:
    said = stilts(
        "bench",
        "training",
        "--model",
        ranks.ROOT / "stilts_ds/toy/model",
        "--intermediate",
        shared_data / "intermediate",
        "--batches",
        1,
        "--max-seq-length",
        200,
        "--out",
        "found.jsonl",
        cwd=tmp_path,
    )
    found = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    padding = [one for one in found if one["case"].startswith("padding: ")]
    assert len(padding) == 5 and all(one["gradient_errors"]["packed_to_padded"] < 2e-6 for one in padding)
    mixed, by_task, by_length, static, _ = (one["token_ratio"] for one in padding)
    assert static > mixed > 1 and min(by_task, by_length) >= 1
    assert "tokens/s" in said and padding[0]["machine"]["versions"]["torch"]
