"""What `stilts tasks` prints: a table of all tasks, one task's card, and examples of a split."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import islice

from stilts_ds.errors import UserError
from stilts_ds.examples.read import read_bitext, read_examples
from stilts_ds.examples.records import Bitext, Choice, Pair, Record, Span, Tagged
from stilts_ds.examples.source import DataSource
from stilts_ds.tasks.registry import TASKS
from stilts_ds.tasks.spec import Hub, Local, Task

HEADER = ("task", "family", "role", "train", "dev", "languages", "metric", "licence")
WIDTH = 100


def tasks_table() -> str:
    """All tasks, one a line; sizes are English examples of the full data sets."""
    return _columns([HEADER, *map(_row, TASKS.values())])


def _row(task: Task) -> tuple[str, ...]:
    sizes = [f"{task.sizes[split]:,}" if split in task.sizes else "-" for split in ("train", "dev")]
    metric = ", ".join(_metric(name) for name in task.metrics)
    return (task.name, task.family, task.role, *sizes, _languages(task.languages), metric, task.licence)


def _metric(name: str) -> str:
    return name.removeprefix("mlqa_").replace("_", " ")


def _languages(codes: Sequence[str]) -> str:
    return " ".join(codes) if len(codes) <= 4 else f"{len(codes)} languages"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def task_card(task: Task) -> str:
    """Everything that the task's literal says, with the paths that its files must have."""
    facts = {
        "task": f"{task.name}: {task.title} ({task.role}, {task.family})",
        "languages": " ".join(task.languages),
        "labels": " ".join(task.labels) or "-",
        "metric": ", ".join(map(_metric, task.metrics)),
        "sizes": ", ".join(f"{split} {size:,}" for split, size in task.sizes.items()) or "-",
        "trains on": task.train_on or (task.name if "train" in task.local else "nothing"),
        "training": ", ".join(f"{key}={value}" for key, value in task.training.items()) or "-",
        "files": "\n".join(_files(task.local.items())) or "-",
        "hub": "\n".join(_hub(task.hub.items())) or "-",
        "licence": task.licence,
        "from": task.url,
        "note": "\n".join(textwrap.wrap(task.note, WIDTH)) or "-",
    }
    return "\n".join(f"{key:<10} {value}".replace("\n", "\n" + " " * 11) for key, value in facts.items())


def _files(splits: Iterable[tuple[str, Sequence[Local]]]) -> list[str]:
    lines = []
    for split, entries in splits:
        for entry in entries:
            choice: Local | None = entry
            while choice is not None:
                beside = [path for path in (choice.pivot, choice.labels) if path]
                lines.append(f"{split}: {choice.path}{' with ' if beside else ''}{' and '.join(beside)}")
                choice = choice.otherwise
    return lines


def _hub(splits: Iterable[tuple[str, Sequence[Hub]]]) -> list[str]:
    return [f"{split}: {one.repo} {one.config} {one.split} @ {one.revision}" for split, ones in splits for one in ones]


def show_examples(task: Task, split: str, language: str, source: DataSource, n: int, model: str | None = None) -> str:
    """The first `n` examples of a split, readable; with a model, also as its tokenizer makes rows of them.

    Raises UserError for missing or faulty data, or `n` below 1.
    """
    if n < 1:
        raise UserError(f"cannot show {n} examples; ask for 1 or more")
    if task.family == "bitext":
        return _show_bitext(task, split, language, source, n)
    records = islice(read_examples(task, split, language, source), n)
    if model is None:
        return "\n\n".join(map(show_record, records))
    from stilts_ds.batches.encode import Encoder
    from stilts_ds.model_files import model_path
    from stilts_launcher.show_rows import show_rows

    encoder = Encoder.load(model_path(model))
    return "\n\n".join(f"{show_record(record)}\n{show_rows(task, record, encoder)}" for record in records)


def _show_bitext(task: Task, split: str, language: str, source: DataSource, n: int) -> str:
    left, right, gold = read_bitext(task, split, language, source)
    total = "no gold pairs" if gold is None else f"{len(gold)} gold pairs"
    head = f"{len(left)} {language} sentences, {len(right)} {task.pivot} sentences, {total}"
    if gold is None:
        return "\n".join([head, *(f"  {one.id}  {one.text}" for one in (*left[:n], *right[:n]))])
    return "\n\n".join([head, *islice(_gold_pairs(left, right, gold), n)])


def _gold_pairs(left: Sequence[Bitext], right: Sequence[Bitext], gold: Iterable[tuple[str, str]]) -> Iterable[str]:
    texts, partner = {one.id: one.text for one in right}, dict(gold)
    for one in left:
        if one.id in partner:
            other = partner[one.id]
            yield f"{one.id} = {other}\n  {one.text}\n  {texts[other]}"


def show_record(record: Record) -> str:
    """One record as a few lines: its id, then its fields."""
    fields = [f"  {key:<9} {value}" for key, value in _fields(record)]
    return "\n".join([record.id, *fields])


def _fields(record: Record) -> list[tuple[str, str]]:
    if isinstance(record, Pair):
        return [("text a", record.text_a), ("text b", record.text_b), ("label", record.label or "none")]
    if isinstance(record, Choice):
        marks = ("*" if index == record.label else " " for index in range(len(record.choices)))
        return [("prompt", record.prompt), *((f"choice {mark}", text) for mark, text in zip(marks, record.choices))]
    if isinstance(record, Span):
        return [("question", record.question), ("context", record.context), ("answers", _answers(record))]
    if isinstance(record, Tagged):
        tagged = zip(record.words, record.tags) if record.tags is not None else ((word,) for word in record.words)
        return [("words", " ".join("/".join(pair) for pair in tagged))]
    return [("text", record.text)]


def _answers(record: Span) -> str:
    if not record.answers:
        return "none in this context" if record.impossible else "not labelled"
    return " | ".join(dict.fromkeys(f"{answer.text} (at {answer.start})" for answer in record.answers))
