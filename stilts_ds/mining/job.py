"""A piece of work that many ranks do and that may be stopped: its work folder, its inputs, and its output.

While `pairs.tsv` is being made, `pairs.tsv.work/` beside it holds what is finished. Its `job.json` names all inputs by
their content: a start with the same ones goes on, a start with others is refused. The output appears whole, under a
name that nothing had before, and the work folder goes.
"""

from __future__ import annotations

import filecmp
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.progress import Progress

from stilts_ds.engine.preempt import Stopped, stop_this_rank_if_requested
from stilts_ds.errors import UnreadableError, UserError, rough_time
from stilts_ds.locks import HOLDER, LOCK, folder_lock
from stilts_ds.run_dir import hash_json, read_sealed, write_sealed

log = logging.getLogger(__name__)
Result = TypeVar("Result")
PROGRESS_SECONDS = 10.0
NOTED = "job.json"
OURS = (LOCK, HOLDER, "logs")


def on_first(ranks: Collectives, work: Callable[[], Result]) -> Result:
    """What `work` gives on rank 0 (plain JSON values), on every rank; its UserError is raised on all. A collective."""
    problem, result = "", None
    if ranks.rank == 0:
        try:
            result = work()
        except UserError as error:
            problem = str(error)
    problem, result = ranks.gather([problem, result])[0]
    if problem:
        raise UserError(problem)
    return result


def on_all(ranks: Collectives, work: Callable[[], Result]) -> Result:
    """`work` on every rank; a UserError of any of them, and being asked to stop, is raised on all. A collective."""
    problem, signal, result = "", "", None
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    except Stopped as stopped:
        signal = str(stopped)
    if not ranks.any_rank(bool(problem or signal)):
        return result  # type: ignore[return-value]
    states = ranks.gather([problem, signal])
    # Errors first: after a stop the same call would only meet them again.
    for text, _ in states:
        if text:
            raise UserError(text)
    raise Stopped(next(name for _, name in states if name))


def stop_together(ranks: Collectives) -> None:
    """Raise Stopped on every rank if any was asked to stop. A collective."""
    on_all(ranks, stop_this_rank_if_requested)


