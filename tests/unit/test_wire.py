"""What ranks exchange: every value comes back as it was, and nothing else is taken or believed."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from stilts_ds.engine.wire import from_bytes, to_bytes


@pytest.mark.parametrize("value", [
    None, True, 0, -1, 2**62, 1.5, "", "é\n\x00", [], (), {}, ("done", True), [(1, "a"), (None, 2.5)],
    {1: "a", "1": "b", (2, 3): [4]}, {"array": 1}, {"tuple": [1]}, [[[1], ()], {"x": {"y": None}}],
])  # fmt: skip
def test_plain_values_come_back_with_their_types(value: Any) -> None:
    found = from_bytes(to_bytes(value))
    assert found == value and type(found) is type(value) and repr(found) == repr(value)


@pytest.mark.parametrize("array", [
    np.arange(6, dtype=np.int64).reshape(2, 3), np.array(2.5, np.float32), np.zeros((0, 4), np.float16),
    np.array([np.nan, -0.0, np.inf]), np.arange(12).reshape(3, 4).T[::2], np.array([True, False]),
    np.array([1, 2], ">i2"),
])  # fmt: skip
def test_arrays_come_back_to_the_bit(array: np.ndarray) -> None:
    found = from_bytes(to_bytes({7: (array, [np.asarray(array)])}))
    assert found[7][0].dtype == array.dtype and found[7][0].shape == array.shape
    assert found[7][0].tobytes() == array.tobytes() and found[7][0].flags.writeable
    assert found[7][1][0].shape == array.shape


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", np.array(["text"]), np.array([object()]), [print]])
def test_anything_else_is_not_sent(value: Any) -> None:
    with pytest.raises(TypeError, match="ranks exchange plain values"):
        to_bytes(value)


def said(head: bytes, rest: bytes = b"") -> bytes:
    return len(head).to_bytes(8, "little") + head + rest


@pytest.mark.parametrize("message", [
    b"", b"\x00", pickle.dumps({"a": 1}), said(b"[1"), said(b"1", b"more"), said(b'{"array": ["O", [1]]}', bytes(8)),
    said(b'{"array": ["<i8", [2]]}', bytes(8)), said(b'{"array": ["<i8", [-1]]}', bytes(8)), said(b'{"a": 1, "b": 2}'),
    said(b'{"array": 1}'), said(b'{"dict": [1]}'), said(b'{"dict": [[[1], 2]]}'), said(b"\xff"), b"\xff" * 9,
    said(b"[" * 100_000),
])  # fmt: skip
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError):
        from_bytes(message)
