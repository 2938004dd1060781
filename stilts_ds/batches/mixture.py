"""Which examples make up a step, and which rank takes which: pure functions of (seed, step).

Nothing here depends on the number of ranks, on ZeRO or on a restart, so 1, 2 and 4 ranks draw the same loss curve and
a resumed run needs a step number, not a replay.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np

from stilts_ds.config import SamplingPart, TrainingPart
from stilts_ds.tasks.intermediate import MLM


class Mixture:
    """A stream of global batches over several tasks.

    `sizes` maps a task to its number of items; `groups` maps a task to the group [items] of each of its items, here
    the language of running text. The task of a step (or of each example of it) is drawn by `task_shares`, an item's
    group with p ~ n^language_exponent, and the items of a group come in shuffled epochs of its own.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        setting: TrainingPart,
        sampling: SamplingPart,
        seed: int,
        groups: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self.tasks = sorted(sizes)
        self.batch_size = setting.train_batch_size
        self.unit = sampling.unit
        shares = task_shares(sizes, sampling)
        self.total_steps = total_steps(epoch_items(sizes, sampling), setting)
        draws = self.total_steps if self.unit == "step" else self.total_steps * self.batch_size
        # All draws at once, from a stream of their own: a step is looked up, never replayed.
        p = [shares[task] for task in self.tasks]
        self.drawn = np.random.default_rng([seed, 0]).choice(len(p), size=draws, p=p).astype(np.int16)
        # How often a task came before says which of its items a draw gets, wherever training is taken up.
        self.ordinal = _ordinals(self.drawn, len(self.tasks))
        examples = np.bincount(self.drawn, minlength=len(p)) * (self.batch_size if self.unit == "step" else 1)
        self.streams = [
            Stream(sizes[task], (groups or {}).get(task), sampling.language_exponent, int(examples[i]), (seed, i))
            for i, task in enumerate(self.tasks)
        ]

    def step(self, step: int) -> list[tuple[str, int]]:
        """The (task, item) pairs of step `step` (0-based), in a fixed order."""
        if self.unit == "step":
            index = int(self.drawn[step])
            first = int(self.ordinal[step]) * self.batch_size
            items = self.streams[index].items(np.arange(first, first + self.batch_size))
            return [(self.tasks[index], item) for item in items.tolist()]
        draws = slice(step * self.batch_size, (step + 1) * self.batch_size)
        drawn, numbers = self.drawn[draws], np.empty(self.batch_size, np.int64)
        # By task, and not example by example: a stream looks up many items in one call.
        for index in np.unique(drawn).tolist():
            of_task = drawn == index
            numbers[of_task] = self.streams[index].items(self.ordinal[draws][of_task])
        return [(self.tasks[index], item) for index, item in zip(drawn.tolist(), numbers.tolist())]

    def tokens(self, item_tokens: Mapping[str, np.ndarray]) -> int:
        """Tokens of all steps together, where `item_tokens[task]` [I] are each item's."""
        return sum(stream.total(item_tokens[name]) for name, stream in zip(self.tasks, self.streams))


