"""What a family may ask of a model and of a split when it predicts. `family` is a `Family` of base.py, which imports
these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.families.decoding import Decoding
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.tasks.spec import Task


class Model(Protocol):
    """What a family may ask of a model when it predicts. `broadcast`, `outputs`, `once` and `vectors`
    are collectives."""

    @property
    def comm(self) -> Any:
        """What the ranks talk over: a process group that moves CPU tensors, or None for one rank alone."""

    @property
    def device(self) -> Any:
        """Where this rank computes, a torch.device."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, plain values and arrays of numbers, on every rank. A collective."""

    def stop_if_requested(self) -> None:
        """Raise on every rank if any of them was asked to stop. A collective."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""

    @property
    def sees(self) -> Sees:
        """Which tokens of its row a token sees."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model's rows."""

    def outputs(self, family: Any, head: str, rows: Rows, setting: TrainingPart) -> list[Any]:
        """Output of a head for each item of `rows`, in order; [] on other ranks."""

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gave when it was last asked for by this name; another name takes its place. A collective."""

    def vectors(self, rows: Rows, evaluation: EvaluationPart) -> Any:
        """Sentence vectors of this rank's share of the rows, a float32 tensor [n, H] of one row a sentence; the shares
        follow each other in rank order. With `retrieval_layer: sweep` those of every layer, [n, L + 1, H]."""


@dataclass(frozen=True)
class Passes:
    """What a split asks of a model for each item of some rows: what its head says ("outputs"), the loss of each target
    ("losses", float32 [n]) or the token ids of each sample that it writes, without their ends ("programs")."""

    rows: Rows
    made: Literal["outputs", "losses", "programs"]
    decoding: Decoding | None = None  # of programs


class Work(NamedTuple):
    """How a split is predicted: `passes`, of which the ranks deal all splits' together, and on rank 0 `conclude`, which
    makes predictions of what each of them gave, by item in their order."""

    passes: Sequence[Passes]
    conclude: Callable[[Sequence[Sequence[Any]]], Any]


class EvaluationSplit(Protocol):
    """What a family may ask of a split when it predicts (stilts_ds.data.split.Split)."""

    @property
    def task(self) -> Task: ...

    @property
    def name(self) -> str: ...

    @property
    def language(self) -> str: ...

    def records(self) -> Sequence[Any]:
        """On rank 0; the other ranks read no source."""

    def rows(self, setting: TrainingPart) -> Rows: ...

    def rows_of(self, name: str, setting: TrainingPart, texts: Callable[[], tuple[Sequence[Any], Any]]) -> Rows: ...
