"""`stilts` with ranks of which number 1 sleeps for ever while it makes its tenth batch, as on a disk that hangs."""

from __future__ import annotations

import itertools
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from stilts_launcher import cli, local, rank

from stilts_ds.batches.collate import Collator

whole_batch, batches = Collator.__call__, itertools.count(1)


def sleeping_batch(*arguments: Any, **named: Any) -> Any:
    while next(batches) >= 10:
        time.sleep(1)
    return whole_batch(*arguments, **named)


if "RANK" in os.environ:
    if os.environ["RANK"] == "1":
        Collator.__call__ = sleeping_batch  # type: ignore[method-assign]
    sys.exit(rank.main(sys.argv[1:]))
os.environ["PYTHONPATH"] += f":{Path(__file__).parent}"
local.start_ranks = partial(local.start_ranks, program=Path(__file__).stem)
sys.exit(cli.main(sys.argv[1:]))
