"""The `stilts` command with chunks and blocks so small that a few hundred sentences are many; each is kept when it is
finished, and rested after, so that a kill finds it there: `mining_command.py mine x.txt y.txt ...`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.state import SearchState

from stilts_ds.evaluate import embedding

REST = 0.1  # seconds after a chunk or a block
# Before the modules that take the number over are imported.
embedding.CHUNK = 32
Layout.target_rows = 25  # type: ignore[assignment, method-assign]
SearchState.__init__.__defaults__ = (0.0,)  # type: ignore[misc]

from stilts_launcher.cli import main  # noqa: E402


def resting(work: Callable[..., Any]) -> Callable[..., Any]:
    def work_and_rest(*arguments: Any) -> Any:
        done = work(*arguments)
        time.sleep(REST)
        return done

    return work_and_rest


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.pwrite = resting(os.pwrite)
    SearchState.save = resting(SearchState.save)  # type: ignore[method-assign]
    sys.exit(main(sys.argv[1:]))