class Stream:
    """The items of one task, `draws` of them, in the order in which they come: a function of the seed alone."""

    def __init__(
        self, size: int, group_of: np.ndarray | None, exponent: float, draws: int, seed: tuple[int, int]
    ) -> None:
        self.seed, self.task = seed
        self.draws = draws
        self.members: list[np.ndarray | range] = [range(size)]
        if group_of is not None:
            self.members = [np.flatnonzero(group_of == group).astype(np.int32) for group in np.unique(group_of)]
        self.group, self.nth = None, None
        if len(self.members) > 1:
            weights = np.array([float(len(m)) for m in self.members]) ** exponent
            chosen = np.random.default_rng([self.seed, 3, self.task]).choice(
                len(weights), size=draws, p=weights / weights.sum()
            )
            self.group, self.nth = chosen.astype(np.int16), _ordinals(chosen, len(weights))
        self._orders: dict[int, tuple[int, np.ndarray]] = {}  # group -> (epoch, its order)

    def items(self, positions: np.ndarray) -> np.ndarray:
        """The items at 0-based positions of the stream, in one go for each group and epoch among them."""
        if self.group is None or self.nth is None:
            return self._of_group(0, positions)
        group, nth = self.group[positions], self.nth[positions]
        numbers = np.empty(len(positions), np.int64)
        for number in np.unique(group).tolist():
            of_group = group == number
            numbers[of_group] = self._of_group(number, nth[of_group])
        return numbers

    def _of_group(self, group: int, nth: np.ndarray) -> np.ndarray:
        """The nth items of a group's shuffled epochs."""
        members = self.members[group]
        epoch, offset = np.divmod(nth, len(members))
        # A batch may reach over the end of an epoch, whose order is another one.
        for number in np.unique(epoch).tolist():
            of_epoch = epoch == number
            offset[of_epoch] = self._order(group, number, len(members))[offset[of_epoch]]
        return offset if isinstance(members, range) else members[offset]

    def total(self, cost: np.ndarray) -> int:
        """The sum of `cost` [items] over all draws."""
        draws = [self.draws] if self.group is None else np.bincount(self.group, minlength=len(self.members)).tolist()
        total = 0
        for group, members in enumerate(self.members):
            costs = cost[np.asarray(members)]
            # Whole epochs hold every item once; only the last one has to be looked at.
            epochs, begun = divmod(draws[group], len(members))
            total += epochs * int(costs.sum()) + int(costs[self._order(group, epochs, len(members))[:begun]].sum())
        return total

    def _order(self, group: int, epoch: int, size: int) -> np.ndarray:
        # Only the newest epoch is kept: steps come in order, and one at another place is computed again.
        if self._orders.get(group, (-1,))[0] != epoch:
            key = [self.seed, 1, self.task, epoch, *([group] if self.group is not None else [])]
            # Of 4-byte numbers, which it draws in the order in which it would those of 8.
            self._orders[group] = epoch, np.random.default_rng(key).permutation(np.arange(size, dtype=np.int32))
        return self._orders[group][1]


def task_shares(sizes: Mapping[str, int], sampling: SamplingPart) -> dict[str, float]:
    """The probability of each task (Phang et al. 2020 leave it open; jiant: proportional to size).

    Fixed weights are checked by the plan; a task alone has the share 1, whatever the weights say.
    """
    others = {task: n for task, n in sizes.items() if task != MLM.name}
    # A share beside other tasks; text alone has no one to share with.
    fixed = sampling.mlm_share if others and len(others) < len(sizes) else None
    weighted = sizes if fixed is None else others
    weights = {task: _weight(task, n, sampling) for task, n in weighted.items()}
    scale = (1 - (fixed or 0)) / sum(weights.values())
    shares = {task: weight * scale for task, weight in weights.items()}
    return shares if fixed is None else {**shares, MLM.name: fixed}


def _weight(task: str, size: int, sampling: SamplingPart) -> float:
    if sampling.weights == "size":
        return float(min(size, sampling.cap or size) ** (1 / sampling.temperature))
    return 1.0 if sampling.weights == "uniform" else sampling.weights.get(task, 1.0)


def epoch_items(sizes: Mapping[str, int], sampling: SamplingPart) -> float:
    """Examples that an epoch draws, text included, so that the labelled tasks together get as many as they have.

    Text has no epoch: beside labelled tasks it comes on top of them, as often as its share says.
    """
    shares = task_shares(sizes, sampling)
    labelled = [task for task in sizes if task != MLM.name] or list(sizes)
    return sum(sizes[task] for task in labelled) / sum(shares[task] for task in labelled)


def total_steps(items: float, setting: TrainingPart) -> int:
    """Optimiser steps of a phase: `max_steps`, or `num_train_epochs` over all items."""
    if setting.max_steps > 0:
        return setting.max_steps
    steps = round(items * setting.num_train_epochs / setting.train_batch_size, 6)  # 2.0000000001 steps are 2
    return max(1, math.ceil(steps))


def _ordinals(drawn: np.ndarray, kinds: int) -> np.ndarray:
    """For each draw, how often its task was drawn before."""
    ordinal = np.zeros(len(drawn), np.int32)
    for kind in range(kinds):
        of_kind = drawn == kind
        ordinal[of_kind] = np.arange(of_kind.sum(), dtype=np.int32)
    return ordinal


