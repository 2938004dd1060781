"""Encoders from folders, heads of every family, idle heads without gradient, token types where a model has them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pieces
import pytest
import small
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

from stilts_ds.batches.collate import Collator
from stilts_ds.config import ModelPart, TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.model.backbone import Backbone
from stilts_ds.model.encoder import load_encoder, save_encoder
from stilts_ds.model.heads import HeadSpec
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import touch
from stilts_ds.model_files import fingerprint, longest_row
from stilts_ds.rows.batch import Batch, pack_rows
from stilts_ds.rows.tokenizer import Tokenizer

SETTING = ModelPart()
SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def xlmr_config(**more: Any) -> XLMRobertaConfig:
    return XLMRobertaConfig(
        **{**SIZES, "vocab_size": 60, "max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1, **more}
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    XLMRobertaModel(xlmr_config(), add_pooling_layer=False).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def batch_of(*names: str, items: int = 3) -> Batch:
    tasks = small.tasks()
    chosen = [(i, name, i) for name in names for i in range(items)]
    return Collator(tasks, small.tokenizer_stub(), 0.15, 0)(chosen, 0, dict.fromkeys(names, 1.0))  # type: ignore[arg-type]


def test_each_family_reads_off_logits_of_its_shape() -> None:
    batch = batch_of(*small.tasks())
    logits = small.model().eval()(batch, "logits")
    heads = batch.heads
    assert len(heads["squad"].tokens) == sum(small.tasks()["squad"].rows.row_lengths[:3])
    assert list(logits) == sorted(small.tasks())
    assert {name: tuple(value.shape) for name, value in logits.items()} == {
        "nli": (3, 3),
        "nli2": (3, 3),
        "copa": (3 * 2, 1),
        "squad": (len(heads["squad"].tokens), 2),
        "tags": (len(heads["tags"].gold), 4),
        "mlm": (len(heads["mlm"].gold), small.VOCABULARY),
    }


def test_heads_without_targets_give_no_logits_and_a_loss_of_zero() -> None:
    model, batch = small.model().eval(), batch_of("nli")
    logits = model(batch, "logits")
    assert {name for name, value in logits.items() if len(value)} == {"nli"}
    total, sums, counts = model(batch)
    index = small.tasks()["nli"].index
    assert counts.nonzero().tolist() == [[index]] and sums.nonzero().tolist() == [[index]]
    torch.testing.assert_close(total, sums[index])


@pytest.mark.parametrize("active", sorted(small.tasks()))
def test_idle_heads_have_a_gradient_of_exactly_zero(active: str) -> None:
    model = small.model(dropout=0.1).train()
    model(batch_of(active))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # The bias of a choice head shifts all choices alike: its gradient is zero but for rounding.
        if name.startswith("heads.") and name != f"heads.{active}.out_proj.bias":
            assert bool(parameter.grad.any()) == (name.split(".")[1] == active), name
    assert model.word_embedding.grad is not None and model.word_embedding.grad.any()


def test_a_batch_without_targets_has_zero_gradients_everywhere() -> None:
    model = small.model().train()
    model(pack_rows([], small.tokenizer_stub()))[0].backward()  # type: ignore[arg-type]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_a_choices_loss_is_over_the_rows_of_its_own_question() -> None:
    """Cross-entropy computed by hand from one row's score at a time."""
    model, tasks = small.model().eval(), small.tasks()
    batch = batch_of("copa")
    with torch.no_grad():
        _, sums, _ = model(batch)
        scores = model(batch, "logits")["copa"].flatten().tolist()
    gold = tasks["copa"].rows.label
    assert gold is not None
    expected = 0.0
    for question in range(3):
        two = torch.tensor(scores[2 * question : 2 * question + 2])
        expected -= torch.log_softmax(two, 0)[int(gold[question])].item()
    assert sums[tasks["copa"].index].item() == pytest.approx(expected, rel=1e-5)


def test_a_spans_loss_is_the_mean_of_start_and_end_over_real_tokens() -> None:
    model, tasks = small.model().eval(), small.tasks()
    batch = batch_of("squad")
    with torch.no_grad():
        _, sums, _ = model(batch)
        logits = model(batch, "logits")["squad"]
    expected = 0.0
    for row, window in enumerate(logits.split(list(batch.lengths))):
        for side in range(2):
            gold = int(batch.heads["squad"].gold[row, side])
            expected -= torch.log_softmax(window[:, side], 0)[gold].item() / 2
    assert sums[tasks["squad"].index].item() == pytest.approx(expected, rel=1e-5)


