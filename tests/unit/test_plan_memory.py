"""Memory outside the steps in a plan, and sizes of models that are planned without reading their weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stilts_ds.config import EnginePart, TrainingPart, parse_recipe
from stilts_ds.model_files import Shape, shape_of
from stilts_ds.planning.advice import advice
from stilts_ds.planning.estimates import Estimate
from stilts_ds.planning.memory import GIB, MicroBatch, largest_parameter, memory
from stilts_ds.planning.outside import Outside, outside
from stilts_ds.weight_files import parameter_count

XL = {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 10240}
XXL = {"num_hidden_layers": 48, "hidden_size": 4096, "intermediate_size": 16384}


@pytest.mark.parametrize("sizes, parameters", [(XL, 3_475_929_600), (XXL, 10_695_954_432)])
def test_sizes_of_xlmr_xl_and_xxl_are_known_without_their_files(
    tmp_path: Path, sizes: dict[str, int], parameters: int
) -> None:
    """The numbers are those of transformers' own networks, without pooler."""
    config = {"model_type": "xlm-roberta-xl", "num_attention_heads": 32, "vocab_size": 250_880,
              "max_position_embeddings": 514, "type_vocab_size": 1, **sizes}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(tmp_path)
    assert shape is not None and shape.parameters == parameters


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_of_pickled_weights_are_counted(tmp_path: Path, as_zip: bool, kind: torch.dtype) -> None:
    for number in (1, 2):  # shards, as XXL has them
        matrix = torch.zeros(300, 40, dtype=kind)
        tensors = {f"layer{number}.weight": matrix, f"tied{number}.weight": matrix, "position_ids": torch.arange(4)}
        path = tmp_path / f"pytorch_model-0000{number}-of-00002.bin"
        torch.save(tensors, path, _use_new_zipfile_serialization=as_zip)
    assert parameter_count(str(tmp_path)) == 24_000


def test_memory_outside_the_steps_by_hand() -> None:
    shape = Shape(layers=2, hidden=8, heads=2, intermediate=32, vocabulary=100, body=1000)  # 1,800 parameters
    batch = MicroBatch(3, 5)
    a_pass = 4 * 15 * (2 * 8 + 2 * 32)

    def at(stage: int, count: int) -> Outside:
        return outside(shape, 900, 10, 256, EnginePart(zero_stage=stage), count, batch)  # type: ignore[arg-type]

    # Whole at stages 0 to 2, and for a rank alone; at stage 3 a fourth, all of so small a model gathered, and the parts
    # of its 100 x 8 word embeddings.
    assert at(2, 4).evaluation == at(3, 1).evaluation == 4 * 1810 + a_pass
    assert at(3, 4).evaluation == 4 * (453 + 1810 + 800) + a_pass
    assert at(3, 4).save == 3 * at(2, 4).save == 12 * 256 and at(3, 4).save_host == 12 * 225
    assert at(3, 4).host == 12 * 225 + 4 * 1810 and at(3, 4).load_host == 4 * 1810


def test_a_model_that_no_device_can_predict_with_whole_needs_stage_3() -> None:
    """XLM-R XXL in bf16 trains at stage 2 on many ranks in less than its float32 weights take."""
    shape = Shape(layers=48, hidden=4096, heads=32, intermediate=16384, vocabulary=250_880, body=9_668_349_952)
    by_stage = {}
    for stage in (2, 3):
        engine = EnginePart(zero_stage=stage, dtype="bf16", gradient_checkpointing=True)  # type: ignore[arg-type]
        trained, largest = shape.parameters, largest_parameter(shape, shape.vocabulary)
        training = memory(shape, trained, largest, engine, 512, MicroBatch(1, 128))
        by_stage[stage] = training, outside(shape, trained, 0, largest, engine, 512, MicroBatch(8, 128))
    phase: Any = SimpleNamespace(label="one", setting=lambda: TrainingPart(per_device_train_batch_size=8))
    found = Estimate(
        phase,
        "will run",
        memory={stage: training for stage, (training, _) in by_stage.items()},
        memory_at=lambda size: {stage: training for stage, (training, _) in by_stage.items()},
        outside={stage: around for stage, (_, around) in by_stage.items()},
    )
    recipe = parse_recipe({"name": "x", "targets": ["xnli"], "intermediate": {"none": []}}, "test")
    training, around = by_stage[2]
    assert training.peak < 40 * GIB - 12 * GIB < around.evaluation
    assert advice(recipe, [found], 36).startswith("stage 3 fits in 36 GiB, in every phase")
