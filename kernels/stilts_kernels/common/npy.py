"""Matrices in .npy files, memory-mapped without numpy."""

from __future__ import annotations

import ast
import ctypes
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NPY_DTYPES = {"<f4": torch.float32, "<f2": torch.float16}


def open_npy(path: str | Path) -> tuple[Tensor, Callable[[], None]]:
    """Memory-maps a C-ordered float32 or float16 .npy matrix: (tensor [N, D], release its pages).

    Format: numpy.lib.format, versions 1 to 3. Raises ValueError naming the file for anything else.
    """
    with open(path, "rb") as file:
        header, offset = read_npy_header(file.read(4096), path)  # refuses an empty file, which cannot be mapped
        # Copy on write: torch asks for memory that may be written, and the file must not change.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    shape, dtype = header.get("shape"), NPY_DTYPES.get(str(header.get("descr")))
    if dtype is None or shape is None or header.get("fortran_order") is not False or not is_matrix(shape):
        raise ValueError(
            f"{path}: needs a C-ordered [N, D] array of float32 or float16, got {header}; "
            "save numpy.ascontiguousarray(rows, 'float32') of rows [N, D]"
        )
    count = shape[0] * shape[1]
    missing = offset + count * dtype.itemsize - len(mapped)
    if missing > 0:
        raise ValueError(f"{path}: cut short: {len(mapped)} bytes for shape {shape} of {dtype}; write or copy it again")
    # Two files that were joined byte by byte: the rows of the second would be lost in silence.
    if missing < 0:
        raise ValueError(
            f"{path}: {-missing} bytes more than shape {shape} of {dtype} takes; join arrays with numpy.concatenate, "
            "or write the file again"
        )
    if count == 0:
        return torch.empty(shape, dtype=dtype, device="cpu"), lambda: None
    tensor = torch.frombuffer(mapped, dtype=dtype, count=count, offset=offset).view(shape)
    return tensor, lambda: mapped.madvise(mmap.MADV_DONTNEED)


def is_matrix(shape: Any) -> bool:
    """Whether the shape in a header is [N, D]."""
    if not isinstance(shape, tuple) or len(shape) != 2:
        return False
    # `type(...) is int`, since True is an int to isinstance.
    return all(type(size) is int and size >= 0 for size in shape)


def raw_bytes(rows: Tensor) -> ctypes.Array[ctypes.c_char]:
    """The memory of a contiguous, non-empty CPU tensor as a buffer; valid while the tensor lives."""
    return (ctypes.c_char * rows.nbytes).from_address(rows.data_ptr())


def read_npy_header(head: bytes, path: str | Path) -> tuple[dict, int]:
    """The header of a .npy file's first bytes and the offset of its data."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise ValueError(f"{path}: not a .npy file; numpy.save writes one")
    width, form = (2, "<H") if head[6] == 1 else (4, "<I")
    length = struct.unpack(form, head[8 : 8 + width])[0]
    offset = 8 + width + length
    try:
        header = ast.literal_eval(head[8 + width : offset].decode("latin-1"))
    # All that literal_eval raises for hostile text, nesting and size included.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: its header is damaged; write the file again")
    return header, offset
