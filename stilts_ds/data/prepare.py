"""Rows for phases, made before they run: in one process at the start of a run, or in several on any number of nodes.

Several divide the work by the leases of the cache: each process takes what no other one is making, and waits for the
rest at the end. So nobody has to know how many there are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from stilts_ds.config import TrainingPart, written_recipe
from stilts_ds.data.data import Data
from stilts_ds.data.duplicates import Overlap, warn_of_overlaps
from stilts_ds.data.split import Split
from stilts_ds.display import concern
from stilts_ds.errors import UserError
from stilts_ds.locks import HeldElsewhereError
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowSet:
    """Rows of one task, split and language in one setting. `make` reads them from the cache or makes them."""

    title: str
    key: str
    make: Callable[[], object]


def prepare_data(data: Data, phases: Iterable[Phase]) -> None:
    """Read and tokenise everything the phases need: a bad row is found before the first step is paid for, and a cache
    that changed since it was written is made again."""
    phases = list(phases)
    # Once in a start: comparing every cached array takes long, and later calls trust what was compared here.
    data.store.verify = True
    overlapping: list[Overlap] = []
    for phase in phases:
        overlapping += [overlap for overlap in data.overlaps(phase).found if overlap not in overlapping]
    for row_set in row_sets(data, phases):
        row_set.make()
    data.store.verify = False
    warn_of_overlaps(overlapping, concern(data.recipe.data.source))


def row_sets(data: Data, phases: Iterable[Phase]) -> list[RowSet]:
    """What the phases need rows of, each once."""
    wanted: dict[str, RowSet] = {}
    for phase in phases:
        for row_set in _sets_of(data, phase):
            wanted.setdefault(row_set.key, row_set)
    return list(wanted.values())


def _sets_of(data: Data, phase: Phase) -> Iterator[RowSet]:
    for name in phase.train:
        setting = phase.setting(name)
        for split in (data.train(name, setting), data.dev(name, setting)):
            yield _row_set(split, setting, partial(split.rows, setting))
    for setting, split in data.selection(phase).values():
        yield _row_set(split, setting, partial(split.rows, setting))
    setting = phase.setting()
    for task in map(data.task, phase.evaluate):
        for split in data.evaluations(task):
            make = partial(split.family.evaluation_rows, split, setting, data.recipe.evaluation)
            yield _row_set(split, setting, make)


def _row_set(split: Split, setting: TrainingPart, make: Callable[[], object]) -> RowSet:
    # Of twenty phases most want the same.
    return RowSet(split.title, split.request(setting), make)


# --- in several processes --------------------------------------------------------------------------------------------


def prepare_run_data(
    run: RunDir, processes: int, tell: Callable[[str], None], begin: Callable[[], None]
) -> tuple[int, int]:
    """Make what a planned run needs rows of, in so many processes beside those of other nodes.

    Tells of each set when it is there; each process calls `begin` first. Returns how many sets there are, and how many
    of them another process was making when they were asked for. Raises UserError for faulty data, and where a process
    was killed.
    """
    phases = Plan.load(run.plan).phases
    titles = [row_set.title for row_set in row_sets(Data(written_recipe(run.recipe), run.root), phases)]
    # Started anew and not forked: this process may have threads.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (run.root, begin))
    # What a tokenizer counts as its machine is shared by the processes.
    os.environ["RAYON_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    with pool:
        elsewhere: list[int] = []
        for waits, numbers in ((False, range(len(titles))), (True, elsewhere)):
            futures: dict[Future[bool], int] = {pool.submit(_make, number, waits): number for number in numbers}
            try:
                for future in as_completed(futures):
                    number = futures[future]
                    if future.result():
                        tell(titles[number])
                    else:
                        elsewhere.append(number)
            except BrokenProcessPool as error:
                raise UserError(
                    f"one of {processes} processes was killed, perhaps because memory ran out; give fewer (--processes)"
                ) from error
            except BaseException:
                # The first fault is told at once, and not after what still waits in the queue.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return len(titles), len(elsewhere)


class _Worker:
    """What one of the processes works on."""

    def __init__(self, root: Path) -> None:
        run = RunDir(root)
        # Read here and not handed over: reading a recipe makes the tasks known that it adds.
        self.data = Data(written_recipe(run.recipe), run.root)
        self.data.store.verify = True
        self.sets = row_sets(self.data, Plan.load(run.plan).phases)


_worker: list[_Worker] = []  # of this process


def _start_worker(root: Path, begin: Callable[[], None]) -> None:
    begin()
    _worker.append(_Worker(root))


def _make(number: int, waits: bool) -> bool:
    """Make a set in a process of the pool; false where another process makes it and this one does not wait."""
    [worker] = _worker
    worker.data.store.waits = waits
    try:
        worker.sets[number].make()
    except HeldElsewhereError:
        return False
    return True
