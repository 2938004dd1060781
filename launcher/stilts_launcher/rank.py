"""One rank of a run, however it was started: `python -m stilts_launcher.rank RUN [PHASE ...] [--only train|evaluate]`,
or `RUN --prepare` for one that makes rows, which needs no other rank and neither torch nor DeepSpeed.

`stilts run` and the batch scripts start this program. Signals are caught before the heavy imports, so that a stop asked
for while Python still starts is not lost, and the starter's variables are turned into torchrun's.
"""

from __future__ import annotations

import os
import sys

from stilts_ds.engine.preempt import die_with, install_handlers
from stilts_launcher.backends.base import PREPARE
from stilts_launcher.imports import heavy_imports


def main(arguments: list[str]) -> int:
    if PREPARE in arguments:
        from stilts_launcher.prepare import main as prepare

        return prepare(arguments[0])
    install_handlers()
    if launcher := os.environ.get("STILTS_LAUNCHER"):
        die_with(int(launcher))
    from stilts_ds.errors import UserError
    from stilts_launcher.discover import discover
    from stilts_launcher.rank_place import RankPlace, free_port, usable_cores

    try:
        rank_place = discover(os.environ) or RankPlace(0, 0, 1, "127.0.0.1", free_port(), "alone")
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    os.environ.update(rank_place.variables())
    # Before torch is imported, which reads it. Cores that a rank is bound to alone are its own, others are shared.
    sharing = 1 if rank_place.bound else rank_place.on_node
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // sharing)))
    with heavy_imports():
        from stilts_ds.phases import main as run_phases

    return run_phases(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
