"""Where examples come from, and what a reader is told about one file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stilts_ds.config import TextHubPart
from stilts_ds.errors import UserError
from stilts_ds.tasks.spec import Task, serves


@dataclass(frozen=True)
class DataSource:
    """Local folders with official files, or the Hugging Face hub.

    `intermediate` holds the English intermediate tasks, `xtreme` is XTREME's download folder. Translated intermediate
    tasks are always local: `translated`/<language> is laid out as `intermediate`. Text for masked language modelling
    comes from files in `text` or from `text_hub`, whatever `kind` is; at most `max_text_passages` of a language.
    `hub_commits` is the file that keeps the commits behind moving revisions. `noise` holds word lists and keyboards for
    noise (stilts_ds.sources.noise_lists). `code` holds a folder for each code benchmark, of any role.
    """

    kind: Literal["local", "hub"] = "local"
    intermediate: Path | None = None
    xtreme: Path | None = None
    text: Path | None = None
    translated: Path | None = None
    text_hub: TextHubPart | None = None
    max_text_passages: int | None = None
    hub_commits: Path | None = None
    noise: Path | None = None
    code: Path | None = None

    def from_hub(self, task: Task, split: str, language: str | None = None) -> bool:
        """Whether the hub serves this split (in a language, where one is given); what it has not got is local."""
        entries = task.hub.get(split, ())
        return self.kind == "hub" and any(language is None or serves(entry, language) for entry in entries)

    def folder_of(self, task: Task) -> Path:
        """The folder that `task`'s paths are relative to. Raises UserError where it is not set or does not exist."""
        # Translations of such a task stand with all others, in `data.translated`.
        if task.directory and not task.translation:
            directory = Path(task.directory)
            if not directory.is_dir():
                raise UserError(f"{task.name}: there is no folder {directory}; put its files there, or change `folder`")
            return directory
        key = task.data_folder  # a field of this class, and the key of `data` in the recipe
        origin = "translations" if task.translation else f"from {task.url}"
        folder: Path | None = getattr(self, key)
        if folder is None:
            remedy = f"name the folder with its files ({origin})"
            why = f"the hub has not got its files; {remedy}. {task.note}" if self.kind == "hub" else remedy
            raise UserError(f"{task.name}: data.{key} is not set; {why}".rstrip())
        # Laid out as `data.intermediate`, so that several languages' files keep their official names.
        folder = folder / task.translation if task.translation else folder
        if not folder.is_dir():
            raise UserError(f"{task.name}: data.{key}: there is no folder {folder}; put its files there ({origin})")
        return folder


@dataclass(frozen=True)
class Part:
    """One file of a split. `labels` and `pivot` are the files beside it, where its schema has them. `pool`: the files
    of what its rows name by id, each with its language ("" where one file holds all).

    `tally` counts the rows that a reader leaves out, by reason. `limit`: read only so many lines of running text.
    """

    path: Path
    task: Task
    language: str
    split: str
    labels: Path | None = None
    pivot: Path | None = None
    pool: tuple[tuple[str, Path], ...] = ()
    tally: Counter[str] = field(default_factory=Counter)
    limit: int | None = None
