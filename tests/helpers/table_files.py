"""One small table in every format that users bring, and a tasks file that names it."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

WORDS = {"bad": ("grim", "poor", "awful"), "good": ("fine", "great", "lovely")}
TASKS = """\
tasks:
  reviews:
    family: pair
    languages: [en, gn]
    files: {train: train.csv.gz, dev: dev.tsv, test: "test-{language}.jsonl"}
    columns: {text: sentence, label: stars}
    labels: [bad, good]
    training: {train_batch_size: 8, num_train_epochs: 2, learning_rate: 1.0e-3}
  rating:
    family: regression
    languages: [en, gn]
    files: {train: train.csv.gz, dev: dev.tsv, test: "test-{language}.jsonl"}
    columns: {text: sentence, score: rating}
    training: {train_batch_size: 8, num_train_epochs: 2, learning_rate: 1.0e-3}
  better:
    family: choice
    languages: [en, gn]
    files: {train: train.csv.gz, dev: dev.tsv, test: "test-{language}.jsonl"}
    columns: {prompt: sentence, choices: "first, second", answer: better}
    training: {train_batch_size: 8, num_train_epochs: 2, learning_rate: 1.0e-3}
"""


def reviews(split: str, count: int, language: str = "en") -> list[dict[str, Any]]:
    """Rows whose word decides label and number; no text stands in two splits."""
    rows = []
    for number in range(count):
        label = ("bad", "good")[number % 2]
        word = WORDS[label][number % 3]
        text = f'the {word} thing {split}-{number}, "in {language}"'
        row = {"sentence": text, "stars": label, "rating": 1.0 + 2 * (label == "good")}
        rows.append({**row, "first": "bad news", "second": "good news", "better": "AB"[number % 2]})
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]], **options: Any) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_tasks(folder: Path, count: int = 48) -> Path:
    """The files of the tasks in a folder; returns the tasks file."""
    write_csv(folder / "train.csv.gz", reviews("train", 2 * count))
    write_csv(folder / "dev.tsv", reviews("dev", count), delimiter="\t")
    for language in ("en", "gn"):
        write_jsonl(folder / f"test-{language}.jsonl", reviews("test", count, language))
    path = folder / "my_tasks.yaml"
    path.write_text(TASKS)
    return path
