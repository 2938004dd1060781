"""The phases of a run as a queue from which several worlds take: groups of ranks, each at work on one phase at a time.

Worlds share nothing but the run folder. `worlds/<start>/queue.json` lists what one start has to do, and a file beside
it for each entry says how that ended. A lease in `leases/` says that a world is at work on an entry. A world that is
killed leaves its lease untouched, and another one takes the phase and goes on from its newest checkpoint.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError, counted
from stilts_ds.lineage import unfinished
from stilts_ds.locks import POLL_SECONDS, Claim, phase_lock
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir, read_json, write_json

QUEUE = "queue.json"
DONE_BEFORE = "done-before-"  # begins the names of entries with phases that were done when the start began
LEAVING_SECONDS = 60.0  # that ranks of a world which was killed may take to be gone


@dataclass(frozen=True)
class Entry:
    """What a world starts its ranks for: one phase, or several that were done before.

    `after` names the entries whose encoders it starts from.
    """

    name: str
    phases: tuple[Phase, ...]
    after: tuple[str, ...]

    @property
    def title(self) -> str:
        if self.is_done:
            return f"{counted(len(self.phases), 'phase')} that {'was' if len(self.phases) == 1 else 'were'} done before"
        return self.phases[0].label

    @property
    def is_done(self) -> bool:
        """Whether its phases were done when the start began: they are only looked at."""
        return self.name.startswith(DONE_BEFORE)


class PhaseQueue:
    """The entries of one start, which `make_queue` has written."""

    def __init__(self, run: RunDir, start: str) -> None:
        self.run, self.folder = run, run.root / "worlds" / start
        phases = {phase.id: phase for phase in Plan.load(run.plan).phases}
        listed: dict[str, list[str]] = read_json(self.folder / QUEUE)
        self.entries: list[Entry] = []
        for name, ids in listed.items():
            after = {phases[phase_id].init for phase_id in ids} & set(listed)
            self.entries.append(Entry(name, tuple(phases[phase_id] for phase_id in ids), tuple(sorted(after))))
        self._ends: dict[str, int] = {}
        # Kept from one look to the next: a dead holder on another node is known by what does not change meanwhile.
        self._claims = {entry.name: Claim(lease_path(run, entry.name)) for entry in self.entries}

    def ends(self) -> Mapping[str, int]:
        """The exit status of each entry that has ended in this start."""
        for path in self.folder.glob("*.json"):
            if path.name != QUEUE and path.stem not in self._ends:
                self._ends[path.stem] = int(read_json(path)["status"])
        return self._ends

    def save_end(self, entry: Entry, status: int) -> None:
        write_json(self.folder / f"{entry.name}.json", {"status": status})

    def blocked(self) -> set[str]:
        """Entries that cannot begin, because one that they start from has failed."""
        ends, blocked = self.ends(), set[str]()
        for entry in self.entries:  # each after those that it starts from
            if any(ends.get(start, 0) != 0 or start in blocked for start in entry.after):
                blocked.add(entry.name)
        return blocked

    def is_over(self) -> bool:
        """Whether there is nothing left to begin or to wait for."""
        return {entry.name for entry in self.entries} <= set(self.ends()) | self.blocked()

    @contextmanager
    def take(self) -> Iterator[Entry | None]:
        """Hold an entry that can begin; None where there is none now."""
        for entry in self._ready():
            claim = self._claims[entry.name]
            if not claim.succeeds():
                continue
            with claim.held():
                # Who had it before may have ended it in the moment in which it was taken.
                if entry.name not in self.ends():
                    if claim.inherited:
                        self._await_ranks(entry)
                    yield entry
                    return
        yield None

    def _ready(self) -> list[Entry]:
        """Entries that can begin, those first that others wait for."""
        ends, needed = self.ends(), {start for entry in self.entries for start in entry.after}
        ready = [
            entry
            for entry in self.entries
            if entry.name not in ends and all(ends.get(start) == 0 for start in entry.after)
        ]
        return sorted(ready, key=lambda entry: entry.name not in needed)

    def _await_ranks(self, entry: Entry) -> None:
        """Wait until the ranks of a world that was killed have left a phase: they die a moment after it. If they do
        not, the next ranks are refused and say who is at work."""
        deadline = time.monotonic() + LEAVING_SECONDS
        for phase in entry.phases:
            while time.monotonic() < deadline:
                try:
                    with phase_lock(self.run.phase(phase.id)):
                        break
                except UserError:
                    time.sleep(POLL_SECONDS)

    def status(self) -> int:
        """The exit status of the whole start: 0 where all ended well, the first failure's in the plan's order, or 1
        where an entry was never run."""
        ends = self.ends()
        failures = [ends[entry.name] for entry in self.entries if ends.get(entry.name, 0) != 0]
        if failures:
            return failures[0]
        return 0 if len(ends) == len(self.entries) else 1

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def lease_path(run: RunDir, name: str) -> Path:
    """The lease of an entry, which is there while a world is at work on it."""
    return run.root / "leases" / name


def continued_queue(run: RunDir, start: str) -> PhaseQueue | None:
    """The queue of a start that was interrupted; None where there is none."""
    return PhaseQueue(run, start) if (run.root / "worlds" / start / QUEUE).exists() else None


def make_queue(run: RunDir, phases: Sequence[Phase], start: str, worlds: int) -> PhaseQueue:
    """Write the queue of one start. Phases that are done are looked at by the ranks of one start in each of `worlds`,
    0 for none: starting ranks for each of these phases takes longer than finding nothing to do."""
    listed = {phase.id: [phase.id] for phase in unfinished(run, phases)}
    done = [phase.id for phase in phases if phase.id not in listed]
    for number in range(worlds):
        if share := done[number::worlds]:
            listed[f"{DONE_BEFORE}{number}"] = share
    (run.root / "leases").mkdir(parents=True, exist_ok=True)
    write_json(run.root / "worlds" / start / QUEUE, listed)
    return PhaseQueue(run, start)
