"""Token rows on disk, memory-mapped: tokenised once, found again by the hash of everything they depend on.

A cache is a folder of .npy files and a manifest written last. The files grow while the rows are built, so that building
takes no more memory for more data; loading reads their headers and nothing else. Two processes that build the same one
at the same time do not disturb each other: each fills a folder of its own and the first rename wins.
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

from stilts_ds.errors import UserError
from stilts_ds.rows.rows import Rows
from stilts_ds.run_dir import checksum, hash_json, read_sealed, write_sealed

FORMAT = 4  # raise when encoding or the layout changes
FILES = (*Rows.ARRAYS, "touched")


def cached_rows(folder: Path, key: dict[str, Any], build: Callable[[Path], Rows], verify: bool = False) -> Rows:
    """Rows for `key`: mapped from `folder` where they are whole, built and written otherwise.

    `build` gets a folder that its arrays may grow in, as `<array>.npy`. `verify` reads them all and compares their
    hashes, which once in a start is enough.
    """
    target = _place(folder, key)
    if verify and target.exists() and not _is_as_written(target):
        shutil.rmtree(target, ignore_errors=True)
    if (mapped := _load(target)) is not None:
        return mapped
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=f".{target.name}."))
    try:
        rows = build(temporary)
        _finish(temporary, rows, key)
        if _load(target) is None:  # otherwise another process was first, and may have mapped its folder already
            shutil.rmtree(target, ignore_errors=True)
            _rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    mapped = _load(target)
    return rows if mapped is None else mapped  # None: another process is replacing the same damaged folder


def find_rows(folder: Path, key: dict[str, Any]) -> Rows | None:
    """Rows for `key`, mapped from `folder`; None where they are not cached."""
    return _load(_place(folder, key))


def _place(folder: Path, key: dict[str, Any]) -> Path:
    return folder / hash_json({**key, "format": FORMAT})[:24]


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
    described = {"key": key, "sizes": sizes, "hashes": hashes, "tally": dict(rows.tally)}
    write_sealed(temporary / "manifest.json", described)


def _rename(temporary: Path, target: Path) -> None:
    try:
        os.rename(temporary, target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process's folder came in between
            raise


def _is_as_written(target: Path) -> bool:
    try:
        hashes = read_sealed(target / "manifest.json")["hashes"]
        return all(checksum(target / f"{name}.npy") == digest for name, digest in hashes.items())
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
