"""Queries with noise: LAReQA's questions, Mewsli-X's mentions with their sentences. The candidates stay."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from stilts_ds.families.base import Writer
from stilts_ds.families.ranking.mentions import mention_of
from stilts_ds.families.ranking.record import Query
from stilts_ds.noise.noiser import TextNoise
from stilts_ds.run_dir import write_atomically
from stilts_ds.sources.files import read_json
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Task


def noisy(records: Sequence[Query], noise: TextNoise, task: Task) -> list[Query]:
    """What is searched for gets noise, what is searched stays what everything is compared with."""
    return [dataclasses.replace(record, text=_noisy_text(record, noise)) for record in records]


def _noisy_text(record: Query, noise: TextNoise) -> str:
    mention = mention_of(record.text)
    if mention is None:
        return noise.text(record.text, record.id, "query").text
    # A mention is written twice, in front of its sentence and inside it: it is misspelled once.
    sentence = noise.text(record.text.removeprefix(f"{mention}:"), record.id, "query").text
    return f"{mention_of(sentence)}:{sentence}"


def write_xquad_r(split_file: Part, records: Sequence[Query]) -> None:
    """The clean file with other questions: paragraphs, sentence breaks and answers are in no query."""
    [clean] = [path for language, path in split_file.pool if language == split_file.language]
    content = read_json(clean)
    paragraphs = [paragraph for article in content["data"] for paragraph in article["paragraphs"]]
    rows = [row for paragraph in paragraphs for row in paragraph["qas"]]
    for row, record in zip(rows, records, strict=True):
        row["question"] = record.text
    write_atomically(split_file.path, json.dumps(content, ensure_ascii=False) + "\n")


WRITERS: dict[str, Writer] = {"xquad_r": write_xquad_r}
