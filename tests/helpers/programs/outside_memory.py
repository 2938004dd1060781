"""Memory outside the steps of training, of each rank, beside the plan's: `outside_memory.py STAGE [HIDDEN] [LAYERS]`.

Ranks build, save, export and evaluate a network of random weights with 30,000 vocabulary rows. Rank 0 prints a line of
JSON a rank: MiB of resident memory at the peak of each moment, less what the moment began with, and what the formulas
give (stilts_ds/planning/outside.py). On CPUs host and device are one memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small
import torch

from stilts_ds.batches.collate import Collator
from stilts_ds.config import EnginePart, TrainingPart
from stilts_ds.engine.checkpoint import FIRST_START
from stilts_ds.engine.saver import Saver
from stilts_ds.engine.sharded import shard
from stilts_ds.engine.weights import send_weights
from stilts_ds.engine.world import World, joined
from stilts_ds.engine.zero import advance, build_engine, destroy_engine, finish_step
from stilts_ds.engine.zero_state import full_parameters
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model_files import Shape
from stilts_ds.planning.memory import MicroBatch
from stilts_ds.planning.outside import outside
from stilts_ds.rows.batch import Batch

MIB, VOCABULARY, ROWS, LENGTH = 1 << 20, 30_000, 8, 64
SPECS = [HeadSpec("nli", "pair", ("a", "b", "c"))]


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (at most since the last reset) of this process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) << 10


@contextmanager
def measured(moments: dict[str, int], name: str) -> Iterator[None]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    yield
    moments[name] = (resident("VmHWM") - before) // MIB


def network(hidden: int, layers: int) -> Any:
    return small.model(hidden=hidden, layers=layers, heads=8, vocabulary=VOCABULARY, specs=SPECS)


def rows_in_one_batch() -> Batch:
    tasks = small.tasks(SPECS, ROWS, LENGTH, VOCABULARY)
    items = [(number, "nli", number) for number in range(ROWS)]
    return Collator(tasks, small.tokenizer_stub(), 0.15, 1)(items, 0, {"nli": 1 / ROWS})  # type: ignore[arg-type]


def measure(world: World, stage: int, hidden: int, layers: int, folder: Path) -> dict[str, int]:
    torch.set_num_threads(1)
    moments: dict[str, int] = {}
    part = EnginePart.model_validate({"zero_stage": stage})
    setting = TrainingPart(train_batch_size=world.size, per_device_train_batch_size=1)
    batch = rows_in_one_batch()
    engine = build_engine(network(hidden, layers), part, setting, world, 1)
    loss, _, _ = engine(batch)
    engine.backward(loss, scale_wrt_gas=False)
    if stage:
        advance(engine)
    finish_step(engine, stage, 1.0)
    saver = Saver(folder, world, 1, FIRST_START)
    with measured(moments, "save"):
        saver.save(engine, 1, {})
        saver.wait()
    with measured(moments, "export"):
        full_parameters(engine)
    destroy_engine(engine)
    del engine
    with measured(moments, "evaluation"), torch.no_grad():
        model = network(hidden, layers).eval()
        if stage == 3:
            forward: Any = shard(model, part, world)
        else:
            send_weights(model, world)
            forward = model
        forward(batch, "logits")
    return moments


def planned(world: World, stage: int, hidden: int, layers: int) -> dict[str, int]:
    model = network(hidden, layers)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    largest = max(parameter.numel() for parameter in model.parameters())
    words = VOCABULARY * hidden
    shape = Shape(layers, hidden, 8, 4 * hidden, VOCABULARY, parameters - words)
    part = EnginePart.model_validate({"zero_stage": stage})
    found = outside(shape, parameters, 0, largest, part, world.size, MicroBatch(ROWS, LENGTH), eager=True)
    save = found.save + found.save_host
    export = found.export_host if world.first else found.save
    return {"save": save // MIB, "export": export // MIB, "evaluation": found.evaluation // MIB}


def main() -> None:
    stage, hidden, layers = map(int, [*sys.argv[1:], *("3", "512", "8")[len(sys.argv) - 1 :]])
    with joined("memory", 300) as world:
        folder = Path(world.broadcast(tempfile.mkdtemp() if world.first else None))
        moments = measure(world, stage, hidden, layers, folder)
        for of_rank in world.gather({"measured": moments, "planned": planned(world, stage, hidden, layers)}):
            print(json.dumps(of_rank), flush=True)


main()
