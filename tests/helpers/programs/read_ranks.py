"""What each rank reads of a study's sources: `read_ranks.py FOLDER CACHE_OF_RANK_0 CACHE_OF_OTHERS`.

FOLDER holds recipe.json and phases.json. Rank 0 prints a line of JSON a rank: source files opened, bytes read (of any
file, as the kernel counts them) and, where reading failed, why.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from stilts_ds.config import parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.engine.world import joined
from stilts_ds.errors import UserError
from stilts_ds.phase_setup import read_data
from stilts_ds.plan_file import Phase

FOLDER = Path(sys.argv[1])
SOURCES = (str(FOLDER / "i"), str(FOLDER / "x"))
opened: Counter[str] = Counter()


def count(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], (str, os.PathLike)) and str(arguments[0]).startswith(SOURCES):
        opened[str(arguments[0])] += 1


def bytes_read() -> int:
    matched = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert matched
    return int(matched[1])


def read_as_training_and_evaluation_do(data: Data, phases: list[Phase]) -> None:
    for phase in phases:
        for name in phase.train:
            assert data.labels(name)
            for split in (data.train(name, phase.setting(name)), data.dev(name, phase.setting(name))):
                assert len(split.rows(phase.setting(name)))
        for task in map(data.task, phase.evaluate):
            for split in data.evaluations(task):
                split.family.evaluation_rows(split, phase.setting(), data.recipe.evaluation)


def main() -> None:
    rank = int(os.environ["RANK"])
    if rank > 0 and sys.argv[3] != sys.argv[2]:  # another node, with a disk of its own
        os.environ["LOCAL_RANK"], os.environ["STILTS_NODE"] = str(rank - 1), "node1"
    values = json.loads((FOLDER / "recipe.json").read_text())
    values["data"]["cache"] = sys.argv[2 if rank == 0 else 3]
    phases = [Phase.model_validate(phase) for phase in json.loads((FOLDER / "phases.json").read_text())]
    with joined("read", 60) as world:
        data = Data(parse_recipe(values, "test"), FOLDER / "run")
        assert data.tokenizer
        problem = ""
        sys.addaudithook(count)
        before = bytes_read()
        try:
            read_data(data, phases, world)
            if "remove" in sys.argv:
                # First: it would make rows again that are gone, in the moment before the other rank looks for them.
                if world.first:
                    read_as_training_and_evaluation_do(data, phases)
                world.barrier()
            if world.rank == 1 and "remove" in sys.argv:  # as a cleaner of scratch disks would
                kept = {path.parent: path.read_text() for path in Path(sys.argv[3]).rglob("manifest.json")}
                [folder] = [folder for folder, text in kept.items() if '"train"' in text]
                folder.rename(folder.with_suffix(".gone"))
            if not (world.first and "remove" in sys.argv):
                read_as_training_and_evaluation_do(data, phases)
        except UserError as error:
            problem = str(error)
        told = {"files": sum(opened.values()), "bytes": bytes_read() - before, "problem": problem}
        for of_rank in world.gather(told):
            print(json.dumps(of_rank), flush=True)


main()
