"""Worlds on this machine: several groups of ranks side by side, each of which trains one phase at a time.

    python -m stilts_launcher.worlds RUN START --number I --of N --ranks R [--only train|evaluate]

is one world: a process that takes phases from the run's queue (stilts_ds/phase_queue.py) and starts its ranks for each.
`stilts run` starts N of them (`launch.worlds`). Neither torch nor DeepSpeed is loaded in a world.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stilts_ds.config import Recipe, written_recipe
from stilts_ds.display import CLOCK, CONSOLE, duration
from stilts_ds.engine.preempt import die_with
from stilts_ds.errors import UserError, counted, print_anywhere, printable, redacted
from stilts_ds.evaluate.result import scores_in_words
from stilts_ds.locks import POLL_SECONDS
from stilts_ds.phase_queue import Entry, PhaseQueue, make_queue
from stilts_ds.plan_file import Phase
from stilts_ds.planner import most_ranks
from stilts_ds.run_dir import RunDir
from stilts_launcher import local
from stilts_launcher.local import STOPPED
from stilts_launcher.rank_place import OWN_CODE_ONLY, free_port, usable_cores

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


def world_count(recipe: Recipe, ranks: int, phases: Sequence[Phase], only: str | None = None) -> int:
    """Into how many worlds so many ranks are divided for `phases`. Raises UserError where they can't be."""
    wanted = recipe.launch.worlds
    if wanted == "auto":
        return fed_worlds(ranks, phases, only)
    if ranks % wanted:
        raise UserError(
            f"launch.worlds={wanted} does not divide {counted(ranks, 'rank')} (launch.nproc); give numbers that do"
        )
    return wanted


def fed_worlds(ranks: int, phases: Sequence[Phase], only: str | None = None) -> int:
    """As many worlds as leave no rank without an example of a step, by a number that divides the ranks."""
    most = most_ranks(phases, only)
    fed = 1 if most is None else max(1, ranks // most)
    return next(count for count in range(fed, 0, -1) if ranks % count == 0)


# --- the worlds of a run ----------------------------------------------------------------------------------------------


def run_worlds(run: RunDir, recipe: Recipe, phases: Sequence[Phase], ranks: int, worlds: int, only: str | None) -> int:
    """Run `phases` by so many worlds with `ranks` ranks in all; returns the exit status that tells most.

    A phase that fails stops only what starts from it. Signals reach the ranks of all worlds, which save and leave.
    """
    begun, start, size = time.monotonic(), secrets.token_hex(8), ranks // worlds
    queue = make_queue(run, phases, start, worlds)
    say(f"{counted(len(phases), 'phase')} by {counted(worlds, 'world')} of {counted(size, 'rank')}")
    children: list[subprocess.Popen[bytes]] = []
    with local.passing_signals_to(children) as received:
        for number in range(worlds):
            command = [sys.executable, "-m", "stilts_launcher.worlds", str(run.root), start]
            command += [f"--number={number}", f"--of={worlds}", f"--ranks={size}"]
            command += [f"--only={only}"] if only else []
            variables = world_environment(recipe, size, worlds, number)
            children.append(subprocess.Popen(command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL))
        for signal_number in received:  # one may have come while the last world was made
            children[-1].send_signal(signal_number)
        # Not `local.wait_for`, which ends all when one fails: here the others take over what it leaves.
        codes = [child.wait() for child in children]
    status = queue.status()
    if status == 0:
        say(f"done in {duration(time.monotonic() - begun)}: {counted(len(phases), 'phase')}")
    elif received or STOPPED in codes:
        say("stopped; everything is saved, the same command continues")
        status = STOPPED
    else:
        say_what_lacks(queue)
    queue.remove()
    return status


def world_environment(recipe: Recipe, size: int, worlds: int, number: int) -> dict[str, str]:
    """What the environment of a world with `size` ranks has of its own: its GPUs and its share of the cores."""
    variables = {"STILTS_LAUNCHER": str(os.getpid()), **OWN_CODE_ONLY}
    if recipe.launch.omp_num_threads is None and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, usable_cores() // (size * worlds)))
    gpus = visible_gpus()
    # With fewer GPUs than ranks (launch.oversubscribe), a world's ranks find out as those of one world do.
    if size * worlds <= len(gpus):
        variables[VISIBLE_GPUS] = ",".join(gpus[number * size : (number + 1) * size])
    return variables


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name for name in os.environ.get(VISIBLE_GPUS, "").split(",") if name]
    return named[:count] or [str(number) for number in range(count)]


