"""The least that is a recipe, as a value and as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe, parse_recipe

SMALL: dict[str, Any] = {"name": "study", "targets": ["xnli"]}


def recipe(**more: Any) -> Recipe:
    return parse_recipe({**SMALL, **more}, "test.yaml")


def written(folder: Path, text: str) -> str:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)
