"""`build_cache.py FOLDER KEYS PROCESSES`: build rows for every key at the same moments as the other processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from row_builder import RowsBuilder

from stilts_ds.data.cache import cached_rows
from stilts_ds.rows.rows import Rows

STEP_SECONDS = 0.02


def build_once(folder: Path, number: int) -> Rows:
    """Rows, and a file for each time that they are made."""
    (folder / f"{number}-{os.getpid()}.built").touch()
    return build(number)


def build(number: int) -> Rows:
    out = RowsBuilder()
    for example in range(20):
        out.add_row([0, number, example, 2], 4, example)
        out.end_item()
    return out.rows()


def main() -> None:
    folder, keys, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    (folder / f"{time.monotonic_ns()}.ready").touch()
    while len(list(folder.glob("*.ready"))) < processes:
        time.sleep(0.001)
    for number in range(keys):
        time.sleep(STEP_SECONDS - time.time() % STEP_SECONDS)
        rows = cached_rows(folder, {"number": number}, lambda _, number=number: build_once(folder, number))
        assert np.array_equal(rows.input_ids, build(number).input_ids)
        assert len(rows) == 20


if __name__ == "__main__":
    main()
