"""Gigabytes of a plan: what it keeps at the end and takes at most, at each level of `keep`."""

from __future__ import annotations

import dataclasses
from typing import get_args

from stilts_ds.config import Keep, Recipe
from stilts_ds.disk import DiskUse, disk_use
from stilts_ds.model_files import model_folder
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir
from stilts_ds.weight_files import parameter_count

GB = 1e9


def disk_uses(recipe: Recipe, run: RunDir, plan: Plan) -> dict[Keep, dict[str, int]] | None:
    """Bytes now, at the end and at most, by level; None where the model is not on this machine."""
    uses = _uses(recipe, run, plan)
    if uses is None:
        return None
    return {keep: dataclasses.asdict(use) for keep, use in uses.items()}


def disk_line(recipe: Recipe, run: RunDir, plan: Plan) -> str:
    uses = _uses(recipe, run, plan)
    if uses is None:
        return "disk: unknown until the model is on this machine (`stilts fetch`)"
    use = uses[recipe.keep]
    others = [
        f"keep={keep} {_gb(kept.end)}, at most {_gb(kept.peak)}" for keep, kept in uses.items() if keep != recipe.keep
    ]
    at_once = recipe.launch.phases_at_once
    worlds = "" if at_once == 1 else f" with {at_once} worlds"
    chosen = f"{_gb(use.end)} GB kept at the end, {_gb(use.peak)} GB at most{worlds} (keep={recipe.keep})"
    more = f"each further phase at work at the same time (worlds, jobs of an array) adds up to {_gb(use.phase)}"
    return f"disk: {chosen}; {'; '.join(others)}; {more}"


def _gb(count: int) -> str:
    """Gigabytes, with more digits for small models."""
    return f"{count / GB:,.1f}" if count >= GB else f"{count / GB:.3f}"


def _uses(recipe: Recipe, run: RunDir, plan: Plan) -> dict[Keep, DiskUse] | None:
    folder = model_folder(recipe.model.name_or_path, recipe.model.revision)
    parameters = parameter_count(str(folder)) if folder is not None else None
    if parameters is None:
        return None
    levels: tuple[Keep, ...] = get_args(Keep)
    at_once = recipe.launch.phases_at_once
    return {keep: disk_use(run, plan, keep, parameters, at_once) for keep in levels}
