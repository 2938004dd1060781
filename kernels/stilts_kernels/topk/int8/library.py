"""The built extension `screen.cpp`: found, checked and called through ctypes.

It is optional: `setup.py` builds it where a C++ compiler is. Without it, or where it was built from other sources,
every search takes the float32 or bfloat16 screen of torch, and the log says so once.

    STILTS_KERNELS_ISA=avx2        at most these instructions: none, portable, avx2, avx-vnni, avx512-vnni or amx
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from stilts_kernels.common.report import log

FOLDER = Path(__file__).resolve().parent
FILE = "_screen.abi3.so"  # as setup.py has it built: for any Python 3
SOURCES = ("screen.cpp", "screen.h", "tiles.h", "rows.h", "search.h")
NAMES = {
    1: "portable",
    2: "avx2",
    3: "avx-vnni",
    4: "avx512-vnni",
    5: "amx",
}  # numbers of `Isa` in screen.cpp
PORTABLE, AVX2, AVX_VNNI, AVX512_VNNI = 1, 2, 3, 4
SETTING = "STILTS_KERNELS_ISA"
BUILD = "python setup.py build_ext --inplace"

Pointer, Long, Int, Float = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float


# The fields of these six are those of the structs in screen.h, in their order: ctypes checks nothing.
class Bank(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("bytes", "scale", "norm", "error", "shift", "length", "values", "factor")),
        ("first", Long),
        ("stride", Long),
        ("other_norm", Float),
    ]


class Queries(ctypes.Structure):
    _fields_ = [
        *(
            (name, Pointer)
            for name in ("bytes", "sums", "lanes", "scale", "norm", "error", "level", "length", "values")
        ),
        ("panels", Long),
        ("count", Long),
    ]


class TopRows(ctypes.Structure):
    _fields_ = [("top", Pointer), ("floor", Pointer), ("k", Int), ("cap", Int)]


class Quantised(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("rows", "centre", "other", "signs")),
        *((name, Long) for name in ("count", "stride", "first")),
        *((name, Int) for name in ("dim", "wide", "query")),
        ("most_rms", Float),
        ("capped", Int),
        *((name, Pointer) for name in ("bytes", "sums", "lanes", "scale", "norm", "error", "shift", "length")),
    ]


class Exact(ctypes.Structure):
    _fields_ = [
        ("left", Pointer),
        ("right", Pointer),
        ("left_stride", Long),
        ("right_stride", Long),
        ("left_row", Pointer),
        ("right_row", Pointer),
        ("count", Long),
        ("dim", Long),
        ("out", Pointer),
    ]


class Ranking(ctypes.Structure):
    _fields_ = [
        ("row", Pointer),
        ("column", Pointer),
        ("score", Pointer),
        ("count", Long),
        ("rows", Long),
        ("k", Long),
        ("values", Pointer),
        ("indices", Pointer),
    ]


def source_hash(folder: Path = FOLDER) -> str:
    """Names the sources in `folder`; "" where they are not all there, as in an installation without them."""
    digest = hashlib.sha256()
    for name in SOURCES:
        path = folder / name
        if not path.is_file():
            return ""
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def built_file() -> Path | None:
    """The extension beside this file, or None."""
    path = FOLDER / FILE
    return path if path.is_file() else None


def problem() -> str:
    """Why there is no int8 screen here, with the remedy; "" where there is one."""
    if limit() == 0:
        return f"{SETTING} is none"
    return opened()[1]


@lru_cache
def opened() -> tuple[ctypes.CDLL | None, str]:
    """(the extension or None, what is wrong with it)."""
    path = built_file()
    if path is None:
        return None, f"the extension is not built: {BUILD}, with a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"{path} cannot be loaded ({error}): build it again with {BUILD}"
    library.screen_sources.restype = ctypes.c_char_p
    # An installation has no sources to hash; it was built from those that it was packed with.
    if library.screen_sources().decode() not in (source_hash() or library.screen_sources().decode()):
        return None, f"{path} was built from other sources: build it again with {BUILD}"
    # ctypes takes every result for an int of 32 bits, which would cut a pointer in half.
    library.screen_new.restype = Pointer
    for name in ("screen_finish", "screen_scored"):
        getattr(library, name).restype = Long
    for name in ("screen_finish", "screen_scored", "screen_free"):
        getattr(library, name).argtypes = [Pointer]
    library.screen_hits.argtypes = [Pointer, Pointer]
    return library, ""


def loaded() -> ctypes.CDLL:
    """The extension; only where `instruction_sets` is not empty."""
    library, wrong = opened()
    assert library is not None, wrong
    return library


def limit() -> int:
    """The number of the newest instruction set that may be taken. Raises ValueError for an unknown one."""
    name = os.environ.get(SETTING, "")
    if name == "none":
        return 0
    numbers = {known: number for number, known in NAMES.items()}
    if name and name not in numbers:
        raise ValueError(f"{SETTING}={name} is not one of none, {', '.join(numbers)}")
    # Without the setting, the newest that there is.
    return numbers.get(name, max(NAMES))


def instruction_sets() -> list[int]:
    """Numbers of the instruction sets that this build, this processor and the setting allow; newest last."""
    if problem():
        say_once(problem())
        return []
    # A bit for each set, from the processor's own answer: one that the operating system does not save is not in it.
    return [number for number in NAMES if loaded().instruction_sets() >> number & 1 and number <= limit()]


@lru_cache
def say_once(text: str) -> None:
    log.info("no int8 screen: %s", text)


def describe() -> str:
    """One line for `stilts doctor`."""
    sets = instruction_sets()
    if not sets:
        return f"searches take torch's screens: {problem()}"
    return f"int8 screen with {NAMES[sets[-1]]}"


def address(tensor: Tensor | None, offset: int = 0) -> int | None:
    """Where a contiguous tensor's element `offset` lies. The caller keeps the tensor alive until the call returns."""
    if tensor is None:
        return None
    # None becomes a null pointer, which the extension reads as "not wanted".
    return tensor.data_ptr() + offset * tensor.element_size()
