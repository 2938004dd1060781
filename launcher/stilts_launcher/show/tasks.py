"""What `stilts tasks` prints: a table of all tasks, one task's card, and examples of a split."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from stilts_ds.data.reader import find_origin, read_examples
from stilts_ds.errors import UserError, counted
from stilts_ds.families.base import Record
from stilts_ds.families.registry import family_of
from stilts_ds.run_dir import hash_file
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.file_hashes import SHA256
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.spec import Hub, Local, Task

HEADER = ("task", "family", "role", "train", "dev", "languages", "metric", "licence")
WIDTH = 100
MEANS = {"exact_match_f1": "mean of exact match and f1"}


def tasks_table() -> str:
    """All tasks, one a line; sizes are English examples of the full data sets."""
    return _columns([HEADER, *map(_row, TASKS.values())])


def tasks_json(tasks: Iterable[Task]) -> str:
    """What the tasks' literals say, as JSON by name."""
    return json.dumps({task.name: _described(task) for task in tasks}, indent=1)


def _described(task: Task) -> dict[str, Any]:
    own_train = task.name if "train" in task.local else ""
    trained_on = task.train_on or own_train
    return {
        "title": task.title,
        "family": task.family,
        "role": task.role,
        "languages": list(task.languages),
        "labels": list(task.labels),
        "metrics": list(task.metrics),
        "main_score": task.main_score,
        "sizes": dict(task.sizes),
        "trains_on": trained_on or None,
        "training": dict(task.training),
        "licence": task.licence or "-",
        "url": task.url,
        "note": task.note,
    }


def _row(task: Task) -> tuple[str, ...]:
    sizes = [_size(task, split) for split in ("train", "dev")]
    metric = _metric(task.main_score)
    return (task.name, task.family, task.role, *sizes, _languages(task.languages), metric, task.licence)


def _size(task: Task, split: str) -> str:
    return f"{task.sizes[split]:,}" if split in task.sizes else "-"


def _metric(name: str) -> str:
    return MEANS.get(name, name.replace("_", " "))


def _languages(codes: Sequence[str]) -> str:
    return " ".join(codes) if len(codes) <= 4 else counted(len(codes), "language")


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def task_card(task: Task) -> str:
    """Everything that the task's literal says, with the paths that its files must have."""
    facts = {
        "task": f"{task.name}: {task.title} ({task.role}, {task.family})",
        "languages": " ".join(task.languages),
        "labels": " ".join(task.labels) or "-",
        "metrics": ", ".join(map(_metric, task.metrics)),
        "main score": _metric(task.main_score),
        "sizes": ", ".join(f"{split} {size:,}" for split, size in task.sizes.items()) or "-",
        # A zero-shot target trains on another task's data, or on none (retrieval).
        "trains on": task.train_on or (task.name if "train" in task.local else "nothing"),
        "training": ", ".join(f"{key}={value}" for key, value in task.training.items()) or "-",
        "files": "\n".join(_files(task.local.items())) or "-",
        "hub": "\n".join(_hub(task.hub.items())) or "-",
        "licence": task.licence or "-",
        "from": task.url,
        "note": "\n".join(textwrap.wrap(task.note, WIDTH)) or "-",
    }
    # Further lines of a value stand under its first one, behind the column of keys.
    indent = "\n" + " " * 11
    return "\n".join(f"{key:<10} " + value.replace("\n", indent) for key, value in facts.items())


def _files(splits: Iterable[tuple[str, Sequence[Local]]]) -> list[str]:
    lines = []
    for split, entries in splits:
        for entry in entries:
            # Benchmarks were shipped under several names; all are shown, in the order in which they are looked for.
            choice: Local | None = entry
            while choice is not None:
                companions = [path for path in (choice.pivot, choice.labels) if path]
                lines.append(f"{split}: {choice.path}{' with ' if companions else ''}{' and '.join(companions)}")
                choice = choice.otherwise
    return lines


