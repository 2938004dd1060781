"""Token rows on disk, memory-mapped: tokenised once, found again by the hash of everything they depend on.

A cache is a folder of .npy files and a manifest written last. The files grow while the rows are built, so that building
takes no more memory for more data; loading reads their headers and nothing else. Of several processes that want the
same rows, on any node, one makes them while the others wait (a lease, stilts_ds/locks.py). Should two build at the same
time after all, they do not disturb each other: each fills a folder of its own and the first rename wins.

A damaged folder is renamed, never removed: a process that has its files mapped would be killed by the next page that it
reads.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.data.known_hashes import KnownHashes
from stilts_ds.errors import SHARE_WITH_GROUP, UnreadableError, UserError
from stilts_ds.locks import lease
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import await_visible, checksum, fresh_folder, hash_json, read_sealed, reading, write_sealed

log = logging.getLogger(__name__)
FORMAT = 4  # raise when encoding or the layout changes
FILES = (*Rows.ARRAYS, "touched")


def cached_rows(
    folder: Path, key: dict[str, Any], build: Callable[[Path], Rows], verify: bool = False, waits: bool = True
) -> Rows:
    """Rows for `key`: mapped from `folder` where they are whole, built and written otherwise.

    `build` gets a folder that its arrays may grow in, as `<array>.npy`. `verify` compares arrays with their hashes if
    they changed since that was done last; once in a start is enough. Raises UnreadableError where reading fails (the
    rows stay as they are), UserError where the cache cannot be written and, if not `waits`, HeldElsewhereError where
    another process makes the same rows.
    """
    target = folder / cache_name(key)
    if verify and target.exists() and not _is_as_written(target):
        _set_aside(target)
    if (mapped := _load(target)) is not None:
        return mapped
    with ExitStack() as until_built:
        if until_built.enter_context(_lease(target, waits)):
            return _build(target, key, build)
    # Another process has built them.
    return cached_rows(folder, key, build, waits=waits)


@contextmanager
def _lease(target: Path, waits: bool) -> Iterator[bool]:
    """The lease of the rows in `target`; yields whether they are still to be made."""
    with ExitStack() as until_built:
        with _adding_to(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
            held = lease(target.with_suffix(".lease"), lambda: _load(target) is not None, waits)
            is_left = until_built.enter_context(held)
        yield is_left


def _build(target: Path, key: dict[str, Any], build: Callable[[Path], Rows]) -> Rows:
    # Beside the target, so that the rename stays inside one file system.
    temporary = _fresh(target)
    try:
        rows = build(temporary)
        _finish(temporary, rows, key)
        log.info("rows %s are made", target.name)
        if _load(target) is None:  # otherwise another process was first
            _set_aside(target)
            _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    mapped = _load(target)
    return rows if mapped is None else mapped  # None: another process is replacing the same damaged folder


def shared_rows(target: Path) -> Rows:
    """Rows that another process has cached in the folder `target`. Raises UserError where they are not here."""
    # A network file system may take its time to show a folder on another node.
    await_visible(target)
    rows = _load(target)
    if rows is None:
        raise UserError(
            f"{target} on {socket.gethostname()} is missing or damaged, though this start has cached its rows; "
            "put data.cache on a disk that keeps them while a run goes on"
        )
    return rows


def find_rows(folder: Path, key: dict[str, Any]) -> Rows | None:
    """Rows for `key`, mapped from `folder`; None where they are not cached. Raises UnreadableError as `cached_rows`."""
    return _load(folder / cache_name(key))


def cache_name(key: dict[str, Any]) -> str:
    """Name of the folder in the cache that holds the rows for `key`."""
    # 24 hex digits are 96 bits: enough that two keys do not meet, and short enough for a name.
    return hash_json({**key, "format": FORMAT})[:24]


def _fresh(path: Path) -> Path:
    """A new folder beside `path`. Raises UserError where the cache takes none."""
    with _adding_to(path.parent):
        return fresh_folder(path)


@contextmanager
def _adding_to(cache: Path) -> Iterator[None]:
    """Raises UserError where the cache takes no new file, as another user's may."""
    try:
        yield
    except PermissionError as error:
        remedy = f"{SHARE_WITH_GROUP}, or set another data.cache"
        raise UserError(f"rows cannot be added to the cache {cache} ({error.strerror}); {remedy}") from error


def _finish(temporary: Path, rows: Rows, key: dict[str, Any]) -> None:
    """Write the arrays that `build` kept in memory, then the manifest."""
    sizes, hashes = {}, {}
    for name in FILES:
        path = temporary / f"{name}.npy"
        if (array := getattr(rows, name)) is None:
            continue
        if not path.exists():
            np.save(path, array)
        sizes[name], hashes[name] = path.stat().st_size, checksum(path)
    # The key itself as well, of which the folder's name is a hash: so a person can see what rows these are.
    described = {"key": key, "sizes": sizes, "hashes": hashes, "tally": dict(rows.tally)}
    write_sealed(temporary / "manifest.json", described)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process's folder came in between
            raise


def _set_aside(target: Path) -> None:
    """Rename a damaged folder, if there is one; the processes that have its files mapped keep them."""
    if not target.exists():
        return
    aside = _fresh(target.with_name(f"{target.name}.damaged"))
    try:
        os.rename(target, aside)  # over an empty folder
    except FileNotFoundError:  # another process did the same
        aside.rmdir()
    else:
        log.warning(
            "rows in %s are damaged and made again; the old ones are now %s, which may be removed when no run "
            "uses this cache",
            target,
            aside,
        )


def _is_as_written(target: Path) -> bool:
    try:
        hashes = read_sealed(target / "manifest.json")["hashes"]
        paths = [target / f"{name}.npy" for name in hashes]
        return KnownHashes(target.parent).of(paths, checksum) == list(hashes.values())
    except UnreadableError:
        raise  # a disk that does not answer is no damage: the rows may be whole
    except (FileNotFoundError, UserError, KeyError):
        return False


def _load(target: Path) -> Rows | None:
    """Map the rows, or None where the folder is missing or damaged."""
    try:
        described = read_sealed(target / "manifest.json")
        arrays = {name: _map(target / f"{name}.npy", size) for name, size in described["sizes"].items()}
    except UnreadableError:
        raise
    except (FileNotFoundError, UserError, ValueError, KeyError):
        return None
    return Rows(**arrays, tally=Counter(described["tally"]))


def _map(path: Path, size: int) -> np.ndarray:
    """The array in a file of `size` bytes. Raises ValueError where it has another size or is no array."""
    with reading(path):
        if path.stat().st_size != size:
            raise ValueError(f"{path} has not the size that was written")
        return np.load(path, mmap_mode="r")
