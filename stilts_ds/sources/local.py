"""From a task's literal to the files of one split and language."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.sources.files import PACKED, check_head
from stilts_ds.sources.language_files import language_files, language_of
from stilts_ds.sources.source import DataSource, Part
from stilts_ds.sources.tables import saved_files
from stilts_ds.tasks.languages import iso3_of, name_of
from stilts_ds.tasks.registry import check_language, owner
from stilts_ds.tasks.spec import TABLE, Local, Task, serves


def parts_of(task: Task, split: str, language: str, source: DataSource) -> list[tuple[str, Part]]:
    """Every (schema, file) of one of the task's own splits in one language, in reading order.

    Raises UserError for a split that the task has not, and for anything missing.
    """
    if split not in task.local and task.directory:
        # A user's task may do without: examples that are held out of its train file select then.
        instead = f", or set data.dev_split.{task.name}=train" if split == "dev" else ""
        raise UserError(f"{task.name} has no {split} file; name one under `files` in its definition{instead}")
    if split not in task.local:
        raise UserError(f"{task.name} has no split {split!r}{did_you_mean(split, task.local)} {task.note}".rstrip())
    blank = Part(source.folder_of(task), task, language, split, limit=source.max_text_passages)
    serving = [local for local in task.local[split] if serves(local, language)]
    return [split_file for local in serving for split_file in _parts(local, blank)]


def missing_parts(task: Task, split: str, language: str, source: DataSource) -> list[str]:
    """What is wrong with each missing or unusable file of a split, and where to get it; [] where all can be read."""
    owning = owner(task, split)
    # A task of its own for each entry, so that every missing file is named and not the first alone.
    variants = [
        dataclasses.replace(owning, local={split: (local,)})
        for local in owning.local.get(split, ())
        if serves(local, language)
    ]
    problems = []
    # Without any entry the task itself is asked, which says what it has not.
    for variant in variants or [owning]:
        try:
            check_language(variant, language)
            for _, split_file in parts_of(variant, split, language, source):
                for path in (
                    split_file.path,
                    split_file.labels,
                    split_file.pivot,
                    *(path for _, path in split_file.pool),
                ):
                    if path is not None:
                        check_head(path)
        except UserError as problem:
            problems.append(str(problem))
    return problems


def _parts(local: Local, blank: Part) -> list[tuple[str, Part]]:
    """The files of one entry; `blank.path` is the folder that its paths start from."""
    folder, task = blank.path, blank.task
    _check_monolingual(local, blank)
    chosen, paths = _find(folder, local, task, blank.language)
    if chosen is None:
        raise UserError(_missing(folder, local, blank))
    # Test labels may be kept back by the benchmark; a dev split without labels can select nothing.
    labels = _companion(chosen.labels, blank, required=blank.split != "test") if chosen.labels else None
    pivot = _companion(chosen.pivot, blank, required=True) if chosen.pivot else None
    pool = _pool(chosen, blank) if chosen.pool else ()
    filled = dataclasses.replace(blank, labels=labels, pivot=pivot, pool=pool)
    return [(chosen.schema, _at(filled, path, chosen)) for path in paths]


def _at(blank: Part, path: Path, local: Local) -> Part:
    """The part for one file, in the language that its file or folder names where these do."""
    if not local.names_language:
        return dataclasses.replace(blank, path=path, language=local.language or blank.language)
    return dataclasses.replace(blank, path=path, language=language_of(path, blank.path))


def _check_monolingual(local: Local, blank: Part) -> None:
    # A path without a language's hole is one file, which says nothing of other languages.
    only_pivot = not any(hole in local.path for hole in ("{language}", "{iso3}", "{name}"))
    if only_pivot and not local.languages and not local.rows_name_language and blank.language != blank.task.pivot:
        where = f"{blank.task.name} {blank.split}"
        raise UserError(f"{where} exists for {blank.task.pivot!r} only, not for {blank.language!r}; ask for that")


def _find(folder: Path, local: Local, task: Task, language: str) -> tuple[Local | None, Sequence[Path]]:
    """The entry, or the alternative to it, that has files, and these files."""
    if local.names_language:  # every layout at once: which files there are says which languages there are
        every = language_files(folder)
        return (local, every) if every else (None, [])
    choice: Local | None = local
    while choice is not None:
        path = fill(choice.path, task, language)
        # By name: treebanks are read in one order, whatever folders they stand in.
        matches = (
            sorted(folder.glob(path), key=lambda match: (match.name, str(match))) if "*" in path else [folder / path]
        )
        files = [file for match in matches for file in _files_of(match, choice)]
        if files:
            return choice, files
        choice = choice.otherwise
    return None, []


def _files_of(match: Path, local: Local) -> list[Path]:
    """The file itself, those of a folder that holds one table, or none."""
    if local.schema == TABLE and match.is_dir():
        return saved_files(match)
    return [match] if match.is_file() else []


def _companion(pattern: str, blank: Part, required: bool) -> Path | None:
    path = blank.path / fill(pattern, blank.task, blank.language)
    packed = path.with_name(path.name + PACKED)
    for choice in (path, packed):
        if choice.is_file():
            return choice
    if required:
        raise UserError(f"{blank.task.name}: there is no file {path}; get it from {blank.task.url}")
    return None


def _pool(local: Local, blank: Part) -> tuple[tuple[str, Path], ...]:
    """What rows name by its id: one file, or the candidates of each language. Raises UserError where one is missing: a
    smaller pool would make every query easier."""
    if "{language}" not in local.pool:
        file = _companion(local.pool, blank, required=True)
        assert file is not None
        return (("", file),)
    return tuple((code, _pool_file(local, blank, code)) for code in sorted(blank.task.languages))


def _pool_file(local: Local, blank: Part, language: str) -> Path:
    path = blank.path / fill(local.pool, blank.task, language)
    if not path.is_file():
        why = "its candidates are searched by the queries of every language"
        raise UserError(f"{blank.task.name}: there is no file {path}, and {why}; get it from {blank.task.url}")
    return path


def _missing(folder: Path, local: Local, blank: Part) -> str:
    task, tried = blank.task, []
    choice: Local | None = local
    while choice is not None:
        tried.append(str(folder / fill(choice.path, task, blank.language)))
        choice = choice.otherwise
    missing = f"{task.name}: no {blank.split} file for {blank.language!r}"
    if task.translation:
        return f"{missing}: there is no {' and no '.join(tried)}; it must have the schema and name of the English file"
    return f"{missing}: there is no {' and no '.join(tried)}; get it from {task.url}. {task.note}".rstrip()


def fill(pattern: str, task: Task, language: str) -> str:
    """A path or pattern with its holes filled in."""
    codes = {"language": language, "iso3": iso3_of(language), "name": name_of(language)}
    return pattern.format(**codes, pivot=task.pivot, pivot_iso3=iso3_of(task.pivot))