def say_what_lacks(queue: PhaseQueue) -> None:
    """Name the phases that failed, and those that could not begin or that nobody was left to run."""
    ends, blocked = queue.ends(), queue.blocked()
    failed = [entry.title for entry in queue.entries if ends.get(entry.name, 0) != 0]
    waiting = [entry.title for entry in queue.entries if entry.name in blocked]
    left = [entry.title for entry in queue.entries if entry.name not in set(ends) | blocked]
    for titles, words in ((failed, "failed"), (waiting, "not run, what they start from failed"), (left, "not ended")):
        if titles:
            say(f"{words}: {', '.join(titles)}", to_all=True)


def say(text: str, to_all: bool = False) -> None:
    """A line on the console, where that shows milestones; `to_all`: also where it was asked to be quiet."""
    if to_all or os.environ.get(CONSOLE) != "quiet":
        print(f"{time.strftime(CLOCK)} {printable(redacted(text))}", file=sys.stderr, flush=True)


# --- one world --------------------------------------------------------------------------------------------------------


def work(queue: PhaseQueue, begin: Callable[[Entry], int], is_stopped: Callable[[], bool]) -> int:
    """Take entries from the queue until nothing is left, and `begin` each; returns 0, or STOPPED after a stop.

    `begin` starts the ranks, waits and returns their status. It saves what it was at where it is stopped.
    """
    while not queue.is_over():
        if is_stopped():
            return STOPPED
        with queue.take() as entry:
            if entry is not None:
                status = begin(entry)
                if status == STOPPED:
                    return STOPPED
                queue.save_end(entry, status)
        if entry is None:
            time.sleep(POLL_SECONDS)
    return 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stilts_launcher.worlds")
    parser.add_argument("run", type=Path)
    parser.add_argument("start")
    for name in ("--number", "--of", "--ranks"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--only", choices=["train", "evaluate"])
    given = parser.parse_args(arguments)
    # A world outlives its leader no longer than ranks do: nobody would pass a stop on to it.
    die_with(int(os.environ["STILTS_LAUNCHER"]))
    print_anywhere()
    return LocalWorld(RunDir(given.run), given).work()


class LocalWorld:
    """A world of ranks on this machine."""

    def __init__(self, run: RunDir, given: argparse.Namespace) -> None:
        self.run, self.given = run, given
        self.queue = PhaseQueue(run, given.start)
        self.threads = written_recipe(run.recipe).launch.omp_num_threads
        self.ranks: list[subprocess.Popen[bytes]] = []
        self.received: Sequence[int] = ()
        self.milestones = os.environ.get(CONSOLE) == "milestones"

    def work(self) -> int:
        # Over all phases: a signal between two of them must not be lost.
        with local.passing_signals_to(self.ranks) as self.received:
            return work(self.queue, self.begin, lambda: bool(self.received))

    def begin(self, entry: Entry) -> int:
        begun = time.monotonic()
        self.ranks.clear()
        if self.milestones:  # several worlds would mix their lines and write over each other's bars
            os.environ[CONSOLE] = "quiet"
        arguments = [str(self.run.root), *(phase.id for phase in entry.phases)]
        arguments += ["--only", self.given.only] if self.given.only else []
        count = min(self.given.ranks, most_ranks(entry.phases, self.given.only) or self.given.ranks)
        port = free_port(self.given.number, self.given.of)
        status = local.run_ranks(self.ranks, self.received, arguments, count, self.threads, port)
        if self.milestones:
            os.environ[CONSOLE] = "milestones"
        say(self._line(entry, status, count, duration(time.monotonic() - begun)))
        return status

    def _line(self, entry: Entry, status: int, count: int, seconds: str) -> str:
        where = f"in {seconds} (world {self.given.number}, {counted(count, 'rank')})"
        if entry.is_done:
            return f"{entry.title}: status {status} {where}"
        folder = self.run.phase(entry.name)
        told = folder.read_status()
        words = [told.state, *scores_in_words(folder, entry.phases[0])]
        if status not in (0, STOPPED):
            words = [f"failed with status {status}", *([told.error] if told.error else [])]
        ended = len(self.queue.ends()) + (status != STOPPED)
        return f"{ended}/{len(self.queue.entries)}  {entry.title} {', '.join(words)} {where}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
