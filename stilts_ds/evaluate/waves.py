"""Which pairs of languages one rank predicts by itself, and which all ranks predict together.

A search in small sides takes no time, and a rank alone exchanges nothing. So the pairs of languages go whole to the
ranks, longest first, a wave at a time: each rank has one pair, and between two waves rank 0 writes what was found, and
all can be stopped. Sides that are large are shared among all ranks, and so is what would leave most ranks idle at the
end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.data.split import Split
from stilts_ds.engine.preempt import Stopped
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.embedding import CHUNK

LARGE = 50_000  # sentences of a side: from here on the search itself is worth sharing
Result = TypeVar("Result")


@dataclass(frozen=True)
class LanguagePair:
    """Splits of one task and language, in the order in which they are predicted: test needs what dev chose."""

    splits: tuple[Split, ...]

    def size(self, setting: TrainingPart, evaluation: EvaluationPart) -> int | None:
        """Sentences of the largest side; None where the task's family does not search."""
        sizes = []
        for split in self.splits:
            if split.family.searched_rows is None:
                return None
            sizes.append(split.family.searched_rows(split, setting, evaluation))
        return max(sizes)

    def records(self) -> list[Any]:
        """Each split's records as plain values, of a family that searches."""
        plain = []
        for split in self.splits:
            assert split.family.to_plain is not None
            plain.append([split.family.to_plain(record) for record in split.records()])
        return plain

    def with_records(self, plain: Sequence[Any]) -> list[Split]:
        """The splits with the records that rank 0 sent."""
        splits = []
        for split, of_split in zip(self.splits, plain, strict=True):
            assert split.family.from_plain is not None
            splits.append(dataclasses.replace(split, sent=[split.family.from_plain(values) for values in of_split]))
        return splits


def pairs_of(splits: Sequence[Split]) -> list[LanguagePair]:
    """The splits by task and language, in their order."""
    groups: dict[tuple[str, str], list[Split]] = {}
    for split in splits:
        groups.setdefault((split.task.name, split.language), []).append(split)
    return [LanguagePair(tuple(group)) for group in groups.values()]


def divide(sizes: Sequence[int | None], ranks: int) -> tuple[list[list[int]], list[int]]:
    """Waves of pairs, of which rank r takes the r-th, and the pairs that all ranks predict together; both by number."""
    if ranks == 1:
        return [], list(range(len(sizes)))
    small = [number for number, size in enumerate(sizes) if size is not None and size <= LARGE]
    # Longest first: a wave takes as long as its longest pair, so these should be of like length.
    small.sort(key=lambda number: -(sizes[number] or 0))  # stable: equal ones in the order of the plan
    waves = [small[start : start + ranks] for start in range(0, len(small), ranks)]
    if waves and len(waves[-1]) < ranks:
        # A chunk of sentences is what one rank embeds: a pair of more than one is worth sharing.
        waves[-1] = [number for number in waves[-1] if (sizes[number] or 0) <= CHUNK]
    waves = [wave for wave in waves if wave]
    alone = {number for wave in waves for number in wave}
    return waves, [number for number in range(len(sizes)) if number not in alone]


def do_or_raise_together(world: World, work: Callable[[], Result]) -> Result:
    """`work` of each rank by itself; what one of them raises, all do: nobody waits for a rank that is gone."""
    result: Result | None = None
    failure: Exception | None = None
    try:
        result = work()
    except Exception as error:
        failure = error
    kinds = {UserError: "input", Stopped: "stop"}
    kind = "" if failure is None else kinds.get(type(failure), "other")
    faults = world.all_gather((kind, "" if failure is None else str(failure)))
    # A fault of the input wins over a stop: it would come back with the next start.
    for wanted, raised in (("input", UserError), ("stop", Stopped)):
        for kind, text in faults:
            if kind == wanted:
                raise raised(text)
    world.agree(failure, "predicting a pair of languages")
    return result  # type: ignore[return-value]
