"""Token rows on disk, memory-mapped: tokenised once, found again by the hash of everything they depend on.

A cache is a folder of .npy files and a manifest written last. Two processes that build the same one at the same time
do not disturb each other: each fills a folder of its own and the first rename wins.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from stilts_ds.batches.rows import Rows
from stilts_ds.errors import UserError
from stilts_ds.run_dir import hash_file, hash_json, read_sealed, write_sealed

FORMAT = 3  # raise when encoding or the layout changes


def cached_rows(folder: Path, key: dict[str, Any], build: Callable[[], Rows], verify: bool = False) -> Rows:
    """Rows for `key`: mapped from `folder` where they are whole, built and written otherwise. `verify` reads them all
    and compares their hashes, which once in a start is enough."""
    target = _place(folder, key)
    if verify and target.exists() and not _is_as_written(target):
        shutil.rmtree(target, ignore_errors=True)
    if (mapped := _load(target)) is not None:
        return mapped
    rows = build()
    _write(target, rows, key)
    mapped = _load(target)
    return rows if mapped is None else mapped  # None: another process is replacing the same damaged folder


def find_rows(folder: Path, key: dict[str, Any]) -> Rows | None:
    """Rows for `key`, mapped from `folder`; None where they are not cached."""
    return _load(_place(folder, key))


def _place(folder: Path, key: dict[str, Any]) -> Path:
    return folder / hash_json({**key, "format": FORMAT})[:24]


def _write(target: Path, rows: Rows, key: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        arrays = {name: array for name in Rows.ARRAYS if (array := getattr(rows, name)) is not None}
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        sizes = {name: os.path.getsize(temporary / f"{name}.npy") for name in arrays}
        hashes = {name: hash_file(temporary / f"{name}.npy") for name in sizes}
        described = {"key": key, "sizes": sizes, "hashes": hashes, "tally": dict(rows.tally)}
        write_sealed(temporary / "manifest.json", described)
        if _load(target) is None:  # otherwise another process was first, and may have mapped its folder already
            shutil.rmtree(target, ignore_errors=True)
            _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process's folder came in between
            raise


def _is_as_written(target: Path) -> bool:
    try:
        hashes = read_sealed(target / "manifest.json")["hashes"]
        return all(hash_file(target / f"{name}.npy") == digest for name, digest in hashes.items())
    except (OSError, UserError, KeyError):
        return False


def _load(target: Path) -> Rows | None:
    """Map the rows, or None where the folder is missing or damaged."""
    try:
        described = read_sealed(target / "manifest.json")
        for name, size in described["sizes"].items():
            if (target / f"{name}.npy").stat().st_size != size:
                return None
        arrays = {name: np.load(target / f"{name}.npy", mmap_mode="r") for name in described["sizes"]}
    except (OSError, UserError, ValueError, KeyError):
        return None
    return Rows(**arrays, tally=Counter(described["tally"]))
