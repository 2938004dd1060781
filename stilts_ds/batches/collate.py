"""Items of any tasks to one batch for the encoder, with the targets of each output head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from stilts_ds.families.base import Family, HeadVerbs, ItemTargets, Masking
from stilts_ds.model.masks import row_keys
from stilts_ds.model_kinds import Sees
from stilts_ds.rows.batch import Batch, Targets, pack_rows, window_cells
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer


@dataclass(frozen=True)
class TaskRows:
    """One training task's rows and how its loss is formed. `index` is the task's place in the losses by task, `sees`
    which way the model's tokens see."""

    name: str
    index: int
    family: Family
    head: str
    rows: Rows
    sees: Sees = "both"

    @cached_property
    def verbs(self) -> HeadVerbs:
        return self.family.verbs(self.sees)

    @property
    def groups(self) -> np.ndarray | None:
        """The group of each item that the mixture draws by: the language of running text; None without groups."""
        return self.rows.label if self.family.multilingual else None

    def target_count(self, item: int, mlm_probability: float) -> int:
        """Loss terms of an item: what a step's loss is divided by. Known to every rank without communication."""
        return self.verbs.target_count(self.rows, item, mlm_probability)


class Collator:
    """Builds training batches. `weights[task]` is the factor of each of the task's loss terms in this step.

    `pool_size` consecutive places of the global batch share their candidates where a task is trained retrieval.
    """

    def __init__(
        self, tasks: Mapping[str, TaskRows], tokenizer: Tokenizer, mlm_probability: float, seed: int, pool_size: int = 1
    ) -> None:
        self.tasks, self.tokenizer, self.mlm_probability, self.seed = tasks, tokenizer, mlm_probability, seed
        self.pool_size = pool_size

    def __call__(self, items: Sequence[tuple[int, str, int]], step: int, weights: Mapping[str, float]) -> Batch:
        """`items` are (position in the global batch, task, item); the position seeds what is masked in an item, and its
        dropout."""
        packed = PackedItems([(self.tasks[name].rows, item) for _, name, item in items], self.tokenizer)
        drafts: dict[str, Draft] = {}
        for number, (position, name, item) in enumerate(items):
            task = self.tasks[name]
            masking = Masking(self.tokenizer, self.mlm_probability, self._generator(step, position))
            targets = task.verbs.targets(task.rows, item, packed.starts(number), packed.ids, masking)
            # By head, not by task: tasks that share a head are computed in one call.
            draft = drafts.setdefault(task.head, Draft(task.verbs))
            draft.add(targets, weights[name], task.index, position // self.pool_size)
        packed.batch.heads = {head: draft.targets() for head, draft in drafts.items()}
        positions = [position for position, _, _ in items]
        # By position in the global batch: dropout stays the same in every split over ranks and micro-batches.
        packed.batch.mask_keys = row_keys(self.seed, step, packed.numbered(positions))
        return packed.batch

    def _generator(self, step: int, position: int) -> Callable[[int], np.random.Generator]:
        """The seed, the step and the place in the global batch decide what is masked, whatever the ranks."""
        return lambda item: np.random.default_rng([self.seed, 2, step, position])


class PackedItems:
    """The rows of items in one batch, and where they stand in it."""

    def __init__(self, items: Sequence[tuple[Rows, int]], tokenizer: Tokenizer) -> None:
        # An item brings all of its rows: the choices of a question must meet in one batch.
        rows_of = [
            (rows, row) for rows, item in items for row in range(int(rows.items[item]), int(rows.items[item + 1]))
        ]
        self.batch = pack_rows(rows_of, tokenizer)
        counts = [int(rows.items[item + 1] - rows.items[item]) for rows, item in items]
        self._bounds = np.cumsum([0, *counts]).tolist()
        self._starts = self.batch.starts

    def starts(self, number: int) -> list[int]:
        """Place in the batch of the first token of each row of the item with that number."""
        return self._starts[self._bounds[number] : self._bounds[number + 1]]

    def numbered(self, names: Sequence[int]) -> list[tuple[int, int]]:
        """(name of its item, place inside it) of each row, where items have the given names."""
        counts = np.diff(self._bounds).tolist()
        rows = [(name, row) for name, count in zip(names, counts) for row in range(count)]
        return rows or [(0, 0)]  # the row that stands in where there is none

    @property
    def ids(self) -> np.ndarray:
        """The batch's token ids [T]; what is written into them is in the batch."""
        return self.batch.input_ids.numpy()


class Draft:
    """A head's targets while a batch is being filled."""

    def __init__(self, verbs: HeadVerbs) -> None:
        self.by_window, self.pooled = verbs.by_window, verbs.pooled
        self.items: list[ItemTargets] = []
        self.weight: list[np.ndarray] = []
        self.task: list[np.ndarray] = []
        self.pool: list[np.ndarray] = []

    def add(self, targets: ItemTargets, weight: float, task: int, pool: int = 0) -> None:
        """Take in an item's targets; `weight` is the factor of each of its loss terms."""
        self.items.append(targets)
        # Its task's weight for every target: the loss is a mean over the task's targets in the global batch.
        self.weight.append(np.full(len(targets.gold), weight, np.float32))
        self.task.append(np.full(len(targets.gold), task))
        self.pool.append(np.full(len(targets.gold), pool))

    def targets(self) -> Targets:
        columns = [item.tokens for item in self.items], [item.gold for item in self.items], self.task
        tokens, gold, task = (torch.from_numpy(np.concatenate(column).astype(np.int64)) for column in columns)
        windows = [len(item.tokens) for item in self.items] if self.by_window else []
        weight = torch.from_numpy(np.concatenate(self.weight))
        # Only trained retrieval compares targets with each other.
        pool = torch.from_numpy(np.concatenate(self.pool)) if self.pooled else None
        cells, longest = window_cells(windows)
        return Targets(tokens, gold, weight, task, cells, pool, longest)
