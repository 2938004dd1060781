"""A rank that meets the others, takes part in a collective of each group, and prints how many files it has open."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from stilts_ds.engine.world import joined

with joined("test", 60) as world:
    dist.all_reduce(torch.ones(3))
    world.maximum([1], prompt=True)
    world.all_gather("met")
    print(f"OPEN {len(os.listdir('/proc/self/fd')) - 1}", flush=True)  # less that of the listing itself
    world.barrier()
