"""Decoders from their folder to scores: trained on every family by the real engine, exported, loaded by others."""

from __future__ import annotations

import json
from pathlib import Path

import forked
import pytest
import ranks
import torch
import transformers as T
from safetensors.torch import load_file
from tiny_decoders import KINDS

from stilts_ds.export import read_heads

PROGRAM = ranks.PROGRAMS / "train_decoders.py"
FAMILIES = {"tag", "choice", "text", "pair", "span"}


def trained(folder: Path, stage: int, *kinds: str) -> list[Path]:
    """The run folder of each kind."""
    ranks.run(PROGRAM, folder, stage, *kinds, ranks=1, timeout=1200, start=forked.start)
    return [folder / "runs" / str(number) for number in range(len(kinds))]


def check_run(run: Path, ties_output: bool) -> None:
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
    assert by_task == {f"train/loss/{task}" for task in ("mnli", "hellaswag", "squad_v2", "ccg", "mlm")}
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
    output = plain.get_input_embeddings().weight if ties_output else heads["mlm.weight"]
    assert torch.equal(language_model.get_output_embeddings().weight, output)
    assert ("mlm.weight" in heads) != ties_output


@pytest.mark.processes
def test_a_decoder_is_trained_on_every_family_evaluated_and_loaded_by_others(tmp_path: Path) -> None:
    """GPT-2, whose tokenizer adds no special tokens."""
    [run] = trained(tmp_path, 1, "gpt2")
    check_run(run, ties_output=True)


@pytest.mark.slow
@pytest.mark.processes
def test_every_kind_of_decoder_is_trained_on_every_family(tmp_path: Path) -> None:
    kinds = [kind for kind in KINDS if kind != "gpt2"]  # trained above
    for kind, run in zip(kinds, trained(tmp_path, 1, *kinds)):
        check_run(run, ties_output=not kind.startswith(("llama", "qwen2", "gpt_neox")))


@pytest.mark.slow
@pytest.mark.processes
def test_decoders_are_trained_in_shards_with_recomputed_activations(tmp_path: Path) -> None:
    for ties_output, run in zip((True, False), trained(tmp_path, 3, "gpt2", "llama")):
        check_run(run, ties_output)
