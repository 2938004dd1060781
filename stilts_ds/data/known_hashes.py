"""Hashes of large files, kept from one start to the next for as long as a file does not change.

A file counts as the same while its size, inode and times are: the time of its last change of any kind (ctime) cannot be
set back, as that of its contents (mtime) can by whoever copies files.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_json, read_json, reading, write_json

FOLDER = "hashes"
# Smaller files are read in less time than a note about them.
SMALL = 1 << 20
# A file that changed a moment ago may change again in the same tick of its file system's clock.
SETTLED_SECONDS = 2.0


class KnownHashes:
    """Hashes of files, noted in a cache folder by the folders that the files lie in."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache / FOLDER

    def of(self, paths: Sequence[Path], digest: Callable[[Path], str]) -> list[str]:
        """What `digest` gives for each file: noted, or read now, several files at a time.

        Raises FileNotFoundError and UnreadableError as reading does.
        """
        identities = {path: _identity(path) for path in paths}
        notes = {parent: self._noted(parent) for parent in {path.parent for path in paths}}
        hashes: dict[Path, str] = {}
        for path, identity in identities.items():
            noted = notes[path.parent].get(_name(path, digest))
            if noted is not None and noted[0] == identity:
                hashes[path] = noted[1]
        changed = [path for path in identities if path not in hashes]
        if changed:
            # Threads: hashing and reading let other threads run.
            with ThreadPoolExecutor(min(len(changed), len(os.sched_getaffinity(0)))) as pool:
                hashes |= zip(changed, pool.map(digest, changed))
        for parent in {path.parent for path in changed}:
            fresh = {
                _name(path, digest): [identities[path], hashes[path]]
                for path in changed
                if path.parent == parent and _is_settled(path, identities[path])
            }
            if fresh:
                self._note(parent, notes[parent] | fresh)
        return [hashes[path] for path in paths]

    def _path(self, parent: Path) -> Path:
        return self.folder / f"{hash_json(str(parent.resolve()))[:24]}.json"

    def _noted(self, parent: Path) -> dict[str, Any]:
        path = self._path(parent)
        if not path.exists():
            return {}
        try:
            noted = read_json(path)
        except UserError:  # damaged: what it said is read again
            return {}
        return noted if isinstance(noted, dict) else {}

    def _note(self, parent: Path, notes: dict[str, Any]) -> None:
        with suppress(OSError):  # a cache that is only read
            self.folder.mkdir(parents=True, exist_ok=True)
            # Two processes may note at the same time: what one of them loses is read again.
            write_json(self._path(parent), notes)


def _name(path: Path, digest: Callable[[Path], str]) -> str:
    return f"{digest.__name__} {path.name}"


def _identity(path: Path) -> list[int]:
    """What tells a file from an earlier one of its name: size, inode, times in nanoseconds."""
    with reading(path):
        status = path.stat()
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _is_settled(path: Path, identity: list[int]) -> bool:
    """Whether a file is worth a note and did not change while it was read, nor just before."""
    size, _, *times = identity
    with suppress(OSError):
        return size >= SMALL and max(times) < (time.time() - SETTLED_SECONDS) * 1e9 and _identity(path) == identity
    return False
