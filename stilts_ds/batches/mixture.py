"""Which examples make up a step, and which rank takes which: pure functions of (seed, step).

Nothing here depends on the number of ranks, on ZeRO or on a restart, so 1, 2 and 4 ranks draw the same loss curve and
a resumed run needs a step number, not a replay.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from stilts_ds.config import SamplingPart, TrainingPart


class Mixture:
    """A stream of global batches over several tasks.

    `sizes` maps a task to its number of items. The task of a step (or of each example of it) is drawn with
    p ~ min(n, cap)^(1/T). Each task's items come in shuffled epochs of its own.
    """

    def __init__(self, sizes: Mapping[str, int], setting: TrainingPart, sampling: SamplingPart, seed: int) -> None:
        self.tasks = sorted(sizes)
        self.sizes = [sizes[task] for task in self.tasks]
        self.batch_size = setting.train_batch_size
        self.unit = sampling.unit
        self.seed = seed
        self.total_steps = total_steps(sum(self.sizes), setting)
        weights = np.array([min(n, sampling.cap or n) ** (1 / sampling.temperature) for n in self.sizes])
        draws = self.total_steps if self.unit == "step" else self.total_steps * self.batch_size
        chosen = np.random.default_rng([seed, 0]).choice(len(self.tasks), size=draws, p=weights / weights.sum())
        self.drawn = chosen.astype(np.int16)
        self.ordinal = _ordinals(self.drawn, len(self.tasks))

    def step(self, step: int) -> list[tuple[str, int]]:
        """The (task, item) pairs of step `step` (0-based), in a fixed order."""
        if self.unit == "step":
            index = int(self.drawn[step])
            first = int(self.ordinal[step]) * self.batch_size
            return [(self.tasks[index], self._item(index, first + i)) for i in range(self.batch_size)]
        draws = range(step * self.batch_size, (step + 1) * self.batch_size)
        return [(self.tasks[self.drawn[d]], self._item(int(self.drawn[d]), int(self.ordinal[d]))) for d in draws]

    def tokens(self, item_tokens: Mapping[str, np.ndarray]) -> int:
        """Tokens of all steps together, where `item_tokens[task]` [I] are each item's."""
        scale = self.batch_size if self.unit == "step" else 1
        total = 0
        for index, name in enumerate(self.tasks):
            epochs, rest = divmod(int((self.drawn == index).sum()) * scale, self.sizes[index])
            last = _permutation(self.sizes[index], self.seed, index, epochs)[:rest]
            total += epochs * int(item_tokens[name].sum()) + int(item_tokens[name][last].sum())
        return total

    def _item(self, task: int, position: int) -> int:
        epoch, offset = divmod(position, self.sizes[task])
        return int(_permutation(self.sizes[task], self.seed, task, epoch)[offset])


def total_steps(items: int, setting: TrainingPart) -> int:
    """Optimiser steps of a phase: `max_steps`, or `num_train_epochs` over all items."""
    if setting.max_steps > 0:
        return setting.max_steps
    return max(1, math.ceil(items * setting.num_train_epochs / setting.train_batch_size))


def _ordinals(drawn: np.ndarray, kinds: int) -> np.ndarray:
    """For each draw, how often its task was drawn before."""
    ordinal = np.zeros(len(drawn), np.int64)
    for kind in range(kinds):
        mine = drawn == kind
        ordinal[mine] = np.arange(mine.sum())
    return ordinal


@lru_cache(maxsize=32)
def _permutation(size: int, seed: int, task: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 1, task, epoch]).permutation(size)


def micro_batch_count(setting: TrainingPart, world_size: int) -> int:
    """Micro-batches of a step on each rank (gradient accumulation steps)."""
    share = math.ceil(setting.train_batch_size / world_size)
    return math.ceil(share / setting.per_device_train_batch_size)


def deal(lengths: Sequence[int], world_size: int, micro_batches: int) -> list[list[list[int]]]:
    """Deal a step's items over ranks and micro-batches so that the slowest rank has little more than its share.

    Longest first to the rank with the fewest tokens so far and room left (LPT); inside a rank, items of like length
    share a micro-batch. Returns [rank][micro-batch] -> positions in `lengths`; a micro-batch may be empty.
    """
    room = math.ceil(math.ceil(len(lengths) / world_size) / micro_batches) * micro_batches
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    queue = [(0, rank) for rank in range(world_size)]
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, rank = heapq.heappop(queue)
        ranks[rank].append(position)
        if len(ranks[rank]) < room:
            heapq.heappush(queue, (tokens + int(lengths[position]), rank))
    return [[list(part) for part in _split(items, micro_batches)] for items in ranks]


def _split(items: Sequence[int], parts: int) -> list[Sequence[int]]:
    """Cut into `parts` runs whose sizes differ by at most one."""
    base, extra = divmod(len(items), parts)
    ends = np.cumsum([base + (i < extra) for i in range(parts)])
    return [items[end - base - (i < extra) : end] for i, end in enumerate(ends)]
