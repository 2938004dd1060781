"""What ranks say to each other, as bytes: plain values and numpy arrays, and nothing that could run (no pickle).

A message is the length of its head (8 bytes, little endian), the head (JSON), and the bytes of the arrays one after the
other. What JSON does not have is written as an object with one key: `array` [dtype, shape], `tuple` [values], `dict`
[[key, value], ...].
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

KINDS = "biuf"  # of arrays: booleans and numbers


def to_bytes(value: Any) -> bytes:
    """The message that says `value`. Raises TypeError for what is neither plain (None, booleans, numbers, text), an
    array of numbers, nor a list, tuple or dict of such."""
    arrays: list[bytes] = []
    head = json.dumps(_encode(value, arrays)).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *arrays])


def from_bytes(message: bytes) -> Any:
    """The value that `message` says. Raises ValueError where it says none."""
    start = 8 + int.from_bytes(message[:8], "little")
    try:
        value, end = _decode(json.loads(message[8:start]), message, start)
    except (KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"a rank sent what is no message ({error})") from error
    if end != len(message):
        raise ValueError("a rank sent a message of another length than it says")
    return value


def _encode(value: Any, arrays: list[bytes]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in KINDS:
        arrays.append(np.ascontiguousarray(value).tobytes())
        return {"array": [value.dtype.str, list(value.shape)]}
    if isinstance(value, list):
        return [_encode(element, arrays) for element in value]
    if isinstance(value, tuple):
        return {"tuple": [_encode(element, arrays) for element in value]}
    if isinstance(value, dict):
        # Pairs, since JSON's own objects have texts as keys only.
        return {"dict": [[_encode(key, arrays), _encode(element, arrays)] for key, element in value.items()]}
    raise TypeError(f"ranks exchange plain values and arrays of numbers, not {type(value).__name__}")


def _decode(encoded: Any, message: bytes, at: int) -> tuple[Any, int]:
    """The value, and where the next array begins."""
    if isinstance(encoded, list):
        rebuilt = []
        for element in encoded:
            value, at = _decode(element, message, at)
            rebuilt.append(value)
        return rebuilt, at
    if not isinstance(encoded, dict):
        return encoded, at
    [(kind, content)] = encoded.items()
    if kind == "array":
        dtype, shape = np.dtype(content[0]), tuple(content[1])
        # An array of objects would be made of pointers that another process sent.
        if dtype.kind not in KINDS or not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("a rank sent an array that holds no numbers")
        # A copy: arrays over the message's bytes cannot be written to.
        array = np.frombuffer(message, dtype, int(np.prod(shape, dtype=np.int64)), at).reshape(shape).copy()
        return array, at + array.nbytes
    values, at = _decode(content, message, at)
    return (tuple(values) if kind == "tuple" else {key: value for key, value in values}), at
