"""Results of a part of a search in a file: written whole or not at all, read back only where its key fits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.common.npy import raw_bytes


def load_part(path: Path, key: str) -> dict[str, Any] | None:
    """A finished part, or None when there is none for this key."""
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        whole = content["sum"] == part_sum(content)
    except MemoryError:  # the machine's fault, not the file's: searching again would need no less
        raise
    except Exception:  # torn, damaged, or pickled code, which is refused: it is searched again
        return None
    return content if whole and content["key"] == key else None


def save_part(path: Path, content: dict[str, Any]) -> None:
    """Writes a part whole or not at all. Raises OSError where it cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # With the process's number: two starts of one search do not write into the same draft.
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        # Through Python's file: torch's own says of a full disk only at which byte its archive broke off.
        with open(draft, "wb") as file:
            torch.save({**content, "sum": part_sum(content)}, file)
    except RuntimeError as error:
        draft.unlink()
        if not isinstance(error.__context__, OSError):
            raise
        raise OSError(error.__context__.errno, error.__context__.strerror, str(draft)) from error
    os.replace(draft, path)


def part_sum(content: dict[str, Any]) -> str:
    """Hash of a part's tensors in the order of their names, which tells a damaged file."""
    tensors = [content[name] for name in sorted(content) if isinstance(content[name], Tensor)]
    return "".join(content_hash(tensor) for tensor in tensors)


def content_hash(rows: Tensor, release: Callable[[], None] = lambda: None, step: int = 1 << 14) -> str:
    """SHA-256 of shape, dtype and content, read in blocks."""
    digest = hashlib.sha256(f"{tuple(rows.shape)} {rows.dtype}".encode())
    for start in range(0, len(rows), step):
        # Hashed a block at a time: a mapped file may be larger than memory.
        block = rows[start : start + step].contiguous()
        digest.update(raw_bytes(block))
        release()
    return digest.hexdigest()
