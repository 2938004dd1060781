"""Noisy test sets as files in the benchmark's own layout, so that anyone can score against the same strings.

OUT/xnli@typo-5/xnli/test-de.tsv     what XTREME's download folder has there, with noise
OUT/xnli@typo-5/noise.json           version, hash and error rates of every file; the cells that are empty, and why;
                                     files that are there because others search them, without noise
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from stilts_ds.data.noisy import empty_cells, generator
from stilts_ds.data.reader import Origin, find_origin
from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.noise.noiser import Nowhere, Tally
from stilts_ds.run_dir import hash_file, write_json
from stilts_ds.sources.local import fill
from stilts_ds.sources.source import DataSource, Part
from stilts_ds.tasks.registry import owner
from stilts_ds.tasks.spec import Local, Task

MANIFEST = "noise.json"


def write_noise_files(task: Task, split: str, languages: Sequence[str], source: DataSource, output: Path) -> str:
    """Write the noisy files of a split in some languages below `output`/<task>; returns a line for each language.

    Raises UserError where the noise applies to none of the languages, and for data that cannot be read.
    """
    assert task.noise is not None
    folder = output / task.name
    empty = empty_cells(task, languages, source)
    files: dict[str, dict[str, Any]] = {}
    for language in languages:
        if language not in empty:
            try:
                files[language] = _write_language(find_origin(task, split, language, source), folder)
            # Only the texts tell, so a language can turn out to be empty as late as this.
            except Nowhere as problem:
                empty[language] = str(problem)
    if not files:
        raise UserError(f"{task.name}: nothing was written; {next(iter(empty.values()))}")
    clean = _copy_searched(find_origin(task, split, next(iter(files)), source), files, folder)
    manifest = {
        "task": task.plain_name, "noise": task.noise.kind, "rate": task.noise.rate, "draw": task.noise.draw,
        "context": task.noise.context, "split": split, "generator": generator(), "files": files, "empty": empty,
        "clean": clean,
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    lines = [*_summary(task, files)]
    lines += [f"{task.name} {code}: empty, {why}" for code, why in empty.items()]
    lines += [f"{task.name} {code}: a clean file, whose candidates the others search" for code in clean]
    return "\n".join(lines)


def _summary(task: Task, files: dict[str, dict[str, Any]]) -> Iterable[str]:
    for language, row in files.items():
        touched = row["words_touched_percent"]
        words = "" if touched is None else f"{touched:.1f} % of the words; "
        rate = f"{row['edits_per_100_letters']:.2f} edits in 100 letters; {words}"
        yield f"{task.name} {language}: {rate}{', '.join(row['sha256'])}"


def _copy_searched(origin: Origin, written: Collection[str], folder: Path) -> list[str]:
    """Copy the files of candidates in languages without a noisy file: every query searches them, too. Returns these
    languages, whose own queries are clean."""
    copied = []
    for language, path in _pool(origin):
        if language and language not in written:
            target = _part(_writable(origin), dataclasses.replace(origin, language=language), folder).path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            copied.append(language)
    return copied


def _write_language(origin: Origin, folder: Path) -> dict[str, Any]:
    """Write one language's files; returns their hashes and what noise did."""
    records, tally = origin.with_noise(origin.clean().read())
    local = _writable(origin)
    target = _part(local, origin, folder)
    paths = [path for path in (target.path, target.pivot, target.labels) if path is not None]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    # Copied and not written anew: noise changes no label, and the file may hold more than this language's.
    if target.labels is not None:
        shutil.copyfile(_given_labels(origin), target.labels)
    family_of(origin.task).writers[local.schema](target, records)
    return {
        "sha256": {str(path.relative_to(folder)): hash_file(path) for path in paths},
        "examples": len(records),
        **rates(tally),
    }


def rates(tally: Tally) -> dict[str, Any]:
    """What noise did, for a manifest."""
    touched = tally.words_touched_percent
    return {
        "letters": tally.letters,
        "edits": tally.edits,
        "edits_per_100_letters": round(tally.edits_per_100_letters, 4),
        "words_touched_percent": None if touched is None else round(touched, 4),
    }


def _writable(origin: Origin) -> Local:
    """The first layout of the split's files that the family writes."""
    writers = family_of(origin.task).writers
    for entry in origin.task.local.get(origin.split, ()):
        local: Local | None = entry
        while local is not None:
            # A pattern names no file to write to.
            if local.schema in writers and "*" not in local.path:
                return local
            local = local.otherwise
    raise UserError(f"{origin.task.name} {origin.split}: its files cannot be written; score the noisy task by its name")


def _part(local: Local, origin: Origin, folder: Path) -> Part:
    task = owner(origin.task, origin.split)
    labels = folder / fill(local.labels, task, origin.language) if local.labels and _has_labels(origin) else None
    pivot = folder / fill(local.pivot, task, origin.language) if local.pivot else None
    path = folder / fill(local.path, task, origin.language)
    # What is searched gets no noise: the clean files say what it is.
    return Part(path, task, origin.language, origin.split, labels, pivot, _pool(origin))


def _pool(origin: Origin) -> tuple[tuple[str, Path], ...]:
    """The files of candidates, by language; none for what the hub serves."""
    return next((split_file.pool for _, split_file in origin.parts), ())


def _has_labels(origin: Origin) -> bool:
    return any(split_file.labels is not None for _, split_file in origin.parts)


def _given_labels(origin: Origin) -> Path:
    return next(split_file.labels for _, split_file in origin.parts if split_file.labels is not None)
