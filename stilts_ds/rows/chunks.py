"""Records in chunks: what is tokenised at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

CHUNK = 2048  # records: enough to use all cores, small enough for memory


def chunks(records: Iterable[Any]) -> Iterator[tuple[int, list[Any]]]:
    """The records in lists of CHUNK, each with the number of its first record."""
    stream, index = iter(records), 0
    while chunk := list(islice(stream, CHUNK)):
        yield index, chunk
        index += len(chunk)
