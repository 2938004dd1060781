"""Encoders of all kinds: right, or refused by name. Tiny ones with random weights, large enough for faults to show."""

from __future__ import annotations

import copy
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import models_sweep
import numpy as np
import pytest
import tiny_decoders
import torch
import transformers as T
from ranks import ROOT
from safetensors.torch import load_file, save_file
from stilts_launcher.start import prepare_run
from torch.testing import assert_close

from stilts_ds.config import EvaluationPart, ModelPart, parse_recipe
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_model
from stilts_ds.model.checks import check_dropout, largest_window
from stilts_ds.model.encoder import load_encoder, read_language_head
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.model_files import ModelLimits, fit_retrieval_length, limits_of, shape_of
from stilts_ds.model_kinds import sees_of
from stilts_ds.phase_setup import check_retrieval
from stilts_ds.planning.memory import trained_parameters
from stilts_ds.rows.batch import Batch

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 200,
}
WIDE: dict[str, Any] = {"initializer_range": 0.3}  # weights as large as trained ones
ROBERTA: dict[str, Any] = {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}


def modernbert() -> Any:
    return T.ModernBertConfig(**SIZES, **WIDE, local_attention=16, pad_token_id=3)


def gemma(**more: Any) -> Any:
    layers = ["sliding_attention", "sliding_attention", "full_attention"]
    return T.Gemma3TextConfig(
        **SIZES,
        **WIDE,
        **{
            "num_key_value_heads": 4,
            "head_dim": 8,
            "sliding_window": 8,
            "use_bidirectional_attention": True,
            "layer_types": layers,
            "pad_token_id": 0,
            "max_position_embeddings": 512,
            **more,
        },
    )


def distilbert(**more: Any) -> Any:
    return T.DistilBertConfig(vocab_size=200, dim=32, n_layers=3, n_heads=4, hidden_dim=64, **more)


