"""What `stilts plan` says a run will cost: parameters and bytes by hand, tokens by counting."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ranks
import small
from conftest import stilts
from small_recipe import STUDY

from stilts_ds.batches.mixture import Mixture
from stilts_ds.config import EnginePart, SamplingPart, TrainingPart, parse_recipe
from stilts_ds.families.registry import get_family
from stilts_ds.model_files import TOY, Shape, shape_of
from stilts_ds.planning.advice import advice
from stilts_ds.planning.estimates import Estimate, state_of
from stilts_ds.planning.memory import (
    GIB,
    Memory,
    MicroBatch,
    activations,
    largest_parameter,
    memory,
    trained_parameters,
)
from stilts_ds.planning.sizes import PhaseSize
from stilts_ds.run_dir import PhaseDir, write_json
from stilts_ds.weight_files import parameter_count

# 514 positions and 1 token type of 1,024, a LayerNorm; 24 layers of four 1,024 x 1,024 and two 1,024 x 4,096 matrices
# with their biases and two LayerNorms: 527,360 + 2,048 + 24 * 12,596,224.
LARGE = Shape(layers=24, hidden=1024, heads=16, intermediate=4096, vocabulary=250_002, body=302_838_784)


def states(trained: int, stage: int, dtype: str, count: int, **engine: Any) -> Memory:
    part = EnginePart(zero_stage=stage, dtype=dtype, **engine)  # type: ignore[arg-type]
    return memory(LARGE, trained, 1, part, count, MicroBatch(1, 1))


def test_parameters_of_xlmr_large(tmp_path: Path) -> None:
    config = {
        "model_type": "xlm-roberta",
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 250_002,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(tmp_path) == LARGE
    head = get_family("pair").trained.parameters(1024, 3, 250_002, 1024)
    assert head == 1024 * 1024 + 1024 + 3 * 1024 + 3
    assert trained_parameters(LARGE, 27_500, [head]) == 332_051_459
    assert trained_parameters(LARGE, 250_002, [head]) == 559_893_507
    assert largest_parameter(LARGE, 27_500) == 27_500 * 1024 and largest_parameter(LARGE, 10) == 1024 * 4096


def test_parameters_of_the_toy_model_are_those_of_its_weight_file() -> None:
    shape = shape_of(TOY)
    head = 128 * 128 + 128 + 2 * 128 + 953  # of masked language modelling: a layer, its norm, a bias a piece
    assert shape is not None and shape.parameters == parameter_count(str(TOY)) - head == 948_480


def test_other_architectures_take_the_count_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "distilbert", "dim": 8}))
    assert shape_of(tmp_path) is None
    config = {
        "model_type": "xlm-other",
        "num_hidden_layers": 1,
        "hidden_size": 4,
        "num_attention_heads": 1,
        "intermediate_size": 8,
        "vocab_size": 10,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert shape_of(tmp_path) is None  # no weight file that says
    shapes = {"w": [25, 2]}
    write_header(tmp_path, shapes)
    assert shape_of(tmp_path) is None  # no word embeddings of that vocabulary
    shapes |= {"embeddings.words.weight": [10, 3], "embeddings.position_ids": [1, 7], "pooler.dense.weight": [4, 4]}
    write_header(tmp_path, shapes)
    shape = shape_of(tmp_path)
    assert shape is not None and (shape.body, shape.width, shape.parameters) == (50, 3, 80)
    write_header(tmp_path, {"cls.bias": [10], **{f"some.{name}": size for name, size in shapes.items()}})
    assert shape_of(tmp_path) == shape  # the same under a task head


def write_header(folder: Path, shapes: dict[str, list[int]]) -> None:
    header = json.dumps(
        {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    ).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def test_parameters_of_heads_are_those_that_are_built() -> None:
    model = small.model(hidden=16)
    for name, spec in model.specs.items():
        real = sum(p.numel() for p in model.heads[name].parameters())
        assert get_family(spec.family).trained.parameters(16, len(spec.labels), small.VOCABULARY, 16) == real


@pytest.mark.parametrize(
    ("stage", "dtype", "count", "weights", "gradients", "optimizer"),
    [
        (0, "fp32", 4, 4_000, 4_000, 8_000),
        (1, "fp32", 4, 4_000, 4_000, 3_000),  # a float32 master copy and two moments, a quarter each
        (2, "fp32", 4, 4_000, 1_000, 3_000),
        (3, "fp32", 4, 1_000, 1_000, 3_000),
        (0, "fp16", 4, 2_000, 2_000, 12_000),
        (1, "bf16", 4, 2_000, 2_000, 3_000),
        (2, "bf16", 4, 2_000, 500, 3_000),
        (3, "bf16", 4, 500, 500, 3_000),
        (1, "bf16", 1, 2_000, 2_000, 12_000),  # 16 bytes a parameter, as in the ZeRO paper
        (3, "bf16", 1, 2_000, 2_000, 12_000),
        (2, "bf16", 3, 2_000, 668, 4_008),  # 1,000 parameters are dealt as three times 334
    ],
)
def test_state_bytes_of_a_thousand_parameters(
    stage: int, dtype: str, count: int, weights: int, gradients: int, optimizer: int
) -> None:
    found = states(1000, stage, dtype, count)
    assert (found.weights, found.gradients, found.optimizer) == (weights, gradients, optimizer)
    assert found.states == weights + gradients + optimizer


def test_offload_moves_states_to_the_host() -> None:
    for stage in (1, 2, 3):
        found = states(1000, stage, "bf16", 4, offload_optimizer=True)
        assert (found.optimizer, found.step, found.host) == (0, 0, 18 * 250)
        assert found.gradients == (2000 if stage == 1 else 0)


def test_buffers_are_those_of_the_shipped_configurations() -> None:
    assert states(10**9, 0, "fp32", 2).buffers == 4 * 500_000_000
    assert states(10**9, 0, "fp32", 1).buffers == 0
    assert states(1000, 1, "fp32", 2).buffers == 4 * 200_000_000
    assert states(1000, 2, "bf16", 2).buffers == 2 * 2 * 200_000_000
    assert states(1000, 3, "bf16", 2).buffers == 2 * 50_000_000
    cpu = memory(LARGE, 1000, 1, EnginePart(zero_stage=1), 2, MicroBatch(1, 1), cpu=True)
    assert cpu.buffers == 4000


def test_activations_by_hand() -> None:
    shape = Shape(layers=2, hidden=8, heads=2, intermediate=32, vocabulary=100, body=0)
    # A token: 34 * 8 bytes a layer, and 2 * 8 * 2 + 8 at the ends.
    assert activations(shape, MicroBatch(3, 5), 2, checkpointing=False) == 15 * (2 * 272 + 40)
    assert activations(shape, MicroBatch(3, 5), 2, checkpointing=True) == 15 * (2 * 16 + 272 + 40)
    matrix = 2 * 3 * 2 * 25 * 5  # layers, rows, heads, length squared, 2s + 1 bytes
    assert activations(shape, MicroBatch(3, 5), 2, False, attention_matrix=True) == 15 * (2 * 272 + 40) + matrix
    logits = 4 * 100 * 14
    assert activations(shape, MicroBatch(3, 5, masked=4), 2, False) == 15 * (2 * 272 + 40) + logits


def test_more_of_anything_costs_what_it_should() -> None:
    def peak(trained: int = 332_051_459, rows: int = 8, count: int = 8, **engine: Any) -> int:
        part = EnginePart(**{"zero_stage": 2, "dtype": "bf16", **engine})
        return memory(LARGE, trained, 28_160_000, part, count, MicroBatch(rows, 256)).peak

    assert peak(trained=559_893_507) > peak()
    assert peak(rows=32) > peak(rows=8) > peak(rows=8, gradient_checkpointing=True)
    assert peak(dtype="fp32") > peak() > peak(offload_optimizer=True)
    assert peak(count=4) > peak(count=8) > peak(count=64)
    by_stage = [states(332_051_459, stage, "bf16", 8).states for stage in (1, 2, 3)]
    assert by_stage == sorted(by_stage, reverse=True)


def test_the_page_shows_what_the_formula_gives() -> None:
    page = (ranks.ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    head = get_family("pair").trained.parameters(1024, 3, 250_002, 1024)
    rows = re.findall(r"^\| (\w+), stage (\d) \| ([\d,]+) \| ([\d.]+) \|", page, re.MULTILINE)
    assert len(rows) == 6
    for dtype, stage, parameters, shown in rows:
        vocabulary = {"332,051,459": 27_500, "559,893,507": 250_002}[parameters]
        engine = EnginePart(zero_stage=int(stage), dtype=dtype)
        trained = trained_parameters(LARGE, vocabulary, [head])
        found = memory(LARGE, trained, largest_parameter(LARGE, vocabulary), engine, 2, MicroBatch(4, 40), cpu=True)
        assert f"{found.peak / GIB:.2f}" == shown, (dtype, stage)


@pytest.mark.parametrize("unit", ["step", "example"])
def test_tokens_are_those_of_the_steps(unit: str) -> None:
    rng = np.random.default_rng(3)
    lengths = {"a": rng.integers(2, 9, 7), "b": rng.integers(2, 30, 31)}
    setting = TrainingPart(max_steps=40, train_batch_size=6)
    mixture = Mixture({n: len(x) for n, x in lengths.items()}, setting, SamplingPart(unit=unit), 5)  # type: ignore[arg-type]
    counted = sum(int(lengths[name][item]) for step in range(40) for name, item in mixture.step(step))
    assert mixture.tokens(lengths) == counted


def test_the_largest_micro_batch() -> None:
    size = PhaseSize(True, 9, 9, 9, longest_row=50, width=4, items=9, masked_share=0.15)
    setting = TrainingPart(train_batch_size=30, per_device_train_batch_size=8)
    assert size.micro_batch(setting, 2) == MicroBatch(8 * 4, 50, 240)  # 15 a rank in two micro-batches of 8 and 7
    assert size.micro_batch(setting, 10).rows == 3 * 4
    assert dataclasses.replace(size, width=None).micro_batch(setting, 10).rows == 3


def test_states_of_phases(tmp_path: Path) -> None:
    folder = PhaseDir(tmp_path)
    assert state_of(folder) == "will run"
    for step in (5, 20):
        write_json(folder.checkpoints / f"step-{step:06d}" / "manifest.json", {"step": step})
    (folder.checkpoints / "step-000025").mkdir()  # torn: no manifest
    folder.set_status("stopped:SIGTERM")
    assert state_of(folder) == "partly done (step 20)"
    folder.set_status("failed")
    assert state_of(folder) == "partly done (step 20), failed before"
    folder.set_status("trained")
    assert state_of(folder) == "trained, evaluation will run"
    folder.set_status("done")
    assert state_of(folder) == "done (cached)"


@pytest.mark.processes
def test_a_plan_needs_neither_torch_nor_tokenizers(tmp_path: Path) -> None:
    heavy = ["torch", "deepspeed", "transformers", "tokenizers", "datasets", "mpi4py", "triton"]
    words = ["plan", "quickstart", *STUDY, "--ranks", "4", "--phases"]
    program = (
        f"import sys\nsys.modules.update(dict.fromkeys({heavy}))\n"  # None: importing them is an error
        f"from stilts_launcher.cli import main\nsys.exit(main({words}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=ranks.environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "estimates are for 4 ranks; fp32" in done.stdout
    assert done.stdout.count("tokens unknown until the data are read") == 5
    assert "2 epochs (steps unknown until the data are read) of 16 examples" in done.stdout
    assert "hours are not estimated" in done.stdout and "stage 3" in done.stdout


@pytest.mark.processes
def test_local_data_count_as_full_data_sets_until_they_are_read(shared_data: Path, tmp_path: Path) -> None:
    folders = [f"data.{part}={shared_data / part}" for part in ("intermediate", "xtreme")]
    shown = stilts(
        "plan",
        "mini_xlmr",
        "model.name_or_path=toy",
        *folders,
        "targets=[xnli, panx, xquad]",
        "intermediate={none: [], q: [hellaswag]}",
        "target_training.max_steps=-1",
        "data.max_train_examples=null",
        "data.train_split={}",
        "engine.dtype=bf16",
        "--phases",
        "--gpu-memory",
        "80",
        cwd=tmp_path,
    )
    assert "about 49,088 steps (of the full data set's 392,702 examples)" in shown
    assert "bf16" in shown and "stage 0" not in shown
    assert "stage 1 fits in 80 GiB, in every phase" in shown
    assert "no stage fits in 0.001 GiB" in stilts(  # settings may stand behind options
        "plan",
        "mini_xlmr",
        "model.name_or_path=toy",
        *folders,
        "--gpu-memory",
        "0.001",
        "targets=[xquad]",
        "intermediate={none: []}",
        "data.train_split={}",
        cwd=tmp_path,
    )
    stilts("plan", "mini_xlmr", "--gpu-memry", "1", "targets=[xquad]", cwd=tmp_path, status=2)


TABLE = {  # GiB by stage and per_device_train_batch_size
    1: {1: 5, 2: 6, 4: 8, 8: 12, 16: 20, 32: 36}, 3: {1: 2, 2: 3, 4: 5, 8: 9, 16: 17, 32: 33},
}  # fmt: skip


@pytest.mark.parametrize(("gib", "beside", "told"), [
    (80, 0, "stage 1 fits in 80 GiB, in every phase; per_device_train_batch_size may be up to 32 (it is 8)"),
    (20, 0, "stage 1 fits in 20 GiB, in every phase; per_device_train_batch_size may be up to 16 (it is 8)"),
    (20, 1, "stage 1 fits in 20 GiB, in every phase, measured in the trial; per_device_train_batch_size may be"),
    (11, 0, "stage 3 fits in 11 GiB, in every phase; per_device_train_batch_size may be up to 8 (it is 8)"),
    (8, 0, "no stage fits in 8 GiB with per_device_train_batch_size 8; stage 1 does with 4"),
    (4, 0, "no stage fits in 4 GiB with per_device_train_batch_size 8; stage 3 does with 2"),
    (1, 0, "no stage fits in 1 GiB for one, not even row by row; try more ranks, engine.gradient_checkpointing=true"),
])  # fmt: skip
def test_advice_names_the_smallest_stage_and_the_largest_batch(gib: float, beside: float, told: str) -> None:
    def memory_at(size: int) -> dict[int, Memory]:
        return {
            stage: Memory(
                weights=sizes[size] * GIB,
                gradients=0,
                optimizer=0,
                buffers=0,
                gathered=0,
                step=0,
                activations=0,
                build=0,
                host=0,
            )
            for stage, sizes in TABLE.items()
        }

    setting = TrainingPart(per_device_train_batch_size=8, train_batch_size=32)
    phase = SimpleNamespace(label="one", setting=lambda: setting)
    found = [Estimate(phase, "will run", memory=memory_at(8), memory_at=memory_at)]  # type: ignore[arg-type]
    recipe = parse_recipe({"name": "x", "targets": ["xnli"], "intermediate": {"none": []}}, "test")
    assert advice(recipe, found, gib, beside * GIB).startswith(told)


@pytest.mark.processes
def test_doctor_tells_what_fits_on_this_machine(tmp_path: Path) -> None:
    shown = stilts("doctor", "quickstart", *STUDY, cwd=tmp_path)
    assert re.search(r"ok +quickstart: stage 0 fits in [0-9.]+ GiB, in every phase; per_device_train_batch_size", shown)
    assert "--trial needs a recipe" in stilts("doctor", "--trial", cwd=tmp_path, status=2)


@pytest.mark.processes
def test_a_model_that_is_not_here_has_unknown_memory(shared_data: Path, tmp_path: Path) -> None:
    shown = stilts(
        "plan",
        "mini_xlmr",
        "model.name_or_path=someone/unknown",
        "intermediate={none: []}",
        f"data.xtreme={shared_data / 'xtreme'}",
        "targets=[panx]",
        "data.train_split={}",
        "--phases",
        "--gpu-memory",
        "80",
        cwd=tmp_path,
        HF_HOME=str(tmp_path / "empty"),
    )
    assert "memory unknown until model and data are on this machine (`stilts fetch`)" in shown
    assert "whether it fits in 80 GiB is unknown" in shown
