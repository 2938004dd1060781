"""Words of messages: counts agree with their nouns."""

from __future__ import annotations

import pytest

from stilts_ds.errors import counted


@pytest.mark.parametrize(
    "number, nouns, shown",
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (2, ("file",), "2 files"),
        (12_345, ("gold pair",), "12,345 gold pairs"),
        (1, ("thing is", "things are"), "1 thing is"),
        (3, ("thing is", "things are"), "3 things are"),
    ],
)
def test_a_count_agrees_with_its_noun(number: int, nouns: tuple[str, ...], shown: str) -> None:
    assert counted(number, *nouns) == shown
