"""`join_ranks.py TOKEN`: find this process's place, join the others and sum rank + 1 over them."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from stilts_launcher.discover import discover

from stilts_ds.engine.world import joined
from stilts_ds.errors import UserError


def main() -> int:
    place = discover(os.environ)
    if place is None:
        print("alone")
        return 0
    os.environ.update(place.variables())
    try:
        with joined(sys.argv[1], 60) as world:
            value = torch.tensor([float(world.rank + 1)])
            dist.all_reduce(value)
            print(f"rank {world.rank} of {world.size} by {place.starter}: sum {value.item():g}", flush=True)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
