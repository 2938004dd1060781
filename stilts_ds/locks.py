"""Who works where: one process at a time in a run folder, one in a phase, one at a folder of cached rows.

A lock is the kernel's (flock), which lets go by itself when its holder dies. Where the file system has none (Lustre
mounted without `flock`, NFS without a lock daemon), a file that only one process can make says who holds the folder.

A lease is always such a file, because its holder may be on another node and die there: it touches the file while it
works, and who waits takes a file over that nobody has touched for a while.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stilts_ds.errors import SHARE_WITH_GROUP, UserError
from stilts_ds.run_dir import PhaseDir, RunDir, read_json

log = logging.getLogger(__name__)
LOCK, HOLDER = ".lock", ".lock.holder"
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # of file systems without hard links
# Another has the lock; EACCES where NFS makes flock an fcntl lock. Any other error: there are no locks here.
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
# Set for ranks of a job, which holds their phase's lock already, perhaps on another node.
HELD_BY_JOB = "STILTS_PHASE_HELD"
BEAT_SECONDS = 10.0  # between two touches of a lease by its holder
# Untouched for so long, a lease is a dead holder's. More than the minute for which NFS keeps a file's times.
STALE_SECONDS = 120.0
POLL_SECONDS = 0.5  # between two looks at a lease that another process holds
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def run_lock(run: RunDir) -> Iterator[None]:
    """Only one `stilts run` or `submit` works in a run folder at a time."""
    with folder_lock(run.root, f"another stilts is at work in {run.root}; wait for it, or give another name=..."):
        yield


@contextmanager
def phase_lock(folder: PhaseDir) -> Iterator[None]:
    """Only one `stilts run` or job works on a phase at a time. Raises UserError where another one does."""
    # flock is per open file: a rank that locked again would meet its own job's lock.
    if os.environ.get(HELD_BY_JOB) == folder.root.name:
        yield
        return
    refusal = f"another stilts or one of its jobs is at work in {folder.root}; wait for it (`stilts status` shows jobs)"
    with folder_lock(folder.root, refusal):
        yield


def no_link(path: str, flags: int) -> int:
    """Opens a file, but not through a link, which could stand for any file of the user's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except PermissionError as error:  # another user's folder
        remedy = f"{SHARE_WITH_GROUP}, or give another folder (output_dir=...)"
        raise UserError(f"{path} cannot be opened ({error.strerror}); {remedy}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be opened ({error.strerror}); delete it if it is a link") from None


@contextmanager
def folder_lock(folder: Path, refusal: str) -> Iterator[None]:
    """Hold a folder's lock; raises UserError with `refusal` where another process has it. A dead holder lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a", opener=no_link) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                raise UserError(refusal) from None
            log.warning("%s: this file system locks no files (%s); %s says who works there", folder, error, HOLDER)
            with _holder_file(folder / HOLDER, refusal):
                yield
            return
        yield


@contextmanager
def lease(path: Path, is_done: Callable[[], bool], waits: bool = True) -> Iterator[bool]:
    """Hold the lease `path` for work that one process does for all; yields whether there is any left to do.

    Where another process holds it, waits until that one is done (`is_done`) or gone, and then works in its place. Not
    `waits`: raises HeldElsewhereError instead.
    """
    claim = Claim(path)
    while not claim.succeeds():
        if is_done():
            yield False
            return
        if not waits:
            raise HeldElsewhereError(path)
        time.sleep(POLL_SECONDS)
    with claim.held():
        # Who had it before may have finished in the moment in which it was taken.
        yield not is_done()


class Claim:
    """A process's claim on the lease `path`. It is tried again and again, since a lease of a dead holder on another
    node is known by what does not change between two tries. `inherited`: it was a dead holder's."""

    def __init__(self, path: Path) -> None:
        self.path, self.this_process, self.inherited = path, _this_process(), False
        self.touched, self.since = 0, time.monotonic()

    def succeeds(self) -> bool:
        """Take the lease if nobody has it, or its holder is gone; false where another process has it."""
        while not _make(self.path, self.this_process):
            holder, at = _read_holder(self.path), _touched_at(self.path)
            if at != self.touched:
                self.touched, self.since = at, time.monotonic()
            # By this machine's own clock, since when it has seen no change: clocks of nodes differ.
            is_stale = time.monotonic() - self.since > STALE_SECONDS
            if not is_stale and (not holder or _may_live(holder)):
                return False
            if _take_over(self.path, holder):
                self.inherited = True
                log.warning("%s: process %s on %s is gone", self.path, holder.get("process"), holder.get("host"))
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a lease that was taken, and give it back at the end."""
        try:
            with _touching(self.path):
                yield
        finally:
            if _read_holder(self.path) == self.this_process:
                self.path.unlink(missing_ok=True)


class HeldElsewhereError(Exception):
    """Another process holds a lease, and the caller does not want to wait."""


@contextmanager
def _touching(path: Path) -> Iterator[None]:
    """Touch a lease again and again, in a thread: its holder may compute for minutes."""
    ended = threading.Event()

    def touch() -> None:
        while not ended.wait(BEAT_SECONDS):
            with suppress(OSError):  # taken over while this machine stood still
                os.utime(path)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _touched_at(path: Path) -> int:
    """When a lease was touched last, in nanoseconds of its file system's clock; 0 where it is gone."""
    try:
        # Opened: NFS asks the server again for the times of a file when it opens it.
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return 0


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "process": os.getpid(),
        "mark": secrets.token_hex(8),
    }


