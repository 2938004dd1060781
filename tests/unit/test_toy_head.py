"""The tiny XLM-R's language modelling head: shipped, trained apart from its encoder, and read as any checkpoint's."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from stilts_ds.config import ModelPart
from stilts_ds.model.encoder import load_encoder, read_language_head
from stilts_ds.model_files import TOY
from stilts_ds.toy import corpus
from stilts_ds.toy.head import LANGUAGE_HEAD, masked_batch, masked_model, save_with_head, train_head
from stilts_ds.toy.languages import LANGUAGES
from stilts_ds.toy.sources import Source


def lines(count: int) -> list[str]:
    """Stories that the shipped model was not trained on, in all languages."""
    source = Source(77)
    return [line for code in LANGUAGES for line in corpus.lines(source.dice(f"text/{code}"), code, count)]


def masked_loss(folder: Path, head: dict[str, torch.Tensor]) -> float:
    model = masked_model(folder, load_file(folder / "model.safetensors")).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for name, value in head.items():
            model.lm_head.get_parameter(name).copy_(value)
        ids, gold, attends = masked_batch(tokenizer(lines(12))["input_ids"], tokenizer, np.random.default_rng(0))
        logits = model(ids, attention_mask=attends).logits
    return float(torch.nn.functional.cross_entropy(logits[gold >= 0], gold[gold >= 0]))


def test_the_shipped_model_foresees_masked_words_with_its_own_head() -> None:
    head = read_language_head(TOY)
    assert head is not None and set(head) == set(LANGUAGE_HEAD)
    model = masked_model(TOY, load_file(TOY / "model.safetensors"))
    new = {name: model.lm_head.get_parameter(name).detach() for name in LANGUAGE_HEAD}
    # Chance among 953 pieces is 6.9.
    assert masked_loss(TOY, head) < 1.6 < 3 < masked_loss(TOY, new)


def test_a_head_is_trained_and_saved_while_the_encoder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TOY, folder)
    monkeypatch.setattr("stilts_ds.toy.head.world_lines", lambda world: lines(10))
    before = load_encoder(TOY, ModelPart(), None, torch.device("cpu"), "fp32").state_dict()
    head = train_head(folder, tmp_path, steps=3, batch=4)
    again = train_head(folder, tmp_path, steps=3, batch=4)
    assert all(torch.equal(head[name], again[name]) for name in LANGUAGE_HEAD)
    head["bias"] = head["bias"][:900]  # of a vocabulary that grew since
    save_with_head(folder, head)
    kept = read_language_head(folder)
    assert kept is not None and not kept["bias"][900:].any()
    assert torch.equal(kept["dense.weight"], head["dense.weight"].bfloat16().float())
    after = load_encoder(folder, ModelPart(), None, torch.device("cpu"), "fp32").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
