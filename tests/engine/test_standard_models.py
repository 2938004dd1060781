"""Our heads as transformers' classes: the same scores where a class computes them, a refusal where none does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import get_family
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.standard import check_same_outputs, standard_model

SIZES: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
DECODER = {"vocab_size": 60, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
SPECS = {
    "pair": HeadSpec("h", "pair", ("bad", "fine", "good")),
    "regression": HeadSpec("h", "regression"),
    "tag": HeadSpec("h", "tag", ("O", "X")),
    "span": HeadSpec("h", "span"),
    "choice": HeadSpec("h", "choice", width=2),
    "text": HeadSpec("h", "text"),
}
CONFIGS: dict[str, Any] = {
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(**SIZES),
    "bert": lambda: transformers.BertConfig(**SIZES),
    "albert": lambda: transformers.AlbertConfig(**SIZES, embedding_size=16),
    "electra": lambda: transformers.ElectraConfig(**SIZES, embedding_size=16),
    "gpt2": lambda: transformers.GPT2Config(**DECODER),
}
# ELECTRA's and ALBERT's language heads and ELECTRA's and GPT-2's classifiers are of other forms than ours.
SAME = [
    *(("xlm-roberta", family) for family in SPECS),
    *(("bert", family) for family in SPECS),
    *(("albert", family) for family in ("pair", "regression", "tag", "span", "choice")),
    *(("electra", family) for family in ("tag", "span")),
    ("gpt2", "tag"),
    ("gpt2", "text"),
]
OTHER = [("electra", "pair"), ("gpt2", "pair"), ("gpt2", "regression")]


def exported(kind: str, family: str, folder: Path) -> tuple[Any, Any]:
    """A standard model, and the network with our head that it was made of; weights are random."""
    torch.manual_seed(5)
    config = CONFIGS[kind]()
    encoder = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
    config.save_pretrained(folder)
    spec = SPECS[family]
    ours = build_model(encoder, [spec], 1).eval()
    for parameter in ours.heads.parameters():  # not the zeros of new biases: these must arrive, too
        torch.nn.init.normal_(parameter, std=0.5)
    standard = get_family(family).standard[ours.backbone.sees]
    outputs = len(spec.labels) or standard.outputs
    # An exported encoder has no pooler (load_encoder).
    weights = {name: tensor for name, tensor in ours.encoder.state_dict().items() if not name.startswith("pooler")}
    model = standard_model(folder, standard.auto_class, ours.head("h"), weights, spec.labels, outputs)
    return model, ours


@pytest.mark.parametrize(("kind", "family"), SAME)
def test_a_class_of_transformers_gives_our_scores(kind: str, family: str, tmp_path: Path) -> None:
    model, ours = exported(kind, family, tmp_path / "config")
    check_same_outputs(model, ours, "h", SPECS[family].width)
    # Also from its files, by the class that users name.
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model").eval()
    check_same_outputs(again, ours, "h", SPECS[family].width)
    labels = SPECS[family].labels
    assert not labels or again.config.id2label == dict(enumerate(labels))


@pytest.mark.parametrize(("kind", "family"), OTHER)
def test_a_head_that_no_class_computes_is_refused(kind: str, family: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no head of this form|computes other scores"):
        model, ours = exported(kind, family, tmp_path)
        check_same_outputs(model, ours, "h", SPECS[family].width)


def test_another_weight_is_noticed(tmp_path: Path) -> None:
    model, ours = exported("bert", "pair", tmp_path)
    with torch.no_grad():
        model.classifier.bias[1] += 0.1
    with pytest.raises(UserError, match="computes other scores than the phase's head"):
        check_same_outputs(model, ours, "h", 1)