def _hub(splits: Iterable[tuple[str, Sequence[Hub]]]) -> list[str]:
    return [
        f"{split}: {_data_set(entry)}{f' with {_data_set(entry.pool)}' if entry.pool else ''}"
        for split, entries in splits
        for entry in entries
    ]


def _data_set(entry: Hub) -> str:
    return f"{entry.repo} {entry.config} {entry.split} @ {entry.revision}"


def show_examples(task: Task, split: str, language: str, source: DataSource, n: int, model: str | None = None) -> str:
    """The first `n` examples of a split, readable; with a model, also as its tokenizer makes rows of them.

    Raises UserError for missing or faulty data, or `n` below 1.
    """
    if n < 1:
        raise UserError(f"cannot show {n} examples; ask for 1 or more")
    family = family_of(task)
    records = islice(read_examples(task, split, language, source), n)
    if model is None or family.head is None:  # retrieval reads plain sentences
        return "\n\n".join(show_record(task, record, n) for record in records)
    from stilts_ds.model_files import model_path
    from stilts_ds.rows.tokenizer import Tokenizer
    from stilts_launcher.show.rows import show_rows

    # Imports of transformers come after the plain case above, which needs seconds less without them.
    tokenizer = Tokenizer.load(model_path(model))
    return "\n\n".join(f"{show_record(task, record, n)}\n{show_rows(task, record, tokenizer)}" for record in records)


def show_record(task: Task, record: Record, most: int) -> str:
    """One record as a few lines: its id, then its fields; at most `most` of its own parts (the pairs of a bitext)."""
    fields = [f"  {key:<9} {value}" for key, value in family_of(task).fields(record, most)]
    return "\n".join([record.id, *fields])


# --- files -----------------------------------------------------------------------------------------------------------

FILES_HEADER = ("task", "split", "language", "file", "examples", "SHA-256", "published")


def show_files(tasks: Iterable[Task], source: DataSource, language: str | None = None) -> str:
    """Every local file of the tasks, with examples and SHA-256, beside what is published (docs/data_files.md).

    `language` limits them to one. Raises UserError where no file is there.
    """
    rows: list[tuple[str, ...]] = []
    for task in tasks:
        if not family_of(task).labelled:  # running text is the user's own
            continue
        for split in task.local:
            for code in task.languages if language is None else [language]:
                rows += _file_rows(task, split, code, source)
    if not rows:
        raise UserError("none of the files is there; name their folders with --intermediate and --xtreme")
    return _columns([FILES_HEADER, *rows])


def _file_rows(task: Task, split: str, language: str, source: DataSource) -> list[tuple[str, ...]]:
    """A row a file of one split; [] where its files are not there. Its examples stand in the first row."""
    try:
        origin = find_origin(task, split, language, source)
    except UserError:  # missing: not what is asked for here; `stilts fetch` names what a recipe lacks
        return []
    count = count_examples(task, list(origin.read()))
    rows: list[tuple[str, ...]] = []
    for path in origin.files:
        examples = _examples(task, split, language, count) if not rows else ""
        relative = path.relative_to(source.folder_of(task)).as_posix()
        digest = hash_file(path)
        rows.append((task.name, split, language, relative, examples, digest, _published(relative, digest)))
    return rows


def count_examples(task: Task, records: Sequence[Record]) -> int | None:
    """Examples in a test set's sense; None for mined pairs without their gold."""
    family = family_of(task)
    gold = family.label_values(family, task, records)
    if gold is not None:
        return len(gold)
    files = family.files(task)
    return files.expect(records).count if files.one_each else None


def _examples(task: Task, split: str, language: str, count: int | None) -> str:
    if split == "test":
        published = task.test_sizes.get(language)
    else:
        # Sizes of train and dev are published for English alone; test sets for each language.
        published = task.sizes.get(split) if language == task.pivot else None
    shown = "-" if count is None else f"{count:,}"
    if published is None or published == count:
        return shown
    return f"{shown} of {published:,}"


def _published(relative: str, digest: str) -> str:
    if relative not in SHA256:
        return "-"
    return "the same" if SHA256[relative] == digest else "DIFFERENT"
