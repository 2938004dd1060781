"""The least that is a recipe, as a value and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, parse_recipe

SMALL: dict[str, Any] = {"name": "study", "targets": ["xnli"]}
# What makes the quickstart a few steps of two targets, on one rank.
STUDY = [
    "intermediate={none: [], nli: [mnli]}",
    "targets=[xnli, udpos]",
    "intermediate_training.max_steps=4",
    "target_training.max_steps=-1",
    "evaluation.max_examples=5",
    "launch.nproc=1",
    "engine.zero_stage=1",
]


def recipe(**more: Any) -> Recipe:
    return parse_recipe({**SMALL, **more}, "test.yaml")


def written(folder: Path, text: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
