"""A rank on a node with make-believe GPUs: it takes one as every rank does, and notes which. Arguments as those of
stilts_launcher.rank: RUN PHASE.

There is no GPU: torch is made to see those that Slurm shows in CUDA_VISIBLE_DEVICES, which is what it does with real
ones.
"""

import os
import sys
import time
from pathlib import Path

import torch
from stilts_launcher.discover import discover

from stilts_ds.engine import world
from stilts_ds.run_dir import RunDir, write_json

run, phase = RunDir(Path(sys.argv[1])), sys.argv[2]
folder = run.phase(phase).root
place = discover(os.environ)
assert place is not None
visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
shown = visible.split(",") if visible else []
torch.cuda.is_available = lambda: bool(shown)
torch.cuda.device_count = lambda: len(shown)
torch.cuda.set_device = lambda device: None
index = world._device(place.local_rank).index
fact = {"node": place.node, "visible": visible, "index": index, "gpu": f"{place.node} {shown[index]}"}
write_json(folder / f"gpu-{place.rank}.json", fact)
if place.rank == 0:
    while not all((folder / f"gpu-{rank}.json").exists() for rank in range(place.size)):
        time.sleep(0.05)
    run.phase(phase).set_status("done")