@contextmanager
def _holder_file(path: Path, refusal: str) -> Iterator[None]:
    """Hold a folder by a file that names this process. One of a process of this machine that is gone is removed."""
    this_process = _this_process()
    if not _make(path, this_process):
        holder = _read_holder(path)
        if _may_live(holder):
            who = f"process {holder.get('process')} on {holder.get('host')}"
            raise UserError(f"{refusal}. {path} names {who}; delete it if that one is gone")
        if not _take_over(path, holder) or not _make(path, this_process):
            raise UserError(refusal)
    try:
        yield
    finally:
        # Somebody may have deleted it by hand, as the message above allows, and another process works here now.
        if _read_holder(path) == this_process:
            path.unlink(missing_ok=True)


def _make(path: Path, holder: dict[str, Any]) -> bool:
    """Make the file whole and at once, unless there is one: a link cannot replace a file, on any file system."""
    fresh = path.with_name(f"{path.name}.{holder['mark']}")
    fresh.write_text(json.dumps(holder), encoding="utf-8")
    try:
        # Written first and linked then: a file that is opened exclusively can be read before it has its content.
        os.link(fresh, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _make_without_links(path, holder)
    finally:
        fresh.unlink()
    return True


def _make_without_links(path: Path, holder: dict[str, Any]) -> bool:
    """Make the file on a file system without hard links; who reads it too early finds no holder, and waits."""
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(holder, file)
    except FileExistsError:
        return False
    return True


def _take_over(path: Path, dead: dict[str, Any]) -> bool:
    """Remove the file of a dead holder; false where somebody else did that first and holds the folder now."""
    # Renaming is atomic: of two processes that find the same dead holder, one gets the file.
    aside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    if _read_holder(aside) == dead:
        aside.unlink()
        return True
    with suppress(FileExistsError):  # it was a living one's: put it back
        os.link(aside, path)
    aside.unlink()
    return False


def _read_holder(path: Path) -> dict[str, Any]:
    try:
        holder = read_json(path)
    except UserError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _may_live(holder: dict[str, Any]) -> bool:
    """Whether a holder may be at work. Of one on another machine nobody can tell."""
    if holder.get("host") != socket.gethostname():
        return True
    process = holder.get("process")
    # After a reboot another process may bear the number.
    return holder.get("boot") == _boot_id() and isinstance(process, int) and Path(f"/proc/{process}").exists()


def _boot_id() -> str:
    with suppress(OSError):
        return BOOT_ID.read_text(encoding="ascii").strip()
    return ""
