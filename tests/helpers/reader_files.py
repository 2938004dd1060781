"""Writes small data files for the reader tests, and reads them back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.registry import FAMILIES
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task
from stilts_ds.tasks.spec import Task

MNLI_DEV = "mnli/multinli_1.0_dev_matched.jsonl"
QQP_HEADER = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
COSMOS_HEADER = "id,context,question,answer0,answer1,answer2,answer3,label\n"


def empty_source(folder: Path) -> DataSource:
    """A source with its three folders, all empty."""
    for name in ("intermediate", "xtreme", "text"):
        (folder / name).mkdir()
    return DataSource("local", folder / "intermediate", folder / "xtreme", folder / "text")


def put(source: DataSource, task: str, file: str, content: str | bytes | list[Any] | dict[str, Any]) -> Path:
    """Write one file of a task: text, bytes, JSON lines (a list) or JSON (a dict)."""
    path = source.folder_of(get_task(task)) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    if isinstance(content, dict):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(
    source: DataSource, task: str, split: str = "dev", language: str = "en", tally: Counter[str] | None = None
) -> Any:
    return list(read_examples(get_task(task), split, language, source, tally))


def read_bitext(task: Task, split: str, language: str, source: DataSource) -> tuple[Any, Any, Any]:
    """Both sides of a collection and its gold pairs (None without)."""
    [bitext] = read_examples(task, split, language, source)
    return bitext.source, bitext.pivot, bitext.gold


def files_of(task: Task, split: str, language: str, source: DataSource) -> list[Path]:
    return find_origin(task, split, language, source).files


def available_languages(task: Task, split: str, source: DataSource) -> list[str]:
    """The task's languages that a split is there in."""
    found = []
    for language in task.languages:
        try:
            find_origin(task, split, language, source)
        except UserError:
            continue
        found.append(language)
    return found


READERS = {schema: reader for family in FAMILIES.values() for schema, reader in family.readers.items()}


def nli(label: str, id: str = "1", **more: str) -> dict[str, str]:
    return {"pairID": id, "sentence1": "It rains.", "sentence2": "It is wet.", "gold_label": label, **more}


def squad(context: str = "Ada wrote it in 1843.", **question: Any) -> dict[str, Any]:
    full = {"id": "q1", "question": "When?", "answers": [{"text": "1843", "answer_start": 16}], **question}
    return {"data": [{"paragraphs": [{"context": context, "qas": [full]}]}]}


def conllu(*lines: str) -> str:
    filled = (line if line.startswith("#") or not line else "\t".join([*line.split(), *"_" * 6]) for line in lines)
    return "\n".join(filled) + "\n"
