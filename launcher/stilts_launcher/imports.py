"""Importing torch, transformers and DeepSpeed in about half of the time."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import large libraries inside, without looking for garbage meanwhile.

    They make a million objects that live as long as the process. The collector would go through them again and again
    while they are made, which takes about as long as making them; it never looks at them afterwards, either.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        # Out of the collector's sight; this also leaves their memory shared with processes that are forked.
        gc.freeze()
        if enabled:
            gc.enable()