def micro_batch_count(setting: TrainingPart, world_size: int, pool: int = 1) -> int:
    """Micro-batches of a step on each rank (gradient accumulation steps), each of whole pools."""
    pools = math.ceil(setting.train_batch_size / pool)
    share = math.ceil(pools / world_size)
    return math.ceil(share / max(1, setting.per_device_train_batch_size // pool))


def deal(
    lengths: Sequence[int],
    world_size: int,
    micro_batches: int,
    padded: bool = False,
    pool: int = 1,
    only: int | None = None,
) -> list[list[list[int]]]:
    """Deal a step's items over ranks and micro-batches so that the slowest rank has little more than its share.

    Longest first to the rank with the fewest tokens so far and room left (LPT), then exchanges between the heaviest and
    the lightest rank; a rank's items go over its micro-batches by the same rule or, where rows will be `padded`, so
    that items of like length share one. Returns [rank][micro-batch] -> positions in `lengths`, longest first; a
    micro-batch may be empty. Each `pool` consecutive items are dealt as one.

    With `only`, the other ranks' items are not divided into micro-batches: their lists are empty.
    """
    if pool > 1:
        return _deal_pools(lengths, world_size, micro_batches, padded, pool, only)
    size = np.asarray(lengths)
    # So many items a rank that micro-batches stay within per_device_train_batch_size.
    room = math.ceil(math.ceil(len(size) / world_size) / micro_batches) * micro_batches
    ranks = _spread(size, np.argsort(-size, kind="stable"), world_size, room)
    dealt: list[list[list[int]]] = []
    for rank, of_rank in enumerate(ranks):
        if only is not None and rank != only:
            batches = []
        elif padded:
            # Sorted by length: what is cut at equal counts has neighbours of like length, and little padding.
            batches = np.array_split(of_rank, micro_batches)
        else:
            batches = _spread(size, of_rank, micro_batches, room // micro_batches)
        dealt.append([batch.tolist() for batch in batches])
    return dealt


def _deal_pools(
    lengths: Sequence[int], world_size: int, micro_batches: int, padded: bool, pool: int, only: int | None
) -> list[list[list[int]]]:
    """Pools dealt by the sum of their items: a loss term's candidates are in one micro-batch of one rank."""
    firsts = range(0, len(lengths), pool)
    ends = [min(first + pool, len(lengths)) for first in firsts]  # the last pool may be short
    costs = [sum(lengths[first:end]) for first, end in zip(firsts, ends)]

    def positions(pools: Sequence[int]) -> list[int]:
        return [position for number in pools for position in range(firsts[number], ends[number])]

    return [[positions(batch) for batch in rank] for rank in deal(costs, world_size, micro_batches, padded, only=only)]


def _spread(size: np.ndarray, items: np.ndarray, bins: int, room: int) -> list[np.ndarray]:
    """Items (longest first) over `bins` of at most `room` items with sums of `size` as even as exchanges make them."""
    if bins == 1:
        return [items]
    items_of_bins: list[list[int]] = [[] for _ in range(bins)]
    queue = [(0, index) for index in range(bins)]
    for item, tokens in zip(items.tolist(), size[items].tolist()):
        tokens_so_far, index = heapq.heappop(queue)
        items_of_bins[index].append(item)
        # A bin that is full leaves the queue, however few tokens it holds.
        if len(items_of_bins[index]) < room:
            heapq.heappush(queue, (tokens_so_far + tokens, index))
    positions = [np.array(items_of_bin, np.int64) for items_of_bin in items_of_bins]
    sums = np.array([int(size[items_of_bin].sum()) for items_of_bin in positions])
    # Bounded: exchanges help by less and less, and a step must not wait for the last tokens.
    for _ in range(2 * bins):
        if not _exchange(size, positions, sums):
            break
    return [items_of_bin[np.argsort(-size[items_of_bin], kind="stable")] for items_of_bin in positions]


def _exchange(size: np.ndarray, bins: list[np.ndarray], sums: np.ndarray) -> bool:
    """Swap the two items of the heaviest and the lightest bin that level them best; False where none helps. `sums` are
    those of the bins."""
    heavy, light = int(np.argmax(sums)), int(np.argmin(sums))
    gap = int(sums[heavy] - sums[light])
    # A gap of one token cannot be halved.
    if gap < 2 or not len(bins[light]):
        return False
    moved = size[bins[heavy]][:, None] - size[bins[light]][None, :]
    left = np.abs(gap - 2 * moved)
    a, b = np.unravel_index(int(np.argmin(left)), left.shape)
    if left[a, b] >= gap:
        return False
    # Changed and not summed again: with many ranks that would be most of a deal's work.
    sums[heavy] -= moved[a, b]
    sums[light] += moved[a, b]
    bins[heavy][a], bins[light][b] = bins[light][b], bins[heavy][a]
    return True
