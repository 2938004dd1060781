"""What stands in the hub in a box: the toy model under a hub's name, MNLI and two languages of XNLI as data sets."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hub_server import Files, Hub

from stilts_ds.model_files import TOY
from stilts_ds.tasks.registry import get_task

MODEL = "someone/tiny-xlmr"
STUDY = [
    "mini_xlmr",
    f"model.name_or_path={MODEL}",
    "data.source=hub",
    "intermediate={none: []}",
    "targets=[xnli]",
    "data.train_split={}",
    "evaluation.languages={xnli: [en, sw]}",
    "evaluation.max_examples=20",
    "target_training.max_seq_length=64",
    "target_training.max_steps=3",
]


def fill_hub(hub: Hub) -> str:
    """Put model and data sets into the hub; returns the model's commit."""
    commit = hub.put(f"models/{MODEL}", model_files())
    [train], [dev], [test] = (get_task(name).hub[split] for name, split in (("mnli", "train"), ("mnli", "dev"),
                                                                            ("xnli", "test")))  # fmt: skip
    glue = data_set_files({train.config: [train.split, dev.split]}, rows=90)
    hub.put(f"datasets/{train.repo}", glue, train.revision)
    hub.put(f"datasets/{test.repo}", data_set_files({"en": [test.split], "sw": [test.split]}, rows=30), test.revision)
    return commit


def model_files() -> Files:
    return {path.name: path.read_bytes() for path in TOY.iterdir() if path.is_file() and path.name != "stilts.json"}


def data_set_files(configs: dict[str, list[str]], rows: int) -> Files:
    """A data set repository: a card that names the parquet files of each configuration's splits."""
    card, files = ["---", "configs:"], {}
    for config, splits in configs.items():
        card += [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            card += [f"  - split: {split}", f"    path: {config}/{split}-*.parquet"]
            files[f"{config}/{split}-00000.parquet"] = parquet(config, rows)
    return {"README.md": "\n".join([*card, "---", "# Rows of a test", ""]).encode(), **files}


def parquet(config: str, rows: int) -> bytes:
    table: dict[str, list[Any]] = {
        "premise": [f"{config} a b {index}" for index in range(rows)],
        "hypothesis": [f"c {index}" for index in range(rows)],
        "label": [index % 3 for index in range(rows)],
        "idx": list(range(rows)),
    }
    written = io.BytesIO()
    pq.write_table(pa.table(table), written)
    return written.getvalue()
