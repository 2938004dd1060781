"""Prediction and label files -> counts per example, from which a score can be computed again on any resample.

A score is `100 * sum(numerators) / sum(denominators)` over a file's examples (see stilts_ds.report.stats). An example
is what is judged at once: a pair, a question, a sentence with its tags, a sentence to align.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.evaluate import formats, metrics
from stilts_ds.report.stats import Floats
from stilts_ds.tasks.spec import Task


@dataclass(frozen=True)
class Counts:
    """One prediction file's examples by name: numerators and denominators [N]; their ratio of sums is the score."""

    names: tuple[str, ...]
    numerators: Floats
    denominators: Floats

    @property
    def score(self) -> float:
        below = self.denominators.sum()
        return float(100 * self.numerators.sum() / below) if below else 0.0


def count_file(predictions: Path, labels: Path, task: Task, language: str) -> Counts:
    """The examples of one prediction file. Raises UserError with file and line for bad input."""
    kind = formats.kind_of(task.family, task.metrics)
    gold = formats.read_labels(labels, kind, task.labels if kind == "label" else ())
    predicted = formats.read_predictions(predictions, kind, task.labels)
    formats.check_aligned(predictions, kind, predicted, gold)
    if kind == "answers":
        return _answers(gold, predicted, _normalise(task, language))
    if kind == "pairs":
        return _pairs(gold, predicted)
    if kind == "tags":
        count = _chunk_counts if "f1" in task.metrics else _word_counts
        return _numbered([count(g, p) for g, p in zip(gold, predicted)])
    return _numbered([(float(g == p), 1.0) for g, p in zip(gold, predicted)])


def _numbered(rows: Sequence[tuple[float, float]]) -> Counts:
    return _named([str(number) for number in range(len(rows))], rows)


def _named(names: Sequence[str], rows: Sequence[tuple[float, float]]) -> Counts:
    table = np.asarray(rows, dtype=np.float64).reshape(-1, 2)
    return Counts(tuple(names), table[:, 0], table[:, 1])


def _chunk_counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[float, float]:
    """F1 = 2 * correct / (predicted + gold), over the chunks of one sentence."""
    wanted, found = metrics.chunks(gold), metrics.chunks(predicted)
    return 2.0 * len(wanted & found), float(len(wanted) + len(found))


def _word_counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[float, float]:
    return float(sum(g == p for g, p in zip(gold, predicted))), float(len(gold))


def _normalise(task: Task, language: str) -> metrics.Normalise:
    if any(name.startswith("mlqa_") for name in task.metrics):
        return lambda text: metrics.normalise_mlqa(text, language)
    return metrics.normalise_english


def _answers(gold: Sequence[Any], predicted: Mapping[str, str], normalise: metrics.Normalise) -> Counts:
    no_answer = any(question.impossible for question in gold)
    rows = []
    for question in gold:
        texts = [answer.text for answer in question.answers]
        exact, f1 = metrics.answer_scores(texts, predicted[question.id], normalise, no_answer)
        rows.append(((exact + f1) / 2, 1.0))
    return _named([question.id for question in gold], rows)


def _pairs(gold: Sequence[tuple[str, str]], predicted: Sequence[tuple[str, str]]) -> Counts:
    """Mined pairs by the source sentence that they stand on; sentences in no pair count for nothing in F1."""
    right = Counter(source for source, _ in set(gold) & set(predicted))
    listed = Counter(source for source, _ in [*gold, *predicted])
    names = sorted(listed)
    return _named(names, [(2.0 * right[name], float(listed[name])) for name in names])


def drawing_units(counts: Mapping[str, Sequence[Counts]], task: Task) -> dict[str, str]:
    """The drawing unit of each language: languages with equal units are drawn together.

    Translations of one test set (XNLI, PAWS-X, XQuAD, MLQA) share their items: the same line in files of equal length,
    or the same question id. Drawn apart, their languages would seem more independent than they are.
    """
    if task.family in ("pair", "choice"):
        sizes = {len(one.names) for files in counts.values() for one in files}
        return dict.fromkeys(counts, "") if len(sizes) == 1 else {code: code for code in counts}
    if task.family == "span":
        return _joined_by_names({code: set(files[0].names) for code, files in counts.items()})
    return {code: code for code in counts}


def _joined_by_names(names: Mapping[str, set[str]]) -> dict[str, str]:
    """Languages that share a question, directly or through others, get the first one's code."""
    unit: dict[str, str] = {}
    for code, own in names.items():
        met = {unit[other] for other in unit if own & names[other]}
        unit[code] = min(met) if met else code
        unit = {other: unit[code] if first in met else first for other, first in unit.items()}
    return unit


def table_of(columns: Sequence[Counts]) -> tuple[Floats, Floats]:
    """Columns over the same or different items as two arrays [N, K], zero where a column lacks an item."""
    place = {name: row for row, name in enumerate(dict.fromkeys(n for one in columns for n in one.names))}
    above, below = np.zeros((len(place), len(columns))), np.zeros((len(place), len(columns)))
    for k, one in enumerate(columns):
        rows = [place[name] for name in one.names]
        above[rows, k], below[rows, k] = one.numerators, one.denominators
    return above, below
