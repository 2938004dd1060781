"""One rank from its start to its exit status: handlers, log, joining the others, and how an end is told."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from stilts_ds.config import EnginePart, written_recipe
from stilts_ds.engine.logs import set_up_logging
from stilts_ds.engine.open_files import allow_open_files
from stilts_ds.engine.preempt import Stopped, install_handlers
from stilts_ds.engine.world import World, joined
from stilts_ds.errors import UserError, first_line, no_room, os_problem, printable, redacted
from stilts_ds.locks import HELD_BY_JOB
from stilts_ds.run_dir import RunDir, hash_json

log = logging.getLogger(__name__)
DONE, FAILED, USER_ERROR, STOPPED = 0, 1, 2, 85  # exit statuses


def run_as_rank(run: RunDir, logs: Path, work: Callable[[World], None]) -> int:
    """Join the other ranks of `run` and do `work`; this rank's log goes into the folder `logs`.

    Returns the exit status: 0 done, 1 failed, 2 the user can mend it, 85 stopped by a signal with everything saved.
    """
    rank = int(os.environ.get("RANK", "0"))
    install_handlers()
    try:
        run.check_links(run.logs.name)  # all else is looked at by rank 0, before anything is written there
        allow_open_files(int(os.environ.get("WORLD_SIZE", "1")), first=rank == 0)
        set_up_logging(logs)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        return USER_ERROR
    except OSError as problem:  # no log yet to write into
        print(f"error: {os_problem(problem)}", file=sys.stderr, flush=True)
        return FAILED
    try:
        _join(run, work)
    except Stopped as stopped:
        log.warning("stopped by %s; everything is saved, the same command continues", stopped)
        return STOPPED
    except UserError as problem:
        if rank == 0:
            print(f"error: {problem}", file=sys.stderr, flush=True)
            _save_refusal(run, problem)
        else:  # it may concern this rank's machine alone
            log.error("error: %s", problem)
        return USER_ERROR
    except Exception as problem:
        log.exception("rank %d failed", rank)
        _say_why(problem, rank, run)
        return FAILED
    return DONE


def _save_refusal(run: RunDir, problem: UserError) -> None:
    """Leave in the status of a job's phase why it did not begin: the job would start its ranks again for nothing."""
    phase = os.environ.get(HELD_BY_JOB)
    if phase is None:
        return
    folder = run.phase(phase)
    with suppress(UserError, OSError):
        status = folder.read_status()
        if status.token != os.environ.get("STILTS_RUN_TOKEN", "") or status.state != "failed":
            folder.set_status("failed", error=f"{type(problem).__name__}: {problem}")


def _join(run: RunDir, work: Callable[[World], None]) -> None:
    token = hash_json([str(run.root.resolve()), os.environ.get("STILTS_RUN_TOKEN", "")])
    with ExitStack() as stack:
        try:
            world = stack.enter_context(joined(token, _patience(run)))
        except UserError as problem:
            # Rank 0 may know nothing of it: it is still waiting for this one.
            if (rank := int(os.environ.get("RANK", "0"))) > 0:
                print(f"rank {rank}: {problem}", file=sys.stderr, flush=True)
            raise
        try:
            work(world)
        except RuntimeError as problem:  # most often a collective that another rank did not come to
            raise RuntimeError(f"{problem}{world.who_is_missing()}") from problem


def _patience(run: RunDir) -> int:
    """Seconds that a collective waits for a rank: what the launcher says, or for torchrun, which knows no recipe, what
    the run's recipe says (a run that is not planned yet: the default)."""
    if given := os.environ.get("STILTS_COLLECTIVE_TIMEOUT"):
        return int(given)
    engine = written_recipe(run.recipe).engine if run.recipe.exists() else EnginePart()
    return engine.collective_timeout


def _say_why(problem: Exception, rank: int, run: RunDir) -> None:
    """Tell the terminal what the log has at length."""
    if full := no_room(problem):
        remedy = "free some space, and the same command continues"
        print(f"error: {run.root}: {full}; {remedy}", file=sys.stderr, flush=True)
    elif isinstance(problem, OSError):
        print(f"error: {os_problem(problem)}", file=sys.stderr, flush=True)
    if rank > 0:  # rank 0 has told on the terminal already
        reason = printable(redacted(first_line(problem)))[:200]
        print(f"rank {rank}: {reason} (all of it: {run.logs})", file=sys.stderr, flush=True)
