"""Real phases with tiny decoders, one after the other in this rank: every family trains five steps and is evaluated.

    train_decoders.py FOLDER ZERO_STAGE KIND [KIND ...]

Leaves FOLDER/runs/<number of the kind>. The toy world and its rows are made once for all kinds.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import tiny_decoders
from stilts_launcher.start import prepare_run

from stilts_ds.config import Recipe, parse_recipe
from stilts_ds.engine.world import joined
from stilts_ds.phases import run_phases
from stilts_ds.run_dir import RunDir
from stilts_ds.toy.world import ensure_toy_world

NINE = ("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa")
TRAINED = (*NINE, "mlm")  # text by the next token
STEPS: dict[str, Any] = {
    "max_steps": 5,
    "train_batch_size": 20,
    "per_device_train_batch_size": 10,
    "learning_rate": 1e-3,
    "max_seq_length": 48,
    "doc_stride": 8,
    "max_query_length": 16,
    "eval_examples": 10,
    "save_steps": 0,
    "logging_steps": 1,
}


def recipe_for(name: str, model: Path, folder: Path, stage: int) -> Recipe:
    return parse_recipe(
        {
            "name": name,
            "output_dir": str(folder / "runs"),
            "model": {"name_or_path": str(model)},
            "data": {
                "source": "toy",
                "cache": str(folder / "cache"),
                "max_train_examples": 100,
                "max_text_passages": 200,
            },
            "intermediate": {"all": list(TRAINED)},
            "targets": ["xnli", "xquad", "panx", "tatoeba"],
            "sampling": {"unit": "example", "weights": "uniform"},
            "intermediate_training": STEPS,
            "target_training": STEPS,
            "engine": {"zero_stage": stage, "gradient_checkpointing": stage == 3},
            "evaluation": {"max_examples": 8, "max_bitext": 20, "retrieval_max_seq_length": 48},
        },
        "the program's recipe",
    )


def main() -> None:
    folder, stage, kinds = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ensure_toy_world(folder / "world", 20)
    with joined("decoders", 300) as world:
        for number, kind in enumerate(kinds):
            model = folder / f"model-{number}"
            tiny_decoders.save_with_tokenizer(kind, model, folder / "world")
            recipe = recipe_for(str(number), model, folder, stage)
            run = RunDir(folder / "runs" / str(number))
            shutil.copytree(folder / "world", run.root / "data", copy_function=os.link)
            prepare_run(recipe)
            run_phases(run, [], None, world)


main()
