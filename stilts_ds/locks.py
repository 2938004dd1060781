"""Who works where: one process at a time in a run folder, and one in a phase.

A lock is the kernel's (flock), which lets go by itself when its holder dies. Where the file system has none (Lustre
mounted without `flock`, NFS without a lock daemon), a file that only one process can make says who holds the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.run_dir import PhaseDir, RunDir, read_json

log = logging.getLogger(__name__)
LOCK, HOLDER = ".lock", ".lock.holder"
# Another has the lock; EACCES where NFS makes flock an fcntl lock. Any other error: there are no locks here.
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
# Set for ranks of a job, which holds their phase's lock already, perhaps on another node.
HELD_BY_JOB = "STILTS_PHASE_HELD"
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
def _holder_file(path: Path, refusal: str) -> Iterator[None]:
    """Hold a folder by a file that names this process. One of a process of this machine that is gone is removed."""
    this_process = {
        "host": socket.gethostname(),
        "boot": _boot_id(),
        "process": os.getpid(),
        "mark": secrets.token_hex(8),
    }
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
    finally:
        fresh.unlink()
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
