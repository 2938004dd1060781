"""Packed rows give the losses and gradients of padded ones, and a model that cannot be packed is found out."""

from __future__ import annotations

import json
import logging
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import small
import torch
import torch._dynamo
from conftest import SMALL, stilts
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from stilts_ds.batches.collate import Collator
from stilts_ds.config import ModelPart
from stilts_ds.families.build import build_model
from stilts_ds.model import attention
from stilts_ds.model.attention import Packing, grouped_attention, nested_attention
from stilts_ds.model.backbone import first_position
from stilts_ds.model.encoder import compile_layers, load_encoder, recompute_activations, save_encoder
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.batch import Batch

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 66,
}
LENGTHS = (7, 7, 5, 3, 3, 1, 7)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def batch_of(count: int = 30) -> Batch:
    """Rows of every family, in no order of length."""
    tasks = small.tasks(length=30)
    items = [(i, sorted(tasks)[i % len(tasks)], i // len(tasks)) for i in range(count)]
    return Collator(tasks, small.tokenizer_stub(), 0.15, 0)(items, 0, dict.fromkeys(tasks, 1 / count))  # type: ignore[arg-type]


def gradients(model: MultiTask, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    loss = model(batch)[0]
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


compiler = pytest.mark.skipif(
    shutil.which("g++") is None or not Path(sysconfig.get_paths()["include"], "Python.h").exists(),
    reason="torch.compile needs a C++ compiler and Python's headers on CPUs",
)


@pytest.mark.long
@pytest.mark.processes
@compiler
@pytest.mark.parametrize(
    "checkpointing, dropout",
    [(False, 0.0), (True, 0.0), pytest.param(False, 0.1, marks=pytest.mark.slow)],
)
def test_compiled_layers_have_the_loss_and_the_gradients_of_others_and_are_compiled_once(
    checkpointing: bool, dropout: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # not what other instructions were compiled for
    found = []
    for compiled in (False, True):
        model = small.model(dropout=dropout).train()
        names = [name for name, _ in model.named_parameters()]
        if checkpointing:
            recompute_activations(model.encoder, None)
        if compiled:
            torch._dynamo.reset()
            compile_layers(model.encoder)
            gradients(model, batch_of(12))
            model.zero_grad()
            compiled_before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found.append(gradients(model, batch_of(30)))
        assert [name for name, _ in model.named_parameters()] == names
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled_before > 0
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-7)


@compiler
@pytest.mark.processes
@pytest.mark.slow
def test_a_compiled_run_draws_the_curve_of_any_other(tmp_path: Path) -> None:
    """Two ranks, ZeRO 2, with the model's dropout."""
    losses = []
    for name, compiled in (("plain", "false"), ("compiled", "true")):
        said = stilts(
            "run",
            "quickstart",
            *SMALL,
            "intermediate={nli: [mnli, ccg]}",
            "targets=[tatoeba]",
            "evaluation.retrieval_layer=2",
            "launch.nproc=2",
            "engine.zero_stage=2",
            f"engine.torch_compile={compiled}",
            f"name={name}",
            cwd=tmp_path,
            timeout=900,  # two ranks that compile on a busy machine
        )
        assert ("layers are compiled" in said) == (name == "compiled")
        (curve,) = (tmp_path / "runs" / name / "phases").glob("intermediate-*/metrics.jsonl")
        records = [json.loads(line) for line in curve.read_text().splitlines()]
        losses.append([record["train/loss"] for record in records if "train/loss" in record])
    assert len(losses[0]) == 4 and losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(checkpointing: bool) -> None:
    """Within twice what padded float32 itself loses against float64 (and 1e-6 relative)."""
    batch, found = batch_of(), {}
    for name, packed, dtype in (
        ("packed", True, torch.float32),
        ("padded", False, torch.float32),
        ("exact", False, torch.float64),
    ):
        model = small.model(packed=packed, dropout=0.1).train().to(dtype)
        if checkpointing:
            recompute_activations(model.encoder, model.masks)
        found[name] = gradients(model, batch)
    exact = found["exact"]
    assert found["packed"][0] == pytest.approx(exact[0], rel=1e-6)
    for name, expected in exact[1].items():
        lost = {kind: (found[kind][1][name].double() - expected).norm() for kind in ("packed", "padded")}
        assert lost["packed"] <= 2 * lost["padded"] + 1e-6 * expected.norm() + 1e-12, name


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_hidden_states_of_any_layer_are_those_of_padded_rows(layer: int) -> None:
    batch = batch_of()
    with torch.no_grad():
        packed, padded = (small.model(packed=p).eval()(batch, "hidden", layer) for p in (True, False))
    assert packed.shape == (len(batch.input_ids), 16)
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_one_pass_gives_every_layer(packed: bool) -> None:
    model, batch = small.model(packed=packed).eval(), batch_of()
    with torch.no_grad():
        states = model(batch, "hidden", "all")
        assert len(states) == 3  # the embedding output and two layers
        for layer, state in enumerate(states):
            assert torch.equal(state, model(batch, "hidden", layer))


@pytest.mark.parametrize("attend", [grouped_attention, nested_attention])
def test_attention_sees_its_own_row_and_nothing_else(attend: Any) -> None:
    packing = Packing(LENGTHS, torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()]))
    torch.manual_seed(0)
    q, k, v = (torch.randn(sum(LENGTHS), 2, 8, dtype=torch.float64) for _ in range(3))
    found = attend(q, k, v, packing, 0.0, 0.3)
    row = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    scores = torch.einsum("qhd,khd->hqk", q, k) * 0.3
    scores[:, row[:, None] != row[None, :]] = -torch.inf
    torch.testing.assert_close(found, torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))


