"""What crosses between a program and its tests: plain values as JSON, and frames of bytes over a pipe.

The decoder builds exact built-in types from text and nothing else, so whatever a hostile program writes arrives as a
plain value or not at all: no object with an `__eq__` of its own, no code, no pickles.
"""

from __future__ import annotations

import collections
import json
import os
import re
import struct
import sys
import types
from typing import Any

MAX_MESSAGE = 4 << 20  # bytes of one call or one answer
# Well below Python's own limit of recursion.
MAX_DEPTH = 60
MAX_ITEMS = 200_000  # of an iterator, which may have no end


class WireError(Exception):
    """A value that is not plain, or bytes that are no message."""


class Matched:
    """What stands for a match of a regular expression: true, and equal to nothing but itself."""


def _iterators() -> tuple[type, ...]:
    return (types.GeneratorType, map, filter, zip, enumerate, reversed, type(iter([])), type(iter(())), type(iter("")))


ITERATORS = _iterators()
# Tests compare all of them with a dict, so a dict is what arrives.
DICTIONARIES = (dict, collections.OrderedDict, collections.defaultdict, collections.Counter)


def encode(value: Any, depth: int = 0) -> Any:
    """The value as JSON can say it. Lists and scalars stand for themselves, all else is {"kind": content}.

    Raises WireError for a type that is not plain: a subclass of int may compare as it likes.
    """
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if depth > MAX_DEPTH:
        raise WireError("value nested too deep")
    if kind is list or kind is collections.deque:
        return [encode(item, depth + 1) for item in value]
    if kind in (tuple, set, frozenset):
        return {kind.__name__: [encode(item, depth + 1) for item in value]}
    if kind in DICTIONARIES:
        pairs = list(value.items())
        return {"dict": [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in pairs]}
    return _encode_rare(value, kind, depth)


def _encode_rare(value: Any, kind: type, depth: int) -> Any:
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind in (re.Match, Matched):
        return {"match": []}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind in (type({}.keys()), type({}.values()), type({}.items())):
        return {kind.__name__: [encode(item, depth + 1) for item in value]}
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        # A named tuple compares as its tuple does; its class lives in the program's process alone.
        return {"tuple": [encode(item, depth + 1) for item in tuple(value)]}
    # Drawn to its end here, under the program's own limits of time and memory.
    if kind in ITERATORS or kind.__module__ == "itertools":
        items = []
        for item in value:
            items.append(encode(item, depth + 1))
            if len(items) > MAX_ITEMS:
                raise WireError("iterator without an end")
        return {"iterator": items}
    raise WireError(f"value of type {kind.__name__}")


def decode(value: Any, depth: int = 0) -> Any:
    """The plain value of what `encode` made. Raises WireError for anything else."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if depth > MAX_DEPTH:
        raise WireError("value nested too deep")
    if type(value) is list:
        return [decode(item, depth + 1) for item in value]
    if type(value) is not dict or len(value) != 1:
        raise WireError("not a value")
    [(kind, content)] = value.items()
    if kind in ("bytes", "bytearray") and type(content) is str:
        raw = bytes.fromhex(content)
        return raw if kind == "bytes" else bytearray(raw)
    if kind not in _BUILDERS or type(content) is not list:
        raise WireError("not a value")
    # Items first, then the container, so that a set of hostile items is made of plain ones.
    items = [decode(item, depth + 1) for item in content]
    try:
        return _BUILDERS[kind](items)
    except (TypeError, ValueError) as problem:
        raise WireError(str(problem)) from None


_BUILDERS: dict[str, Any] = {
    "match": lambda items: Matched(),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": dict,
    "complex": lambda items: complex(*items),
    "range": lambda items: range(*items),
    "iterator": iter,
    "dict_keys": lambda items: dict.fromkeys(items).keys(),
    "dict_values": lambda items: dict(enumerate(items)).values(),
    "dict_items": lambda items: dict(items).items(),
}


def dump(value: Any) -> bytes:
    """JSON in ASCII: lone surrogates travel as escapes."""
    _lift_digit_limit()
    return json.dumps(value).encode("ascii")


def load(raw: bytes) -> Any:
    """JSON from a process that is not trusted. Raises WireError."""
    _lift_digit_limit()
    try:
        return json.loads(raw)
    except (ValueError, RecursionError, MemoryError) as problem:
        raise WireError(f"not a message: {problem}") from None


def _lift_digit_limit() -> None:
    """Honest programs return integers of many digits; how long a conversion takes is bounded by the CPU limit."""
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)


def read_exactly(descriptor: int, size: int) -> bytes:
    """`size` bytes. Raises EOFError where the other side ended first."""
    parts = []
    while size:
        # A pipe holds less than a message: it arrives in pieces.
        chunk = os.read(descriptor, min(size, 1 << 20))
        if not chunk:
            raise EOFError("the other side ended")
        parts.append(chunk)
        size -= len(chunk)
    return b"".join(parts)


def read_frame(descriptor: int, limit: int = MAX_MESSAGE) -> bytes:
    """One frame: four bytes of length, then that many bytes. Raises EOFError, or WireError above the limit."""
    (size,) = struct.unpack("<I", read_exactly(descriptor, 4))
    if size > limit:
        raise WireError("message too long")
    return read_exactly(descriptor, size)


def write_frame(descriptor: int, content: bytes) -> None:
    """The frame, wholly written."""
    left = struct.pack("<I", len(content)) + content
    while left:
        left = left[os.write(descriptor, left) :]
