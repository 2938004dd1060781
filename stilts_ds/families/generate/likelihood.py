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
from stilts_ds.families.asked import EvaluationSplit, Passes, Work
from stilts_ds.families.base import Prediction
from stilts_ds.families.generate.record import Exercise
from stilts_ds.families.generate.rows import solutions
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import read_json

CANDIDATES = 10  # the known solution and nine others
SUFFIX = ".likelihood.json"
KNOWN, RANKED = "known solutions", "solutions of others"  # names of rows


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


def measuring(asked: Prediction) -> Work:
    """How known solutions are seen: concludes with a `Likelihood` by problem, as JSON has it. A collective."""
    split, model = asked.split, asked.model
    known = _known(split) if model.first else []
    candidates = _candidates(known)
    has_known, has_candidates = model.broadcast([bool(known), bool(candidates)])
    if not has_known:
        return Work((), lambda made: {})
    rows = _rows(split, asked.setting, KNOWN, known)
    passes = [Passes(rows, "outputs")]
    if has_candidates:
        passes.append(Passes(_rows(split, asked.setting, RANKED, candidates), "losses"))

    def conclude(made: Sequence[Sequence[Any]]) -> dict[str, Any]:
        foreseen, losses = made[0], made[1] if has_candidates else ()
        ranks = {
            candidates[start].id: _rank(losses[start : start + CANDIDATES])
            for start in range(0, len(candidates), CANDIDATES)
        }
        measured = {}
        for record, output, gold in zip(known, foreseen, solutions(rows)):
            rank = ranks.get(record.id, 0)
            right = int((output == gold).sum())
            measured[record.id] = asdict(Likelihood(right, len(gold), rank, CANDIDATES if rank else 0))
        return measured

    return Work(passes, conclude)


def solution_rows(split: EvaluationSplit, setting: TrainingPart) -> tuple[Rows, ...]:
    """Rows of the solutions that are known, and of the candidates among which these are ranked; where there are none of
    them, none. On rank 0."""
    known = _known(split)
    sets = {KNOWN: known, RANKED: _candidates(known)}
    return tuple(_rows(split, setting, name, exercises) for name, exercises in sets.items() if exercises)


def _rows(split: EvaluationSplit, setting: TrainingPart, name: str, exercises: Sequence[Exercise]) -> Rows:
    """Prompts with solutions, as they are trained on; `exercises` are those of rank 0."""

    def texts() -> tuple[Sequence[Exercise], Any]:
        return exercises, [[exercise.id, exercise.prompt, exercise.solution] for exercise in exercises]

    return split.rows_of(name, TrainingPart(max_seq_length=setting.max_seq_length), texts)


def _known(split: EvaluationSplit) -> list[Exercise]:
    return [record for record in split.records() if record.solution]


def _candidates(known: Sequence[Exercise]) -> list[Exercise]:
    """CANDIDATES exercises for each that has nine others, itself first, one group after the other."""
    groups = [_with_others(record, known) for record in known]
    return [candidate for group in groups if len(group) == CANDIDATES for candidate in group]


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
