"""Train XLM-R Large's own configuration with random weights for a few steps and print the peak memory of each rank.

    torchrun --nproc_per_node 2 tests/helpers/programs/train_large.py STAGE [fp32|bf16] [STEPS] [ROWS]

560 million parameters: at stage 3 on two CPU ranks the model states alone are 16 bytes a parameter, 9 GB in all. ROWS
is the number of vocabulary rows that train (engine.vocabulary_rows=touched); English task data touch about 27,500.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from stilts_ds.config import EnginePart, SamplingPart, TrainingPart
from stilts_ds.engine.loop import train
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.world import joined
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.run_dir import PhaseDir
from stilts_ds.trackers import Tracking


def main() -> None:
    given = [*sys.argv[1:], *(None, "fp32", "3", "250002")[len(sys.argv) - 1 :]]
    stage, dtype, steps, rows = int(given[0]), given[1], int(given[2]), int(given[3])
    specs = [HeadSpec("nli", "pair", ("a", "b", "c"))]
    with joined("large", 600) as world:
        folder = Path(world.broadcast(tempfile.mkdtemp() if world.first else None))
        model = small.model(hidden=1024, layers=24, heads=16, vocabulary=250_002, specs=specs, dropout=0.1)
        if rows < 250_002:
            narrow_vocabulary(model.encoder, np.arange(rows), keep_rest=world.first)
        parameters = sum(p.numel() for p in model.parameters())
        setting = TrainingPart(max_steps=steps, train_batch_size=8, per_device_train_batch_size=4, logging_steps=1)
        started = time.perf_counter()
        train(
            TrainingSetup(
                title="large",
                model=model,
                tokenizer=small.tokenizer_stub(),
                tasks=small.tasks(specs, length=40, vocabulary=rows),
                setting=setting,
                sampling=SamplingPart(),
                engine_part=EnginePart(zero_stage=stage, dtype=dtype),
                seed=1,
                folder=PhaseDir(folder),
                tracking=Tracking(folder / "tensorboard"),
                world=world,
                evaluate=lambda forward: {"selection": 0.0},
                export=lambda parameters, step: None,
            )
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        peaks = world.all_gather(round(peak, 2))
        if world.first:
            losses = [
                json.loads(line).get("train/loss") for line in (folder / "metrics.jsonl").read_text().splitlines()
            ]
            print(
                json.dumps(
                    {
                        "trained_parameters": parameters,
                        "vocabulary_rows": rows,
                        "stage": stage,
                        "dtype": dtype,
                        "ranks": world.size,
                        "steps": steps,
                        "losses": losses,
                        "peak_gib_per_rank": peaks,
                        "seconds": round(time.perf_counter() - started, 1),
                    }
                )
            )


main()
