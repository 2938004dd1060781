"""`stilts` with ranks of which number 1 sleeps for ever while it makes its tenth batch, as on a disk that hangs.

sleeping_rank.py FOLDER ARGUMENTS... (helpers/forked.py); the ranks are forked from this process.
"""

from __future__ import annotations

import itertools
import os
import runpy
import time
from pathlib import Path
from typing import Any

from stilts_ds.batches.collate import Collator

whole_batch, batches = Collator.__call__, itertools.count(1)


def sleeping_batch(*arguments: Any, **named: Any) -> Any:
    while os.environ["RANK"] == "1" and next(batches) >= 10:
        time.sleep(1)
    return whole_batch(*arguments, **named)


Collator.__call__ = sleeping_batch  # type: ignore[method-assign]
runpy.run_path(str(Path(__file__).with_name("warm_stilts.py")))
