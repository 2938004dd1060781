"""Paths of a recipe as every rank, job and later command can use them: absolute, with `~` and `$NAME` filled in."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.errors import UserError

VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def resolve_paths(recipe: Recipe) -> Recipe:
    """Make every path absolute, with `~` and `$NAME` filled in, so that every rank, job and later command reads the
    same files from wherever it is started. A model that is no folder here is a hub id. Raises UserError for a variable
    that is not set."""
    data = {
        key: absolute(value, f"data.{key}").resolve()
        for key in ("intermediate", "xtreme", "translated", "text", "code", "noise", "cache")
        if (value := getattr(recipe.data, key)) is not None
    }

    readable = [absolute(folder, "execute.readable").resolve() for folder in recipe.execute.readable]
    ds_config = recipe.engine.ds_config
    if ds_config is not None:
        ds_config = absolute(ds_config, "engine.ds_config")
    return recipe.model_copy(
        update={
            "output_dir": absolute(recipe.output_dir, "output_dir").resolve(),
            "tasks_from": [absolute(path, "tasks_from") for path in recipe.tasks_from],
            "data": recipe.data.model_copy(update=data),
            "execute": recipe.execute.model_copy(update={"readable": readable}),
            "engine": recipe.engine.model_copy(update={"ds_config": ds_config}),
            "model": recipe.model.model_copy(update={"name_or_path": _absolute_model(recipe.model.name_or_path)}),
        }
    )


def _absolute_model(name: str) -> str:
    """A hub id or `toy` as it is, a folder as an absolute path."""
    # What begins so is meant as a path, also where there is no such folder: then the message is about a folder.
    is_path = name.startswith(("~", ".", "/")) or VARIABLE.search(name) is not None
    # os.path: a name that no file system takes, such as one that is too long, is no file, and no error either.
    if name != "toy" and (is_path or os.path.exists(name)):
        return str(absolute(name, "model.name_or_path"))
    return name


def absolute(path: str | Path, key: str) -> Path:
    """The path with `~` and environment variables filled in, from the working directory; links stay as they are.

    Raises UserError that names `key` where there is no such variable or user.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise UserError(f"{key}: {path}: ${name} is not set; set it, or write the path without it")
        return os.environ[name]

    filled = VARIABLE.sub(value, str(path))
    try:
        return Path(os.path.abspath(Path(filled).expanduser()))
    except RuntimeError:
        raise UserError(f"{key}: {path}: there is no home folder for it; write the path without ~") from None
