"""Writes a whole miniature world in the official schemas: `intermediate/` with some of it `translated/`, `xtreme/`,
`code/`, and `text/` for MLM."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from stilts_ds.run_dir import fresh_folder
from stilts_ds.toy import corpus, intermediate, programs, targets
from stilts_ds.toy.languages import LANGUAGES
from stilts_ds.toy.sources import Source, write_lines

TEXT_LINES = 8000  # of each language


def ensure_toy_world(folder: Path, seed: int, with_text: bool = True) -> None:
    """Generate the miniature world once; a folder of another seed is generated anew.

    `with_text`: its running text, too. That is half of the work, and only masked language modelling reads it.
    """
    marker = folder / "seed.txt"
    if not marker.exists() or marker.read_bytes() != str(seed).encode():
        _write_tasks_once(folder, seed)
    # Worlds of earlier versions have no programs.
    if not (folder / "code").is_dir():
        _write_folder_once(folder / "code", write_code, seed)
    if with_text and not (folder / "text").is_dir():
        _write_folder_once(folder / "text", write_text, seed)


def _write_tasks_once(folder: Path, seed: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written elsewhere and renamed: a run that was killed leaves no half of a world that looks whole.
    fresh = fresh_folder(folder)
    try:
        write_tasks(fresh, seed)
        (fresh / "seed.txt").write_text(str(seed))
        shutil.rmtree(folder, ignore_errors=True)  # of another seed; a rename does not replace a filled folder
        os.rename(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _write_folder_once(folder: Path, write: Callable[[Path, int], None], seed: int) -> None:
    """One folder of a world, by a function that writes it into a world."""
    fresh = fresh_folder(folder)
    try:
        write(fresh, seed)
        os.rename(fresh / folder.name, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def write_world(folder: Path, seed: int) -> None:
    """Write every file of the world; the same seed gives the same bytes everywhere."""
    write_tasks(folder, seed)
    write_code(folder, seed)
    write_text(folder, seed)


def write_tasks(folder: Path, seed: int) -> None:
    """Write `intermediate/`, `translated/` and `xtreme/`: all that a run from the pretrained checkpoint needs."""
    # One source for both, so that no target tests on what an intermediate task trained on.
    source = Source(seed)
    for write in intermediate.WRITERS:
        write(source, folder / "intermediate")
    for write in targets.WRITERS:
        write(source, folder / "xtreme")
    intermediate.write_translated(Source(seed), folder / "translated")  # a fresh source draws MNLI's rows again


def write_code(folder: Path, seed: int) -> None:
    """Write `code/`: programming exercises to train on and to be scored on."""
    source = Source(seed)
    for write in programs.WRITERS:
        write(source, folder / "code")


def write_text(folder: Path, seed: int) -> None:
    """Write `text/<language>.txt`, a sentence or short story a line."""
    source = Source(seed)
    for code in LANGUAGES:
        write_lines(folder / "text" / f"{code}.txt", corpus.lines(source.dice(f"text/{code}"), code, TEXT_LINES))
