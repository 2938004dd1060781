"""Progress of a long search: a callback, and a bar that rank 0 can pass as one."""

from __future__ import annotations

import sys
from collections.abc import Callable

Progress = Callable[[int, int], None]  # (done, total)


def report_progress(progress: Progress | None, done: int, total: int) -> int:
    """Calls progress(done, total) where one is given; returns done."""
    if progress is not None:
        progress(done, total)
    return done


def bar(done: int, total: int, width: int = 40) -> None:
    """A progress bar on standard error, for rank 0 to pass as `progress`."""
    filled = width * done // total
    print(
        f"\r[{'#' * filled}{'.' * (width - filled)}] {done}/{total}",
        end="\n" if done == total else "",
        file=sys.stderr,
        flush=True,
    )