def saved(config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    T.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def batch_of(*lengths: int) -> Batch:
    torch.manual_seed(1)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    position = torch.arange(len(row)) - offsets[row]
    return Batch(torch.randint(10, 190, (len(row),)), torch.zeros_like(row), row, position, offsets, lengths)


@pytest.mark.parametrize(
    "config, packs",
    [
        (modernbert(), False),
        (gemma(), False),
        (gemma(sliding_window=4096), True),
        (T.CamembertConfig(**SIZES, **WIDE, **ROBERTA), True),
        (T.LongformerConfig(**SIZES, **WIDE, **ROBERTA, attention_window=[8] * 3), False),
    ],
    ids=["modernbert", "gemma, window", "gemma", "camembert", "longformer"],
)
def test_rows_longer_than_every_window_have_the_models_own_hidden_states(
    config: Any, packs: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(config, tmp_path / "model")
    with caplog.at_level(logging.INFO):
        model = build_model(load_encoder(folder, ModelPart()), [], 1).eval()
    assert model.packs == packs and ("none is padded" if packs else "rows are padded") in caplog.text
    batch, plain = batch_of(40, 3, 60, 17), T.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        found = model(batch, "hidden")
        for row in range(4):
            mine = batch.row == row
            alone = plain(input_ids=batch.input_ids[mine][None]).last_hidden_state[0]
            assert_close(found[mine], alone, rtol=1e-4, atol=1e-4)


def test_a_model_that_counts_the_tokens_of_a_call_gets_padded_rows(tmp_path: Path) -> None:
    """Packed rows are more tokens together than it has positions; each row alone is not."""
    config = T.AutoConfig.for_model("tipsv2_text_model", **SIZES, max_position_embeddings=64)
    model = build_model(load_encoder(saved(config, tmp_path / "model"), ModelPart()), [], 1).eval()
    assert not model.packs
    with torch.no_grad():
        assert model(batch_of(64, 3), "hidden").isfinite().all()


def test_windows_are_found_under_every_name() -> None:
    assert largest_window(modernbert()) == 16 and largest_window(gemma()) == 8
    assert largest_window(T.LongformerConfig(**SIZES, attention_window=[8, 40, 8])) == 40
    assert largest_window(T.NeoMMEConfig()) == 1024  # of some layers; `sliding_window` is 256
    assert largest_window(T.XLMRobertaConfig()) == largest_window(T.BertConfig()) == 0


TOUCHED = np.array([0, 2, 3, 5, *range(10, 60)])  # without the padding ids 1 of RoBERTa's relatives


@pytest.mark.parametrize(
    "config",
    [
        gemma(),
        modernbert(),
        distilbert(),
        T.CamembertConfig(**SIZES, **WIDE, **ROBERTA),
        T.ElectraConfig(**SIZES, **WIDE, embedding_size=16),
        T.AlbertConfig(**SIZES, **WIDE, embedding_size=16, pad_token_id=0),
        T.RemBertConfig(**SIZES, **WIDE, input_embedding_size=16, pad_token_id=0),
        tiny_decoders.config("gpt2", pad_token_id=None),
        tiny_decoders.config("qwen3"),
        tiny_decoders.config("gemma3"),
    ],
    ids=lambda config: config.model_type,
)
def test_touched_rows_train_the_same_model_as_all(config: Any, tmp_path: Path) -> None:
    """Losses and every weight after three steps of AdamW; the rest of the vocabulary has only decayed."""
    encoder: Any = load_encoder(saved(config, tmp_path / "model"), ModelPart(dropout=0))
    batch = batch_of(7, 12, 3)
    batch.input_ids[:] = 10 + batch.input_ids % 50
    losses, weights = [], []
    for touched in (False, True):
        model: Any = build_model(copy.deepcopy(encoder), [], 1).train()
        if touched:
            narrow_vocabulary(model.encoder, TOUCHED, keep_rest=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        losses.append([])
        for _ in range(3):
            loss = model(batch, "hidden").square().sin().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
        found = {name: value.detach() for name, value in model.named_parameters()}
        layer = model.encoder.get_input_embeddings()
        [name] = [name for name, part in model.named_modules() if part is layer]
        if touched:
            found[f"{name}.weight"] = layer.whole(found[f"{name}.weight"], (1 - 1e-2 * 0.1) ** 3)
        weights.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for name, value in weights[0].items():
        assert_close(weights[1][name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "config",
    [
        distilbert(),
        modernbert(),
        gemma(),
        T.XLMConfig(vocab_size=200, emb_dim=32, n_layers=2, n_heads=4),
        T.BertConfig(**SIZES),
        T.AlbertConfig(**SIZES, embedding_size=16, pad_token_id=0),
    ],
    ids=lambda config: config.model_type,
)
def test_dropout_acts_under_every_name_that_models_have_for_it(config: Any, tmp_path: Path) -> None:
    folder, spec = saved(config, tmp_path / "model"), HeadSpec("nli", "pair", ("a", "b"))
    ids = torch.arange(10, 40)[None]
    for rate in (0.0, 0.5):
        encoder: Any = load_encoder(folder, ModelPart(dropout=rate, attn_implementation="eager")).train()
        one, two = (encoder(input_ids=ids).last_hidden_state for _ in range(2))
        assert torch.equal(one, two) == (rate == 0)
        head: Any = build_model(encoder, [spec], 1).head("nli")
        assert head.dropout.p == rate


def test_a_model_without_dropout_cannot_be_given_any(tmp_path: Path) -> None:
    config = T.NomicBertConfig(**SIZES, pad_token_id=0)
    folder = saved(config, tmp_path / "model")
    encoder: Any = load_encoder(folder, ModelPart())
    for part in encoder.modules():  # as a model whose rates are none of its configuration
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    encoder.config._attn_implementation = "eager"
    check_dropout(encoder, 0.0, "folder")
    with pytest.raises(UserError, match=r"model.dropout=0.3: the dropout of folder \(nomic_bert\) cannot be set"):
        check_dropout(encoder, 0.3, "folder")


REFUSED: list[tuple[Any, str]] = [
    (
        T.MBartConfig(
            vocab_size=200,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
        ),
        r"mbart.*encoder-decoder",
    ),
    (T.MT5Config(vocab_size=200, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4), r"mt5.*encoder-decoder"),
    (T.BioGptConfig(**SIZES), r"biogpt.*left to right"),
    (T.BertConfig(**SIZES, is_decoder=True), r"bert.*left to right"),
    (T.XmodConfig(**SIZES, **ROBERTA, languages=["en_XX", "de_DE"], default_language="en_XX"), r"xmod.*the language"),
    (T.XLMConfig(vocab_size=200, emb_dim=32, n_layers=1, n_heads=4, n_langs=3, use_lang_emb=True), "the language"),
    (T.CanineConfig(**{**SIZES, "vocab_size": None}, num_hash_buckets=64), "reads characters"),
    (T.FNetConfig(**SIZES), r"fnet.*padding"),
    # Rounding lets a later token change the first one's state, although no attention does.
    (T.OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2, pad_token_id=1), r"olmoe.*left to right"),
]


@pytest.mark.parametrize("config, reason", REFUSED, ids=[f"{c.model_type}-{i}" for i, (c, _) in enumerate(REFUSED)])
def test_what_is_no_encoder_of_rows_is_refused_by_name(config: Any, reason: str, tmp_path: Path) -> None:
    folder = saved(config, tmp_path / "model")
    with pytest.raises(UserError, match=reason):
        load_encoder(folder, ModelPart())


def test_a_plan_refuses_an_encoder_decoder_before_anything_is_made(tmp_path: Path) -> None:
    """A recipe that asks programs of it: its configuration says enough, no weights are looked at."""
    REFUSED[1][0].save_pretrained(tmp_path / "model")
    given = {"name": "x", "targets": ["humaneval_xl"], "data": {"source": "toy"}, "output_dir": str(tmp_path)}
    recipe = parse_recipe({**given, "model": {"name_or_path": str(tmp_path / "model")}}, "the recipe")
    with pytest.raises(UserError, match=r"\(mt5\): it is an encoder-decoder.*use an encoder such as xlm-roberta-base"):
        prepare_run(recipe, {})


@pytest.mark.parametrize(
    "config",
    [
        T.ElectraConfig(**SIZES, embedding_size=16),
        T.AlbertConfig(**SIZES, embedding_size=16, pad_token_id=0),
        T.RemBertConfig(**SIZES, input_embedding_size=16, pad_token_id=0),
        T.ModernBertConfig(**SIZES, pad_token_id=0),
        distilbert(),
        T.XLMRobertaConfig(**SIZES),
        T.BertConfig(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
@pytest.mark.parametrize("with_head", [False, True])
def test_planned_parameters_are_those_of_the_encoder_that_is_loaded(
    config: Any, with_head: bool, tmp_path: Path
) -> None:
    """Of the folder of an encoder, and of a language model that keeps its head."""
    (T.AutoModelForMaskedLM if with_head else T.AutoModel).from_config(config).save_pretrained(tmp_path)
    encoder: Any = load_encoder(tmp_path, ModelPart())
    real = sum(parameter.numel() for parameter in encoder.parameters())
    words = encoder.get_input_embeddings().weight
    shape = shape_of(tmp_path)
    assert shape is not None and (shape.parameters, shape.width) == (real, words.shape[1])
    assert trained_parameters(shape, 100, []) == real - words.numel() + 100 * words.shape[1]


# --- positions, layers -----------------------------------------------------------------------------------------------

POSITIONS: dict[str, Any] = {"max_position_embeddings": 40, "pad_token_id": 1}


@pytest.mark.parametrize(
    "config, longest",
    [
        (T.CamembertConfig(**SIZES, **POSITIONS), 38),
        (T.XLMRobertaXLConfig(**SIZES, **POSITIONS), 38),
        (T.Data2VecTextConfig(**SIZES, **POSITIONS), 38),
        (T.MPNetConfig(**SIZES, **POSITIONS), 38),
        (T.LongformerConfig(**SIZES, **POSITIONS, attention_window=[8] * 3), 38),
        (T.IBertConfig(**SIZES, **POSITIONS), 38),
        (T.RobertaPreLayerNormConfig(**SIZES, **POSITIONS), 38),
        (T.BertConfig(**SIZES, **POSITIONS), 40),
        (distilbert(max_position_embeddings=40), 40),
        (T.ElectraConfig(**SIZES, **POSITIONS), 40),
        (T.GPT2Config(vocab_size=200, n_embd=32, n_layer=3, n_head=4, n_positions=40), 40),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_longest_row_is_the_longest_that_each_kind_takes(config: Any, longest: int, tmp_path: Path) -> None:
    folder = saved(config, tmp_path / "model")
    assert limits_of(str(folder), None) == ModelLimits(longest, 3, sees_of(config.to_dict()))
    encoder: Any = load_encoder(folder, ModelPart(attn_implementation="eager")).eval()
    encoder(input_ids=torch.full((1, longest), 50))
    with pytest.raises((IndexError, RuntimeError)):
        encoder(input_ids=torch.full((1, longest + 16), 50))  # Longformer pads to its window


def test_rows_and_layers_that_a_model_has_not_got_are_refused_before_training() -> None:
    retrieval, target = ([SimpleNamespace(train=train)] for train in ((), ("mnli",)))
    limits = ModelLimits(256, 3)
    check_retrieval(EvaluationPart(), target, limits)  # type: ignore[arg-type]
    for layer in (-4, 0, 3):
        part = EvaluationPart(retrieval_max_seq_length=256, retrieval_layer=layer)
        check_retrieval(part, retrieval, limits)  # type: ignore[arg-type]
    for part, message in (
        (EvaluationPart(retrieval_max_seq_length=257), "retrieval_max_seq_length=257, but the model takes 256 tokens"),
        (EvaluationPart(retrieval_max_seq_length=256, retrieval_layer=4), "retrieval_layer=4, but the model has 3"),
        (EvaluationPart(retrieval_max_seq_length=256, retrieval_layer=-5), "retrieval_layer=-5, but the model has 3"),
    ):
        with pytest.raises(UserError, match=message):
            check_retrieval(part, [*target, *retrieval], limits)  # type: ignore[arg-type]
    check_retrieval(EvaluationPart(retrieval_layer=14), retrieval, ModelLimits(None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("old_names", [False, True])
def test_berts_language_head_gives_the_checkpoints_own_logits(activation: str, old_names: bool, tmp_path: Path) -> None:
    """As it is written now, and with the names that LayerNorm had in old checkpoints (mBERT's)."""
    torch.manual_seed(0)
    plain = T.BertForMaskedLM(T.BertConfig(**SIZES, **WIDE, hidden_act=activation)).eval()
    plain.save_pretrained(tmp_path)
    if old_names:
        file = tmp_path / "model.safetensors"
        tensors = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            if name.startswith("cls")
            else name: value
            for name, value in load_file(file).items()
        }
        save_file(tensors, file, {"format": "pt"})
    weights = read_language_head(tmp_path)
    if activation == "relu":
        assert weights is None
        return
    assert weights is not None
    model: Any = build_model(load_encoder(tmp_path, ModelPart()), [HeadSpec("mlm", "text")], 1).eval()
    set_language_head(model.head("mlm"), weights, "folder")
    batch = batch_of(9)
    found = model.head("mlm")(model(batch, "hidden"), model.word_embedding)
    assert_close(found, plain(input_ids=batch.input_ids[None]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "kind",
    [
        "xlm-roberta",
        "modernbert",
        "deberta-v2",
        "neomme",
        "fnet",
        "funnel",
        "canine",
        "mbart",
        "qwen3",
        "mllama",
        "modernvbert",
        "perceiver",
        "t5gemma",
    ],
)
def test_the_page_of_models_says_what_is_found(kind: str) -> None:
    """A sample; the whole page takes minutes."""
    assert models_sweep.table([kind])[0] in (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("\n")


def test_no_model_on_the_page_is_wrong() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \|", page, re.MULTILINE)
    assert [kind for kind, _ in rows] == models_sweep.kinds()
    assert {verdict for _, verdict in rows} == {"right", "refused"}


def test_the_default_length_of_retrieval_is_lowered_to_what_the_model_takes() -> None:
    """The toy model takes 256 tokens. Another length that a model does not take is refused before training."""
    recipe = parse_recipe({"name": "x", "targets": ["tatoeba"], "model": {"name_or_path": "toy"}}, "test")
    assert fit_retrieval_length(recipe).evaluation.retrieval_max_seq_length == 256
    asked = recipe.evaluation.model_copy(update={"retrieval_max_seq_length": 300})
    recipe = recipe.model_copy(update={"evaluation": asked})
    assert fit_retrieval_length(recipe).evaluation.retrieval_max_seq_length == 300