@pytest.mark.parametrize("attend", [grouped_attention, nested_attention])
def test_attention_dropout_acts(attend: Any) -> None:
    """With all values one, a weight that is dropped shows: rows of weights no longer sum to one, but do on average."""
    packing = Packing((40, 40, 24), torch.tensor([0, 40, 80, 104]))
    ones = torch.ones(104, 2, 8)
    torch.manual_seed(0)
    found = attend(torch.zeros_like(ones), torch.zeros_like(ones), ones, packing, 0.25, None)
    assert found.std() > 0.02 and found.mean().item() == pytest.approx(1, abs=0.02)


def test_packed_attention_without_its_packing_is_refused() -> None:
    model = small.model()
    with pytest.raises(ValueError, match="needs to know where rows begin"):
        model.encoder(torch.full((1, 4), 5))


def test_positions_begin_where_the_model_begins() -> None:
    assert first_position(XLMRobertaModel(XLMRobertaConfig(**SIZES, pad_token_id=1))) == 2
    assert first_position(BertModel(BertConfig(**SIZES))) == 0


@pytest.mark.parametrize(
    "model_class, config, packs",
    [
        (XLMRobertaModel, XLMRobertaConfig(**SIZES, pad_token_id=1), True),
        (BertModel, BertConfig(**SIZES, pad_token_id=0), True),
        (DebertaV2Model, DebertaV2Config(**SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"]), False),
    ],
)
def test_a_model_is_packed_only_where_that_is_exact(
    model_class: Any, config: Any, packs: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model_class(config).save_pretrained(tmp_path / "model")
    with caplog.at_level(logging.INFO):
        encoder = load_encoder(tmp_path / "model", ModelPart())
    assert (encoder.config._attn_implementation == attention.NAME) == packs  # type: ignore[union-attr]
    assert ("none is padded" if packs else "rows are padded") in caplog.text
    batch = batch_of(6)
    hidden = build_model(encoder, [], 1).eval()(batch, "hidden")
    plain = AutoModel.from_pretrained(tmp_path / "model").eval()
    for row, length in enumerate(batch.lengths):
        alone = plain(input_ids=batch.input_ids[batch.row == row][None]).last_hidden_state[0]
        torch.testing.assert_close(hidden[batch.row == row], alone, rtol=1e-4, atol=1e-5)
        assert len(alone) == length


def test_what_is_saved_does_not_know_of_packing(tmp_path: Path) -> None:
    XLMRobertaModel(XLMRobertaConfig(**SIZES, pad_token_id=1)).save_pretrained(tmp_path / "model")
    encoder = load_encoder(tmp_path / "model", ModelPart())
    save_encoder(encoder, dict(encoder.state_dict()), tmp_path / "out")
    assert attention.NAME not in (tmp_path / "out" / "config.json").read_text()
    assert AutoModel.from_pretrained(tmp_path / "out")(torch.full((2, 5), 7)).last_hidden_state.shape == (2, 5, 16)


@gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)])
def test_on_a_gpu_packed_rows_have_the_gradients_of_padded_ones(dtype: torch.dtype, tolerance: float) -> None:
    batch, device = batch_of(), torch.device("cuda")
    found = [gradients(small.model(packed=p).train().to(device, dtype), batch.to(device)) for p in (True, False)]
    assert found[0][0] == pytest.approx(found[1][0], rel=tolerance)
    for name, expected in found[1][1].items():
        assert (found[0][1][name] - expected).norm() <= tolerance * expected.norm() + 1e-6, name
