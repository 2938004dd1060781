"""Files of sentence vectors (.npy), and the note beside each that says what they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from stilts_kernels.common.npy import open_npy
from stilts_kernels.common.rows import check_lengths, check_norms, lengths_of
from torch import Tensor

from stilts_ds.errors import UserError, counted
from stilts_ds.rows.writer import npy_header
from stilts_ds.run_dir import checksum, read_sealed

STORED: dict[str, np.dtype[Any]] = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}
BLOCK = 1 << 16  # rows looked at in one go


def note_of(path: Path) -> Path:
    """`vectors.npy.json`: texts, model and settings, and the checksum of the vectors."""
    return path.with_name(f"{path.name}.json")


def open_vectors(path: Path) -> Tensor:
    """The vectors of a file, [N, H] float32 or float16, memory-mapped. Raises UserError where they are none."""
    try:
        vectors, _ = open_npy(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); check the path and its permissions") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if not vectors.numel():
        raise UserError(f"{path}: holds no vectors (shape {tuple(vectors.shape)}); give a side with at least one")
    return vectors


def check_rows(vectors: Tensor, path: Path, first: int, stop: int, unit: bool) -> None:
    """Raise UserError naming the first of the rows first..stop (counted from 0) that no search takes: it holds NaN or
    infinity or is too long or, where rows are scaled to `unit` length, is zero or too short for that."""
    check = check_lengths if unit else check_norms
    for start in range(first, stop, BLOCK):
        try:
            # By the search's own bounds: it would refuse the row, too, but knows neither the file nor the whole.
            check(lengths_of(vectors[start : min(stop, start + BLOCK)].float()), str(path), start)
        except ValueError as error:
            raise UserError(f"{error} (rows count from 0); make that vector again, or leave out its sentence") from None


def check_note(path: Path, digest: str, text_digest: str | None, texts: Path | None) -> None:
    """Compare a file of vectors, whose checksum is `digest`, with its note, where it has one. Raises UserError where
    the vectors changed since, or where they are those of other texts than `texts`."""
    # Vectors from elsewhere have no note and are taken as they are.
    if not note_of(path).exists():
        return
    note = read_sealed(note_of(path))
    if note.get("checksum") != digest:
        raise UserError(f"{path} changed since `stilts embed` wrote it; make it again, or delete {note_of(path)}")
    if text_digest is not None and note.get("texts") != text_digest:
        raise UserError(
            f"{path} holds the vectors of other texts than {texts} has now; make them again, or delete {note_of(path)}"
        )


def vectors_of_texts(path: Path, lines: int, texts: Path) -> None:
    """Raise UserError where a file has not one vector for each line of `texts`."""
    rows = len(open_vectors(path))
    if rows != lines:
        raise UserError(
            f"{path} has {counted(rows, 'vector')} and {texts} {counted(lines, 'line')}; "
            "give the vectors of these texts"
        )


def make_empty(path: Path, rows: int, width: int, stored: str) -> None:
    """A file with room for vectors [rows, width], which ranks fill."""
    dtype = STORED[stored]
    header = npy_header(dtype, (rows, width))
    with open(path, "wb") as file:
        file.write(header)
        # A hole, not zeros: no disk is written before the rows are there.
        file.truncate(len(header) + rows * width * dtype.itemsize)


def vectors_digest(path: Path) -> str:
    """XXH3-128 of the file, which tells whether it changed."""
    return checksum(path)


def note_content(texts: str, lines: int, digest: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"texts": texts, "lines": lines, "checksum": digest, "settings": settings}
