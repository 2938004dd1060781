"""A rank's batches, made one step ahead in the background, so that training does not wait for them."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from stilts_ds.batches.collate import Collator, TaskRows
from stilts_ds.batches.mixture import Mixture, deal
from stilts_ds.rows.batch import Batch

Item = tuple[str, int]  # task, item


@dataclass(frozen=True)
class StepData:
    """What one rank computes in a step: the (task, item) pairs of the global batch, and its own micro-batches with the
    number of examples in each (0: a row of special tokens stands in)."""

    items: list[Item]
    batches: list[tuple[Batch, int]]


class Feed:
    """`feed(step)` gives a step's data. They depend on seed, step, rank and number of ranks, never on what came before,
    so the thread that works ahead cannot change them."""

    def __init__(
        self, mixture: Mixture, collate: Collator, micro_batches: int, rank: int, world_size: int, packed: bool
    ) -> None:
        self.mixture, self.collate, self.micro_batches = mixture, collate, micro_batches
        self.rank, self.world_size, self.packed = rank, world_size, packed
        # What an item costs: packed rows their tokens, padded ones the longest of the item's rows each.
        if packed:
            self.lengths = {name: task.rows.item_tokens for name, task in collate.tasks.items()}
        else:
            self.lengths = {name: task.rows.item_lengths for name, task in collate.tasks.items()}
        for task in collate.tasks.values():
            task.rows.expect_random_reads()
        # A thread, not a process: numpy and the tokenised rows need no copy, and tensors no second trip.
        self.worker = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self.ahead: tuple[int, Future[StepData]] | None = None

    def __call__(self, step: int) -> StepData:
        """The data of a 0-based step; the next one's are begun."""
        if self.ahead is not None and self.ahead[0] == step:
            batches = self.ahead[1].result()
        else:
            batches = self.worker.submit(self.make, step).result()
        self.ahead = None
        if step + 1 < self.mixture.total_steps:
            self.ahead = step + 1, self.worker.submit(self.make, step + 1)
        return batches

    def make(self, step: int) -> StepData:
        items = self.mixture.step(step)
        weights = loss_weights(items, self.collate.tasks, self.collate.mlm_probability)
        batches = []
        micro_batches = self._deal(items, self.rank)[self.rank]
        for position in chain.from_iterable(micro_batches):
            name, item = items[position]
            self.collate.tasks[name].rows.will_read([item])
        for positions in micro_batches:
            # An item's place in the global batch goes with it: what is masked and dropped depends on it.
            placed = [(position, *items[position]) for position in positions]
            batches.append((self.collate(placed, step, weights), len(positions)))
        return StepData(items, batches)

    def largest(self, step: int) -> int:
        """Tokens that the encoder computes in the largest micro-batch of any rank."""
        items = self.mixture.step(step)
        costs = self._costs(items)
        micro_batches = [batch for rank in self._deal(items) for batch in rank if batch]
        costs_of = [[costs[position] for position in batch] for batch in micro_batches]
        if self.packed:
            return max(map(sum, costs_of))
        # Padded rows all cost as much as the longest of their batch.
        return max(len(batch) * max(batch) for batch in costs_of)

    def _costs(self, items: list[Item]) -> list[int]:
        return [int(self.lengths[name][item]) for name, item in items]

    def _deal(self, items: list[Item], only: int | None = None) -> list[list[list[int]]]:
        """The step's places by rank and micro-batch; a pool of trained retrieval stays together. See `deal`."""
        pooled = any(self.collate.tasks[name].verbs.pooled for name, _ in items)
        pool = self.collate.pool_size if pooled else 1
        padded = not self.packed
        return deal(self._costs(items), self.world_size, self.micro_batches, padded, pool, only)

    def close(self) -> None:
        self.worker.shutdown(wait=True, cancel_futures=True)


def loss_weights(items: list[Item], tasks: Mapping[str, TaskRows], mlm_probability: float) -> dict[str, float]:
    """Factor of each loss term: a task's loss is its mean over the global batch, weighted by its share of items."""
    weights = {}
    for name in sorted({name for name, _ in items}):
        task, items_of_task = tasks[name], [item for task_name, item in items if task_name == name]
        targets = sum(task.target_count(item, mlm_probability) for item in items_of_task)
        weights[name] = len(items_of_task) / len(items) / max(targets, 1)
    return weights
