"""The `stilts` command with chunks and blocks so small that a few hundred sentences are many, each kept when it is
finished: `mining_command.py mine x.txt y.txt ...`."""

from __future__ import annotations

import sys

import torch
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.state import SearchState

from stilts_ds.evaluate import embedding

# Before the modules that take the numbers over are imported.
embedding.CHUNK = 32
Layout.target_rows = 25  # type: ignore[assignment, method-assign]
SearchState.__init__.__defaults__ = (0.0,)  # type: ignore[misc]

from stilts_launcher.cli import main  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
