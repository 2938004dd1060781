#!/usr/bin/env python
"""Stands in for the Python of a job: `-m MODULE ... RUN PHASE`. Says what job it is in and ends as it is told.

`RUN/tell/PHASE` holds the exit status, or `requeue`. $STUB_LAUNCHER names the launcher's module and class.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path

# The launcher under test may be a helper beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main() -> int:
    if sys.argv[2] == "stilts_launcher.cli":  # the report's job
        print("report")
        return 0
    module, name = os.environ["STUB_LAUNCHER"].split(":")
    launcher = getattr(importlib.import_module(module), name)()
    run, phase = Path(sys.argv[-2]), sys.argv[-1]
    job = launcher.current_job(os.environ)
    left = launcher.seconds_left(job.id)
    limit = "no limit" if left is None else "a limit" if 0 < left <= 30 * 60 else f"a limit of {left}"
    print(f"{phase} in job {job.id}, restarts {job.restarts}, {limit}", flush=True)
    order = run / "tell" / phase
    while not order.exists():
        time.sleep(0.05)
    told = order.read_text()
    if told == "requeue":
        order.unlink()
        launcher.requeue(job.id)
        return 85
    return int(told)


if __name__ == "__main__":
    sys.exit(main())