def test_the_language_model_head_decodes_with_the_word_embeddings() -> None:
    model = small.model()
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if name.startswith("heads.mlm") and "decoder" in name]
    with torch.no_grad():
        before = model.eval()(batch_of("mlm"), "logits")["mlm"].clone()
        model.word_embedding[small.VOCABULARY - 2] += 1  # a row's decoder weight moves that token's logit
        assert not torch.equal(before, model(batch_of("mlm"), "logits")["mlm"])


def test_hidden_states_of_a_layer_are_the_encoders_own() -> None:
    model, batch = small.model(packed=False).eval(), batch_of("nli", items=1)
    states = model.encoder(batch.input_ids[None], output_hidden_states=True).hidden_states
    for layer in (0, 1, -1):
        assert torch.equal(model(batch, "hidden", layer), states[layer][0])


STACKS: dict[str, Any] = {
    # kind: (further settings of four layers, layers that are left for hidden state 1, and for -3)
    "xlm-roberta": ({"type_vocab_size": 1}, 2, 3),
    "llama": ({"num_key_value_heads": 2}, 2, 3),  # norms what its last layer gives
    "albert": ({"embedding_size": 16}, 1, 1),  # one layer, called four times
}


@pytest.mark.parametrize("kind", STACKS)
def test_layers_above_the_one_that_is_asked_for_are_let_go(kind: str) -> None:
    more, *lefts = STACKS[kind]
    config = AutoConfig.for_model(
        kind, **{**SIZES, "num_hidden_layers": 4}, vocab_size=60, max_position_embeddings=66, pad_token_id=1, **more
    )
    network = AutoModel.from_config(config).eval()
    batch = batch_of("nli", items=2)
    with torch.no_grad():
        for layer, left in zip((1, -3), lefts):
            backbone = Backbone(copy.deepcopy(network))
            expected = backbone.hidden_states(batch, layer)
            index = backbone.drop_layers_above(layer, batch_of("nli", items=1))
            assert torch.equal(backbone.hidden_states(batch, index), expected)
            stack = max((part for part in backbone.network.modules() if isinstance(part, torch.nn.ModuleList)), key=len)
            assert len(stack) == left
        assert Backbone(network).drop_layers_above(-1, batch) == -1


def test_a_network_that_needs_all_its_layers_keeps_them() -> None:
    class Counting(XLMRobertaModel):
        def forward(self, *given: Any, **more: Any) -> Any:
            assert len(self.encoder.layer) == self.config.num_hidden_layers, "a layer is missing"
            return super().forward(*given, **more)

    backbone = Backbone(Counting(xlmr_config(num_hidden_layers=4), add_pooling_layer=False).eval())
    with torch.no_grad():
        assert backbone.drop_layers_above(-4, batch_of("nli", items=1)) == -4
    assert len(backbone.network.encoder.layer) == 4


@pytest.mark.parametrize("ids, rows", [([0, 2, 3, 7, 9], [0, 1, 2, 3, 7, 9]), ([0, 1, 2, 9], [0, 1, 2, 9])])
def test_only_the_padding_row_of_a_narrow_vocabulary_has_no_gradient(ids: list[int], rows: list[int]) -> None:
    """Also where the model's padding id (1) is no special token of the tokenizer and thus not among the ids."""
    whole = torch.nn.Embedding(12, 4, padding_idx=1)
    narrow = touch(copy.deepcopy(whole), np.array(ids), keep_rest=True)
    assert narrow.ids.tolist() == rows and torch.equal(narrow.weight, whole.weight[rows])
    used = torch.tensor([*rows, 9])
    assert torch.equal(narrow(used), whole(used))
    for embedding in (narrow, whole):
        embedding(used).sum().backward()
    assert whole.weight.grad is not None and narrow.weight.grad is not None
    assert narrow.weight.grad[:, 0].tolist() == [float(rows.count(i) and i != 1) + (i == 9) for i in rows]
    assert torch.equal(narrow.weight.grad, whole.weight.grad[rows])


