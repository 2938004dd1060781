"""Splits with noise in their texts: what noise makes of a split's records, and to which languages it applies."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex

from stilts_ds.errors import UserError
from stilts_ds.families.registry import family_of
from stilts_ds.noise.kinds import KINDS
from stilts_ds.noise.noiser import VERSION, Collector, Noiser, Nowhere, Recorder, Tally, empty_cell, make_noiser
from stilts_ds.run_dir import hash_files
from stilts_ds.sources.noise_lists import list_files, read_keyboard, read_words
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.spec import Task

log = logging.getLogger(__name__)


def noisy_records(
    task: Task, split: str, language: str, records: Sequence[Any], lists: Path | None
) -> tuple[list[Any], Tally]:
    """The records of a whole split with the task's noise, and what it did. `lists` is the folder `data.noise`.

    Raises Nowhere where the noise does not apply to the language or finds nothing to change: a set that is called
    noisy is never silently clean.
    """
    noise, apply = task.noise, family_of(task).noisy
    if noise is None or apply is None:
        raise ValueError(f"{task.name} has no noise")
    # Rate 0 is the clean end of a curve over rates, and no mistake.
    if noise.rate == 0:
        return list(records), Tally()
    noiser = make_split_noiser(task, split, language, records, lists)
    changed = apply(records, noiser, task)
    tally = noiser.tally
    if not tally.edits:
        raise Nowhere(f"{task.name} {split} {language}: {noise.kind} noise finds nothing to change in these texts")
    log.info(
        "%s %s %s: %d edits, %s",
        task.name, split, language, tally.edits, tally_text(tally),
    )  # fmt: skip
    return changed, tally


def make_split_noiser(task: Task, split: str, language: str, records: Sequence[Any], lists: Path | None) -> Noiser:
    """The noise of a split whose clean records, all of them, are given. Raises Nowhere where it does not apply."""
    noise, apply = task.noise, family_of(task).noisy
    if noise is None or apply is None:
        raise ValueError(f"{task.name} has no noise")
    # A first pass that only counts letters: what a stray letter may be is drawn from all of the split's.
    collected = Collector(noise)
    apply(records, collected, task)
    # The name without the training language: `panx~de@typo-5` is scored on the strings of `panx@typo-5`.
    where = f"{task.base_name} {split} {language}"
    return make_noiser(collected, language, where, _words(task, language, lists), read_keyboard(lists, language))


def noise_effect(
    task: Task, split: str, language: str, records: Sequence[Any], lists: Path | None
) -> tuple[Tally, list[tuple[str, str]]]:
    """What the noise did to the clean records of a split, and each of their texts as it was and as it is."""
    noise, apply = task.noise, family_of(task).noisy
    if noise is None or apply is None:
        raise ValueError(f"{task.name} has no noise")
    if noise.rate == 0:
        return Tally(), []
    recorder = Recorder(make_split_noiser(task, split, language, records, lists))
    apply(records, recorder, task)
    return recorder.noiser.tally, recorder.texts


def tally_text(tally: Tally) -> str:
    """The realised rate, and the share of the words that it touched where there are words."""
    rate = f"{tally.edits_per_100_letters:.2f} in 100 letters"
    touched = tally.words_touched_percent
    return rate if touched is None else f"{rate}; {touched:.1f} % of the words"


def _words(task: Task, language: str, lists: Path | None) -> dict[str, tuple[str, ...]]:
    assert task.noise is not None
    name = KINDS[task.noise.kind].list_name
    return read_words(lists, name, language) if name else {}


def empty_cells(task: Task, languages: Sequence[str], source: DataSource) -> dict[str, str]:
    """The languages that the task's noise does not apply to, with the reason. Raises UserError where it applies to
    none of those asked for."""
    assert task.noise is not None
    reasons = {language: _empty(task, language, source) for language in languages}
    empty = {language: reason for language, reason in reasons.items() if reason}
    # A table of empty cells only is a mistake in the recipe; a single one is a fact about the language.
    if languages and len(empty) == len(languages):
        first = next(iter(empty))
        raise UserError(f"{task.name}: applies to none of {', '.join(languages)} ({first}: {empty[first]})")
    return empty


def _empty(task: Task, language: str, source: DataSource) -> str:
    """Why noise does not apply to a language; "" where it does."""
    assert task.noise is not None
    name = KINDS[task.noise.kind].list_name
    # The user's keyboard may type what none of the table does.
    own_keyboard = bool(list_files(source.noise, "keyboards", language))
    reason = "" if own_keyboard else empty_cell(task.noise, language)
    if not reason and name and not list_files(source.noise, name, language):
        return f"data.noise has no list for it in {name}/"
    return reason


def noise_key(task: Task, language: str, lists: Path | None) -> dict[str, Any]:
    """What the noise of a split depends on besides its clean texts."""
    assert task.noise is not None
    name = KINDS[task.noise.kind].list_name
    files = [*list_files(lists, name, language), *list_files(lists, "keyboards", language)]
    return {"noise": str(task.noise), "version": VERSION, "lists": hash_files(files) if files else ""}


def generator() -> dict[str, str]:
    """The version of everything that decides where letters begin and end, for those who read noisy files."""
    return {"noise": str(VERSION), "unicode": unicodedata.unidata_version, "regex": regex.__version__}
