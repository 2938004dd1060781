"""Decoders from their folder to scores: trained on every family by the real engine, exported, loaded by others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import ranks
import tiny_decoders
import torch
import transformers as T
from conftest import stilts
from safetensors.torch import load_file
from tiny_decoders import KINDS

from stilts_ds.config import ModelPart
from stilts_ds.evaluate.generate import Generator
from stilts_ds.export import read_heads
from stilts_ds.families.build import build_model
from stilts_ds.families.decoding import Decoding
from stilts_ds.model.encoder import load_encoder
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model_kinds import ties_output
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.toy.world import ensure_toy_world

PROGRAM = ranks.PROGRAMS / "train_decoders.py"
TRAINED = (  # the nine intermediate tasks, and text by the next token
    *("anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa"),
    "mlm",
)
FAMILIES = {"tag", "choice", "text", "pair", "span"}


def trained(folder: Path, stage: int, *kinds: str) -> list[Path]:
    """The run folder of each kind."""
    ranks.run(PROGRAM, folder, stage, *kinds, ranks=1, timeout=1200, start=forked.start)
    return [folder / "runs" / str(number) for number in range(len(kinds))]


def check_run(run: Path, ties: bool) -> None:
    """Every phase is done and scored, all families were trained, and the model is the one that Hugging Face loads."""
    phases = {path.name.rsplit("-", 1)[0]: path for path in (run / "phases").iterdir()}
    targets = {"target-mnli", "target-squad_v1", "target-panx"}
    assert phases.keys() == {"intermediate-all", "retrieval-all", *targets}
    for name, phase in phases.items():
        assert json.loads((phase / "status.json").read_text())["state"] == "done"
        assert name == "intermediate-all" or list((phase / "results").iterdir())
    trained_phase = phases["intermediate-all"]
    records = [json.loads(line) for line in (trained_phase / "metrics.jsonl").read_text().splitlines()]
    by_task = {tag for record in records for tag in record if tag.startswith("train/loss/")}
    assert by_task == {f"train/loss/{task}" for task in TRAINED}
    assert sum("train/loss" in record for record in records) == 5
    [accuracy] = [record["eval/mlm/next_token_accuracy"] for record in records if "selection" in record]
    assert 0 <= accuracy <= 100
    assert {head.family for head in read_heads(trained_phase)} == FAMILIES
    folder = trained_phase / "encoder"
    tokenizer = T.AutoTokenizer.from_pretrained(folder)
    plain, language_model = T.AutoModel.from_pretrained(folder), T.AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer("a text", return_tensors="pt")["input_ids"]
    hidden = plain(ids).last_hidden_state
    torch.testing.assert_close(language_model.base_model(ids).last_hidden_state, hidden)
    heads = load_file(trained_phase / "heads.safetensors")
    output = plain.get_input_embeddings().weight if ties else heads["mlm.weight"]
    assert torch.equal(language_model.get_output_embeddings().weight, output)
    assert ("mlm.weight" in heads) != ties
    check_greedy_text(folder, language_model, None if ties else output)


def check_greedy_text(folder: Path, language_model: Any, output: torch.Tensor | None) -> None:
    """transformers' `generate` on the exported folder goes on from prompts as our own decoding does."""
    tokenizer = Tokenizer.load(folder)
    end = tokenizer.template.single_suffix[0]
    model: Any = build_model(load_encoder(folder, ModelPart()), [HeadSpec("code", "generate")], 1).eval()
    if not model.packs:
        return  # programs are refused
    if output is not None:
        model.head("code").weight.data = output
    prompts = [tokenizer.backend.encode(text, add_special_tokens=False).ids for text in ("a text", "x = 1\n", "Mira")]
    starts = np.cumsum([0, *map(len, prompts)])
    rows = Rows(np.concatenate(prompts).astype(np.int32), starts, np.diff(starts), np.arange(3), np.arange(4))
    decoding = Decoding(["a", "b", "c"], 1, 0.0, 1.0, end, 12, 48, lambda ids: False)
    written = Generator(model, tokenizer, torch.device("cpu"), "code", decoding).write(rows, range(3))
    for prompt, [ours] in zip(prompts, written):
        ids = torch.tensor([prompt])
        made = language_model.generate(ids, do_sample=False, max_new_tokens=12)
        assert ours == [token for token in made[0, len(prompt) :].tolist() if token != end]


@pytest.mark.processes
def test_a_decoder_is_trained_on_every_family_evaluated_and_loaded_by_others(tmp_path: Path) -> None:
    """GPT-2, whose tokenizer adds no special tokens."""
    [run] = trained(tmp_path, 1, "gpt2")
    check_run(run, ties=True)


@pytest.mark.slow
@pytest.mark.processes
def test_every_kind_of_decoder_is_trained_on_every_family(tmp_path: Path) -> None:
    kinds = [kind for kind in KINDS if kind != "gpt2"]  # trained above
    for kind, run in zip(kinds, trained(tmp_path, 1, *kinds)):
        check_run(run, ties_output(tiny_decoders.config(kind).to_dict()))


@pytest.mark.slow
@pytest.mark.processes
def test_decoders_are_trained_in_shards_with_recomputed_activations(tmp_path: Path) -> None:
    for ties, run in zip((True, False), trained(tmp_path, 3, "gpt2", "llama")):
        check_run(run, ties)


@pytest.mark.long
@pytest.mark.processes
def test_a_decoder_from_random_weights_beats_chance_on_pairs_and_on_choices(tmp_path: Path) -> None:
    """Inference (three labels) and the noun that an action is done to (five choices) on the toy world's dev splits, of
    200 examples each: eight points above chance are two and a half standard errors."""
    ensure_toy_world(tmp_path / "world", 20)
    tiny_decoders.save_with_tokenizer("qwen2", tmp_path / "model", tmp_path / "world", 900, initializer_range=0.05)
    steps = {"max_steps": 250, "train_batch_size": 32, "learning_rate": 4e-3, "max_seq_length": 64}
    steps |= {"per_device_train_batch_size": 32, "eval_examples": 200, "save_steps": 0}
    recipe = {
        "name": "learns", "model": {"name_or_path": str(tmp_path / "model")}, "data": {"source": "toy"},
        "intermediate": {"both": ["mnli", "commonsenseqa"]}, "targets": ["xnli"],
        "sampling": {"unit": "example", "weights": "uniform"}, "intermediate_training": steps, "launch": {"nproc": 1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    stilts("train", "recipe.yaml", "--phase", "both/seed1/intermediate", cwd=tmp_path, timeout=900)
    [metrics] = tmp_path.glob("runs/learns/phases/intermediate-*/metrics.jsonl")
    scores = [record for record in map(json.loads, metrics.read_text().splitlines()) if "selection" in record][-1]
    assert scores["eval/mnli/qaa/accuracy"] > 33.3 + 8
    assert scores["eval/commonsenseqa/qaa/accuracy"] > 20 + 8
