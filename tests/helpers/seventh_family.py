"""A family of a test's own, to show that a family is added by being registered: one text and its label.

The folder of a real family has a file for each part; here the torch part alone stands apart (seventh_head.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.families.base import Family, HeadVerbs, ItemTargets, Masking, reads_targets
from stilts_ds.families.metrics import ACCURACY
from stilts_ds.families.pair import predictions as pair_predictions
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.layout import lay_out_singles
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter
from stilts_ds.sources.files import check_label, read_lines
from stilts_ds.sources.source import Part
from stilts_ds.tasks.spec import Local, Task


@dataclass(frozen=True, slots=True)
class Labelled:
    """One text and its label."""

    id: str
    text: str
    label: str | None


def read_label_tsv(part: Part) -> Iterator[Labelled]:
    """`label TAB text`."""
    for number, line in read_lines(part.path):
        label, _, text = line.partition("\t")
        yield Labelled(str(number), text, check_label(label, part.task.labels, f"{part.path}:{number}"))


def encode(
    records: Iterable[Labelled],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    out = RowsWriter(folder, "label")
    for first, chunk in chunks(records):
        texts = tokenizer.slices([record.text for record in chunk])
        room = setting.max_seq_length - tokenizer.template.single_cost
        laid = lay_out_singles(tokenizer.template, texts.up_to(room))
        label = np.array([labels.index(record.label) for record in chunk if record.label is not None], np.int32)
        out.append(laid.ids, laid.lengths, laid.lengths, np.arange(first, first + len(chunk)), label=label)
    return out.rows()


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    assert rows.label is not None
    return ItemTargets(np.asarray(starts), rows.label[item : item + 1])


def decode(
    records: Sequence[Any], rows: Rows, outputs: Sequence[np.ndarray], labels: Sequence[str], part: EvaluationPart
) -> list[str]:
    return [labels[int(np.argmax(logits))] for logits in outputs]


SENTENCE = Family(
    name="sentence",
    group="classification",
    head=HeadVerbs(
        module="seventh_head",
        targets=targets,
        reads=reads_targets(targets),
        output=lambda logits: logits[0],
        decode=decode,
        parameters=lambda hidden, labels, vocabulary, embedding: hidden * labels + labels,
    ),
    readers={"label_tsv": read_label_tsv},
    converters={},
    is_labelled=lambda record: record.label is not None,
    gold=lambda record: record.label,
    fields=lambda record, most: [("text", record.text), ("label", record.label or "none")],
    encode=encode,
    files=pair_predictions.files,
    metrics=lambda task: {"accuracy": ACCURACY},
)

TASK = Task(
    name="mood",
    family="sentence",
    role="target",
    languages=("en", "de"),
    metrics=("accuracy",),
    main_score="accuracy",
    labels=("bad", "good"),
    local={split: (Local("label_tsv", f"mood/{split}-{{language}}.tsv"),) for split in ("train", "dev", "test")},
    training={"train_batch_size": 8, "num_train_epochs": 1},
)

WORDS = {"bad": ("grim", "poor", "awful"), "good": ("fine", "great", "lovely")}


def write_files(folder: Path, count: int = 48) -> None:
    """The task's files in XTREME's folder: a word decides the label."""
    for split in ("train", "dev", "test"):
        for language in TASK.languages:
            lines = []
            for number in range(count):
                label = TASK.labels[number % 2]
                word = WORDS[label][number % 3]
                lines.append(f"{label}\tthe {word} thing number {number} in {language}\n")
            path = folder / "mood" / f"{split}-{language}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
