"""A bitext of twelve sentences whose vectors are known: the hours of a clock, in two languages that lie apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.families.bitext.record import Bitext, Sentence
from stilts_ds.tasks.spec import Task

# Twelve meanings, the hours of a clock; the two languages lie apart, along one axis each.
HOURS = 12
TURNS = torch.arange(HOURS, dtype=torch.float64) * (2 * math.pi / HOURS)
MEANINGS = torch.stack([TURNS.cos(), TURNS.sin()], 1).float()
OFFSETS = {"de": torch.tensor([5.0, 0.0]), "en": torch.tensor([0.0, 5.0])}


@dataclass(frozen=True)
class TwelveSentences:
    """A split of twelve sentences and their translations (families.asked.EvaluationSplit)."""

    task: Task
    name: str = "test"
    language: str = "de"

    def records(self) -> list[Bitext]:
        sides = [[Sentence(f"{side}-{i}", f"{side} {i}") for i in range(HOURS)] for side in ("de", "en")]
        return [Bitext("clock", *sides, frozenset((f"de-{i}", f"en-{i}") for i in range(HOURS)))]

    def rows_of(self, name: str, setting: TrainingPart, texts: Any) -> Any:
        return texts()[0]


@dataclass
class OffsetVectors:
    """A model whose vectors are meaning and language, added (families.asked.Model)."""

    first: bool = True
    comm: Any = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def stop_if_requested(self) -> None:
        pass

    def vectors(self, rows: Any, evaluation: EvaluationPart) -> torch.Tensor:
        return torch.stack([OFFSETS[s.id[:2]] + MEANINGS[int(s.id[3:])] for s in rows])
