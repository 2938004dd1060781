"""Where examples come from, and what a reader is told about one file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stilts_ds.errors import UserError
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class DataSource:
    """Local folders with official files, or the Hugging Face hub.

    `intermediate` holds the English intermediate tasks, `xtreme` is XTREME's download folder, `text` holds text files
    for masked language modelling.
    """

    kind: Literal["local", "hub"] = "local"
    intermediate: Path | None = None
    xtreme: Path | None = None
    text: Path | None = None

    def folder_of(self, task: Task) -> Path:
        """The folder that `task`'s paths are relative to. Raises UserError where it is not set or does not exist."""
        key = "text" if task.family == "text" else "intermediate" if task.role == "intermediate" else "xtreme"
        folder: Path | None = getattr(self, key)
        if folder is None:
            raise UserError(f"{task.name}: data.{key} is not set; name the folder with its files (from {task.url})")
        if not folder.is_dir():
            raise UserError(f"{task.name}: data.{key}: there is no folder {folder}; its files come from {task.url}")
        return folder


@dataclass(frozen=True)
class Part:
    """One file of a split. `labels` and `pivot` are the files beside it, where its schema has them.

    `tally` counts the rows that a reader leaves out, by reason.
    """

    path: Path
    task: Task
    language: str
    split: str
    labels: Path | None = None
    pivot: Path | None = None
    tally: Counter[str] = field(default_factory=Counter)