def test_an_encoder_written_loads_with_the_same_values(folder: Path, tmp_path: Path) -> None:
    model = load_encoder(folder, SETTING)
    state = {name: value + 1 for name, value in model.state_dict().items() if value.is_floating_point()}
    save_encoder(model, state, tmp_path / "out")
    for again in (load_encoder(tmp_path / "out", SETTING), AutoModel.from_pretrained(tmp_path / "out")):
        for name, value in state.items():
            assert torch.equal(again.state_dict()[name], value), name
    assert fingerprint(str(folder), None) != fingerprint(str(tmp_path / "out"), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_encoder_trained_in_half_precision_loads_in_float32(dtype: Any, folder: Path, tmp_path: Path) -> None:
    model = load_encoder(folder, SETTING)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    save_encoder(model.to(dtype), state, tmp_path / "out")
    again = AutoModel.from_pretrained(tmp_path / "out")
    for name, value in state.items():
        assert again.state_dict()[name].dtype == value.dtype and torch.equal(again.state_dict()[name], value), name


def test_a_language_model_checkpoint_serves_as_encoder(tmp_path: Path) -> None:
    whole = XLMRobertaForMaskedLM(xlmr_config())
    whole.save_pretrained(tmp_path)
    loaded = load_encoder(tmp_path, SETTING)
    assert not hasattr(loaded, "pooler") or loaded.pooler is None
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, whole.roberta.state_dict()[name])


def test_dropout_is_the_models_own_unless_the_recipe_sets_it(folder: Path) -> None:
    own: Any = load_encoder(folder, SETTING).config
    assert own.hidden_dropout_prob == 0.1
    config: Any = load_encoder(folder, ModelPart(dropout=0.25)).config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.25


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def empty_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def other_weights(folder: Path) -> None:
    DistilBertModel(
        DistilBertConfig(vocab_size=60, max_position_embeddings=66, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    ).save_pretrained(folder / "other")
    (folder / "other" / "model.safetensors").replace(folder / "model.safetensors")


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "has no weights"),
        (cut_weights, "cannot load a model"),
        (empty_weights, "header is damaged"),
        (lambda f: (f / "config.json").write_text("{"), "is not valid JSON"),
        (lambda f: (f / "config.json").write_text("{}"), "cannot load a model"),
        (other_weights, "weights are missing for .* parameters, such as e|mixes the files of two"),
        (lambda f: edit_config(f, num_hidden_layers=2), "config.json makes a model of .* mixes the files of two"),
        (lambda f: edit_config(f, hidden_size=8), r"has shape \[16\], but config.json makes it \[8\]"),
        (lambda f: edit_config(f, hidden_size=10**9), "hidden_size is 1000000000"),
        (lambda f: edit_config(f, model_type="no-such-model"), "cannot load a model"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(damage: Any, message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as problem:
        load_encoder(folder, SETTING)
    assert str(folder) in str(problem.value)


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_encoder(tmp_path / "none", SETTING)


@pytest.mark.parametrize("length, works", [(64, True), (65, False)])
def test_the_longest_row_is_the_longest_that_the_model_takes(length: int, works: bool, folder: Path) -> None:
    assert longest_row(str(folder)) == 64
    model = load_encoder(folder, ModelPart(attn_implementation="sdpa")).eval()
    ids = torch.full((1, length), 5)
    if works:
        assert model(input_ids=ids).last_hidden_state.shape == (1, length, 16)
    else:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids)


def bert(types: int = 2) -> tuple[MultiTask, Batch]:
    encoder = Tokenizer(pieces.bert_tokenizer(), "bert")
    torch.manual_seed(0)
    config = BertConfig(**{**SIZES, "vocab_size": encoder.vocabulary, "type_vocab_size": types})
    model = build_model(BertModel(config, add_pooling_layer=False), [HeadSpec("nli", "pair", ("a", "b"))], 1)
    rows = encode_pair(
        [Pair("1", "the cat", "on mat", "a"), Pair("2", "the", "a b c d", "b")], encoder, ("a", "b"), TrainingPart()
    )
    return model.eval(), pack_rows([(rows, 0), (rows, 1)], encoder)


def test_bert_sees_the_second_segment() -> None:
    model, batch = bert()
    assert model.backbone.uses_token_types and longest_row("bert-base-cased") is None
    with torch.no_grad():
        ours = model(batch, "hidden")
        theirs = pieces.bert_tokenizer()([["the cat", "on mat"], ["the", "a b c d"]], padding=True, return_tensors="pt")
        whole = model.encoder(**theirs).last_hidden_state
        torch.testing.assert_close(ours, whole[theirs["attention_mask"].bool()])
        batch.token_type_ids.zero_()
        assert not torch.allclose(ours, model(batch, "hidden"))


def test_a_model_with_one_token_type_gets_none() -> None:
    model, batch = bert(types=1)
    assert not model.backbone.uses_token_types and batch.token_type_ids.any()
    model(batch, "hidden")  # a type of 1 would be outside its embedding