class MiningWork:
    """The work for one output file. Its methods are collectives."""

    def __init__(self, ranks: Collectives, output: Path) -> None:
        self.ranks, self.output = ranks, output
        self.work = work_folder(output)
        self._noted = self.work / NOTED
        self._until_the_end = ExitStack()

    def __enter__(self) -> MiningWork:
        on_first(self.ranks, self._take)
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Not a collective: other ranks may be gone. Where nothing was finished, nothing stays."""
        # A write at an offset names no file.
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(self.work)
        self._until_the_end.close()
        if self.ranks.rank == 0:
            remove_if_bare(self.output)

    def _take(self) -> None:
        check_output(self.output)
        # Held by rank 0 alone: the ranks of one start are one holder.
        self._until_the_end.enter_context(_lock(self.output))

    def begin(self, inputs: Mapping[str, Any], files: Mapping[str, Path | None]) -> str:
        """Note the inputs (plain JSON values), or compare them with those that an earlier start noted. Returns their
        hash. Raises UserError naming the first that differs, and its file where `files` has one for this input."""
        return on_first(self.ranks, lambda: self._begin(inputs, files))

    def _begin(self, inputs: Mapping[str, Any], files: Mapping[str, Path | None]) -> str:
        if not self._noted.exists():
            write_sealed(self._noted, {"inputs": dict(inputs)})
            return hash_json(dict(inputs))
        earlier = read_sealed(self._noted)["inputs"]
        for name in sorted({*earlier, *inputs}):
            if earlier.get(name) != inputs.get(name):
                file = f" ({files[name]})" if files.get(name) else ""
                raise UserError(
                    f"{self.work} holds unfinished work for which {name}{file} was {shown(earlier.get(name))}, and now "
                    f"it is {shown(inputs.get(name))}; give the earlier inputs to continue it, or delete that folder"
                )
        # By the same inputs, what is finished there is this start's own work.
        log.info("going on with the work in %s", self.work)
        return hash_json(dict(inputs))

    def publish(self, draft: Path, *more: tuple[Path, Path]) -> None:
        """Give the finished `draft` the output's name, and further (draft, name) pairs before it; the work folder goes.
        Raises UserError where a file has such a name by now."""

        def put() -> None:
            # The output last: where it is there, everything that belongs to it is.
            for made, name in (*more, (draft, self.output)):
                put_new(made, name)
            shutil.rmtree(self.work)

        on_first(self.ranks, put)


def check_output(output: Path) -> None:
    """Raise UserError where an output cannot be made: it exists, has no folder, or its work folder is not ours. Each
    rank looks before it writes even a log."""
    refuse_existing(output)
    if not output.parent.is_dir():
        raise UserError(f"{output.parent} is no folder; make it, or write elsewhere")
    work = work_folder(output)
    if not _is_ours(work):
        raise UserError(
            f"{work} is no work folder of this program, or its {NOTED} is damaged; move it, or give another output"
        )


def remove_if_bare(output: Path) -> None:
    """Remove a work folder in which nothing is finished: a start that was refused leaves nothing behind."""
    work = work_folder(output)
    # Another start may have just begun there, or the folder may never have been ours.
    if not (work.exists() and _is_ours(work) and _is_bare(work)):
        return
    with suppress(UserError), _lock(output):
        shutil.rmtree(work, ignore_errors=True)


def _lock(output: Path) -> AbstractContextManager[None]:
    refusal = f"another stilts is at work on {output}; wait for it, or give another output"
    return folder_lock(work_folder(output), refusal)


def _is_ours(work: Path) -> bool:
    """Whether a path is free, or a folder that this program made: it notes its inputs, or holds a lock and logs."""
    # What a link leads to is somebody's own, and is not removed at the end.
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        return False
    if not work.exists():
        return True
    if not (work / NOTED).exists():
        return _is_bare(work)
    try:
        read_sealed(work / NOTED)
    except UnreadableError:
        raise
    except UserError:
        return False
    return True


def _is_bare(work: Path) -> bool:
    # A kill may have left a note that was being written.
    drafts = (f".{NOTED}.", f"{HOLDER}.")
    return all(path.name in (*OURS, NOTED) or path.name.startswith(drafts) for path in work.iterdir())


def work_folder(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


def refuse_existing(output: Path) -> None:
    """Raise UserError where the output is there already."""
    if output.exists() or output.is_symlink():
        raise UserError(f"{output} exists; nothing is overwritten: give another name, or remove it")


def is_unfinished(output: Path) -> bool:
    """Whether an earlier start noted what `output` is made of."""
    return (work_folder(output) / NOTED).exists()


def put_new(draft: Path, name: Path) -> None:
    """Rename a finished file, never over another one; its bytes are on the disk first."""
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    # The start before was killed between this name and the output's.
    if name.is_file() and filecmp.cmp(draft, name, shallow=False):
        draft.unlink()
        return
    try:
        os.link(draft, name)  # a rename would replace what came there meanwhile
    except FileExistsError:
        refuse_existing(name)
    except OSError:  # a file system without hard links
        refuse_existing(name)
        os.rename(draft, name)
        return
    draft.unlink()


def shown(value: Any) -> str:
    """An input as a message names it; hashes by their first digits."""
    text = str(value)
    return f"{text[:12]}..." if len(text) in (32, 64) and " " not in text else text


class ProgressLog:
    """Tells how far this rank's work is, at most every ten seconds, with the time that is left."""

    def __init__(self, activity: str, unit: str) -> None:
        self.activity, self.unit = activity, unit
        self.started_at = self.told_at = time.monotonic()
        self.first_done: int | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.first_done is None:  # what an earlier start did says nothing about the speed of this one
            self.first_done, self.started_at = done, now
            return
        fresh = done - self.first_done
        if fresh <= 0 or (now - self.told_at < PROGRESS_SECONDS and done < total):
            return
        self.told_at = now
        rate = fresh / max(now - self.started_at, 1e-9)
        left = rough_time((total - done) / rate)
        log.info("%s: %s of %s %s, %.3g/s, %s left", self.activity, f"{done:,}", f"{total:,}", self.unit, rate, left)


def progress_log(ranks: Collectives, activity: str, unit: str) -> Progress:
    """Rank 0's progress log; the other ranks' says nothing."""
    return ProgressLog(activity, unit) if ranks.rank == 0 else _say_nothing


def _say_nothing(done: int, total: int) -> None:
    pass
