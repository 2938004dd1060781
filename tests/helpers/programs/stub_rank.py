"""A rank that trains nothing: it notes what it was given, saves for a second when asked to stop, and is done at its
second start. Arguments as those of stilts_launcher.rank: RUN PHASE."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from stilts_ds.run_dir import RunDir, write_json

run, phase = RunDir(Path(sys.argv[1])), sys.argv[2]
folder = run.phase(phase)
first = os.environ.get("SLURM_PROCID", "0") == "0"
starts = folder.root / "starts.json"
again = not os.environ["STILTS_RUN_TOKEN"].endswith(".0")  # the attempt's number


def stop(number: int, frame: object) -> None:
    time.sleep(1)
    if first:
        folder.set_status(f"stopped:{signal.Signals(number).name}")
    sys.exit(85)


signal.signal(signal.SIGTERM, stop)
if first:
    wanted = ("SLURM_", "SRUN_", "STILTS_", "PYTHONPATH", "HF_HUB_OFFLINE", "OMP_")
    before = json.loads(starts.read_text()) if starts.exists() else []
    write_json(starts, [*before, {key: value for key, value in os.environ.items() if key.startswith(wanted)}])
    folder.set_status("running")
if again:
    time.sleep(1)
    if first:
        folder.set_status("done")
    sys.exit(0)
while True:
    time.sleep(0.1)
