"""What a phase costs, over all its starts: time and, where GPUs count it, energy."""

from __future__ import annotations

import time
from typing import Any

from stilts_ds.engine.energy import energy_counter
from stilts_ds.engine.world import World
from stilts_ds.phase_status import PhaseStatus


class Cost:
    """What a phase has cost over all its starts that ended by themselves or were stopped: seconds of wall time, and
    joules of all GPUs if every start and rank could read them."""

    def __init__(self, before: PhaseStatus, world: World) -> None:
        self.world, self.started = world, time.time()
        self.seconds = before.seconds or 0.0
        # A start that was killed or failed has left no reading of what it used: from then on the sum is not known.
        ended_well = before.state.startswith(("stopped:", "done"))
        self.joules = before.joules if ended_well else None
        if before.pending:
            self.joules = 0.0
        self.counter = energy_counter(world.device)
        self.counted = self.counter()

    def of_this_rank(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds + time.time() - self.started, 1), "world_size": self.world.size}

    def so_far(self) -> dict[str, Any]:
        """For the status file, on rank 0 (a collective)."""
        now = self.counter()
        used = self.world.gather(None if now is None or self.counted is None else now - self.counted)
        known = self.joules is not None and None not in used
        return {**self.of_this_rank(), **({"joules": round(self.joules + sum(used), 1)} if known else {})}
