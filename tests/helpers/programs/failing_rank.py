"""`stilts`, but for an exception in the middle of training, as a fault in one rank's software would raise it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stilts_launcher.cli import main

from stilts_ds.engine import loop

whole_step = loop.Trainer.take_step


def failing_step(self: loop.Trainer, progress: Any) -> None:
    if progress.step == 10:
        Path("failed-at").touch()
        raise ValueError("a fault on this rank")
    whole_step(self, progress)


loop.Trainer.take_step = failing_step  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
