"""How a model sees the known solutions, without writing anything: what tells models apart that write no right program.

Of each problem's solution the tokens that are foreseen from the right ones before them, and the place that it takes by
its likelihood among ten, beside the solutions of nine other problems: 1 in 10 is first by chance.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.base import Family, Prediction
from stilts_ds.families.generate.record import Exercise
from stilts_ds.families.generate.rows import solutions
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import read_json

CANDIDATES = 10  # the known solution and nine others
SUFFIX = ".likelihood.json"


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of a problem's solution: tokens (with its end) and how many of them are foreseen; its place by likelihood among
    `candidates`, 0 of 0 where the split has too few other solutions."""

    right: int
    tokens: int
    rank: int
    candidates: int


def likelihood_path(predictions: Path) -> Path:
    """`test-python.likelihood.json` beside `test-python.jsonl`."""
    return predictions.with_suffix(SUFFIX)


def kept_files(split: str, language: str) -> tuple[str, ...]:
    return (f"{split}-{language}{SUFFIX}",)


def measure(family: Family, asked: Prediction) -> dict[str, Any] | None:
    """A `Likelihood` by problem, as JSON has it, for those whose solution is known; None on ranks other than 0. A
    collective."""
    known = [record for record in asked.split.records() if record.solution]
    if not known:
        return {} if asked.model.first else None
    rows = _rows(asked, known, "known solutions")
    foreseen = asked.model.outputs(family, asked.head, rows, asked.setting)
    golds = solutions(rows) if asked.model.first else []
    groups = [_with_others(record, known) for record in known]
    ranked = [group for group in groups if len(group) == CANDIDATES]
    flat = [candidate for group in ranked for candidate in group]
    losses = []
    if flat:
        losses = asked.model.losses(family, asked.head, _rows(asked, flat, "solutions of others"), asked.setting)
    if not asked.model.first:
        return None
    ranks = {group[0].id: _rank(losses[i * CANDIDATES : (i + 1) * CANDIDATES]) for i, group in enumerate(ranked)}
    measured = {}
    for record, output, gold in zip(known, foreseen, golds):
        rank = ranks.get(record.id, 0)
        right = int((output == gold).sum())
        measured[record.id] = asdict(Likelihood(right, len(gold), rank, CANDIDATES if rank else 0))
    return measured


def _rows(asked: Prediction, exercises: Sequence[Exercise], name: str) -> Rows:
    """Prompts with solutions, as they are trained on."""
    content = [[exercise.id, exercise.prompt, exercise.solution] for exercise in exercises]
    setting = TrainingPart(max_seq_length=asked.setting.max_seq_length)
    return asked.split.rows_of(exercises, content, setting, name)


def _with_others(record: Exercise, known: Sequence[Exercise]) -> list[Exercise]:
    """The exercise, then the same prompt with the solutions of nine others, which depend on their names alone."""
    others: dict[str, str] = {}
    # Equal solutions go by the first of their names, whatever the order of the file.
    for exercise in sorted(known, key=lambda exercise: exercise.id):
        if exercise.solution != record.solution:
            others.setdefault(exercise.solution, exercise.id)

    def draw(solution: str) -> bytes:
        return hashlib.sha256(f"{record.id}\n{others[solution]}".encode()).digest()

    chosen = sorted(others, key=draw)[: CANDIDATES - 1]
    return [record, *(dataclasses.replace(record, solution=solution) for solution in chosen)]


def _rank(losses: Sequence[np.ndarray]) -> int:
    """The place of the first candidate by its loss a token, which does not favour the short; behind equal ones."""
    means = [float(np.mean(of_tokens, dtype=np.float64)) for of_tokens in losses]
    return sum(mean <= means[0] for mean in means)


def read_likelihoods(predictions: Path) -> dict[str, Likelihood]:
    """What was measured beside a file of programs; {} for programs from elsewhere. Raises UserError naming the file."""
    path = likelihood_path(predictions)
    if not path.exists():
        return {}
    content = read_json(path)
    try:
        return {str(name): Likelihood(**values) for name, values in content.items()}
    except (AttributeError, TypeError):
        raise UserError(f"{path}: is not what predicting writes; remove it, or predict again") from None
