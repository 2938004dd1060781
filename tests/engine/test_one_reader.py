"""Rank 0 alone reads the sources: the other ranks map its rows, and say where they are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ranks
from engine_runs import run

from stilts_ds.config import parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.planner import make_plan

pytestmark = pytest.mark.processes
LABELS = ("entailment", "neutral", "contradiction")


def study(folder: Path, examples: int) -> Path:
    """A study of MNLI that is scored on XNLI in two languages, with the files of its sources."""
    for split in ("train", "dev_matched"):
        path = folder / "i" / "mnli" / f"multinli_1.0_{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = [
            {"pairID": f"{split}{i}", "sentence1": f"{split} {i}", "sentence2": "rain", "gold_label": LABELS[i % 3]}
            for i in range(examples)
        ]
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    for language in ("en", "de"):
        path = folder / "x" / "xnli" / f"test-{language}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{language} {i}\tx\tneutral\n" for i in range(examples)), encoding="utf-8")
    values = {
        "name": "x", "targets": ["xnli"], "intermediate": {"none": []}, "model": {"name_or_path": "toy"},
        "evaluation": {"languages": {"xnli": ["en", "de"]}},
        "data": {"intermediate": str(folder / "i"), "xtreme": str(folder / "x")},
    }  # fmt: skip
    data = Data(parse_recipe(values, "test"), folder / "run")
    phases = make_plan(data.recipe, "model", data.hash_of).phases
    (folder / "recipe.json").write_text(json.dumps(values))
    (folder / "phases.json").write_text(json.dumps([phase.to_json() for phase in phases]))
    return folder


def read(folder: Path, size: int, others: str = "cache", *more: str) -> list[dict[str, Any]]:
    """What each rank tells."""
    caches = [folder / "cache", folder / others]
    printed = run(ranks.PROGRAMS / "read_ranks.py", folder, *caches, *more, ranks=size)
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def test_other_ranks_open_no_source_whatever_its_size(tmp_path: Path) -> None:
    small = read(study(tmp_path / "small", 30), 2)
    large = read(study(tmp_path / "large", 3000), 2)
    assert [told["files"] for told in (small[1], large[1])] == [0, 0]
    assert small[0]["files"] == large[0]["files"] > 4 and large[0]["bytes"] > small[0]["bytes"] + 500_000
    # Headers, of which Python reads a buffer of 8 KiB from each file, and manifests: they do not grow with the data.
    arrays = len(list((tmp_path / "large" / "cache").rglob("*.npy")))
    assert large[1]["bytes"] - small[1]["bytes"] < arrays * 8192 + 20_000
    assert not any(told["problem"] for told in [*small, *large])


@pytest.mark.long
def test_a_cache_on_a_nodes_own_disk_is_filled_once_there(tmp_path: Path) -> None:
    first, filling, other = read(study(tmp_path, 30), 3, "scratch")
    assert filling["files"] and not other["files"]
    assert not any(told["problem"] for told in (first, filling, other))


@pytest.mark.long
def test_rows_that_vanish_are_named(tmp_path: Path) -> None:
    told = read(study(tmp_path, 30), 2, "cache", "remove")
    assert "is missing or damaged, though this start has cached its rows" in told[1]["problem"]
    assert str(tmp_path / "cache") in told[1]["problem"]
