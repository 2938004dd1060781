"""Decoders: their own hidden states, packed; which tokens heads read; and a model that does not do as it claims."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import tiny_decoders
import torch
import transformers as T
from tokenizers import processors
from torch.testing import assert_close

from stilts_ds.batches.collate import Collator
from stilts_ds.config import EvaluationPart, ModelPart, TrainingPart, parse_recipe
from stilts_ds.errors import UserError
from stilts_ds.families.base import evaluation_masking
from stilts_ds.families.build import build_model
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.families.registry import get_family
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.tag.rows import encode_tag
from stilts_ds.families.text.record import Text
from stilts_ds.families.text.rows import encode_text
from stilts_ds.model.checks import check_hidden_states
from stilts_ds.model.encoder import load_encoder, read_output_layer, recompute_activations, save_encoder
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.pooling import pool
from stilts_ds.model_files import ModelLimits, Shape, shape_of
from stilts_ds.model_kinds import DECODERS, ties_output
from stilts_ds.phase_setup import check_packing, check_retrieval
from stilts_ds.planning.memory import MicroBatch, activations, trained_parameters
from stilts_ds.rows.batch import Batch
from stilts_ds.rows.tokenizer import Tokenizer, TokenTemplate

LENGTHS = (40, 3, 60, 17, 17)
LINES = ["ma soeur vend une pomme rouge", "der Lehrer liest zwei Bücher in Hamburg"] * 9


def batch_of(*lengths: int) -> Batch:
    torch.manual_seed(1)
    row = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    position = torch.arange(len(row)) - offsets[row]
    return Batch(torch.randint(10, 190, (len(row),)), torch.zeros_like(row), row, position, offsets, lengths)


def loaded(kind: str, folder: Path, *specs: HeadSpec, **more: Any) -> Any:
    tiny_decoders.save_model(kind, folder, **more)
    return build_model(load_encoder(folder, ModelPart()), specs, max(len(specs), 1)).eval()


def test_every_known_decoder_is_tried() -> None:
    assert {tiny_decoders.config(kind).model_type for kind in tiny_decoders.KINDS} == DECODERS.keys()


# --- hidden states ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", tiny_decoders.KINDS)
def test_rows_have_the_hidden_states_of_the_models_own_padded_rows(kind: str, tmp_path: Path) -> None:
    """Rows alone and in a padded batch, longer than the windows of attention (8 tokens)."""
    model = loaded(kind, tmp_path)
    assert model.packs == (kind not in tiny_decoders.PADDED)
    assert (model.backbone.sees, model.backbone.sentence_token) == ("left", "last")
    batch, plain = batch_of(*LENGTHS), T.AutoModel.from_pretrained(tmp_path).eval()
    rows = [batch.input_ids[batch.row == row] for row in range(len(LENGTHS))]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        states = model(batch, "hidden")
        padded = plain(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, length in enumerate(LENGTHS):
            mine = states[batch.row == row]
            assert_close(mine, padded[row, :length], rtol=1e-4, atol=1e-4)
            assert_close(mine, plain(input_ids=rows[row][None]).last_hidden_state[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_have_the_gradients_of_padded_ones(checkpointing: bool, tmp_path: Path) -> None:
    specs = [HeadSpec("nli", "pair", ("a", "b", "c")), HeadSpec("mlm", "text")]
    tiny_decoders.save_model("qwen2, window", tmp_path)
    tasks = small.tasks(specs, length=30, vocabulary=200)
    tasks = {name: dataclasses.replace(task, sees="left") for name, task in tasks.items()}
    items = [(i, specs[i % 2].name, i // 2) for i in range(16)]
    batch = Collator(tasks, small.tokenizer_stub(), 0.15, 0)(items, 0, dict.fromkeys(tasks, 0.1))  # type: ignore[arg-type]
    gradients = []
    for attention in ("packed", "sdpa"):
        torch.manual_seed(3)
        encoder = load_encoder(tmp_path, ModelPart(attn_implementation=attention))  # type: ignore[arg-type]
        model = build_model(encoder, specs, 2).train()
        assert model.packs == (attention == "packed")
        if checkpointing:
            recompute_activations(model.encoder, model.masks)
        model(batch)[0].backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[1].items():
        assert_close(gradients[0][name], expected, rtol=1e-4, atol=1e-5, msg=name)


def test_a_model_that_sees_what_it_should_not_is_found_out(tmp_path: Path) -> None:
    """A Llama without its causal mask; and an encoder whose attention has become causal."""
    tiny_decoders.save_model("llama", tmp_path)
    liar: Any = T.AutoModel.from_pretrained(tmp_path, attn_implementation="sdpa")
    check_hidden_states(liar, "folder")
    for layer in liar.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(
        UserError, match=r"folder \(llama\): its type is known to read from left .* later tokens change"
    ):
        check_hidden_states(liar, "folder")
    encoder: Any = small.model(packed=False).encoder
    check_hidden_states(encoder, "folder")
    for layer in encoder.encoder.layer:
        layer.attention.self.is_causal = True
    with pytest.raises(UserError, match="its first token knows nothing of the tokens behind it"):
        check_hidden_states(encoder, "folder")


def test_damaged_weights_of_a_decoder_are_called_so(tmp_path: Path) -> None:
    tiny_decoders.save_model("gpt2", tmp_path)
    model: Any = T.AutoModel.from_pretrained(tmp_path)
    torch.nn.init.constant_(model.h[1].attn.c_proj.weight, float("nan"))
    with pytest.raises(UserError, match=r"folder \(gpt2\): its hidden states are not finite; its weights are damaged"):
        check_hidden_states(model, "folder")


def test_a_decoder_that_mixes_no_tokens_is_found_out(tmp_path: Path) -> None:
    tiny_decoders.save_model("gpt2", tmp_path)
    model: Any = T.AutoModel.from_pretrained(tmp_path)
    for block in model.h:
        torch.nn.init.zeros_(block.attn.c_proj.weight)
    with pytest.raises(UserError, match="its last token knows nothing of the token before it"):
        check_hidden_states(model, "folder")


def test_operations_of_a_decoder_are_those_of_what_its_tokens_see(tmp_path: Path) -> None:
    operations = loaded("qwen3", tmp_path).backbone.operations()
    projections = 32 * 64 + 2 * 32 * 32 + 64 * 32  # 4 heads of 16 and 2 of keys and values
    weights = 3 * (projections + 3 * 32 * 64)
    assert operations.by_token == 6 * weights and operations.by_pair == 12 * 64 * 3
    assert operations.of(10, 100) == 6 * weights * 10 + 12 * 64 * 3 * 55  # 1 + 2 + ... + 10 pairs


# --- what heads read -------------------------------------------------------------------------------------------------


def decoder_tokenizer(**names: str) -> Tokenizer:
    plain = tiny_decoders.plain_tokenizer(LINES, **(names or {"eos_token": "<|endoftext|>"}))
    return Tokenizer(plain, "model", "left")


def test_a_template_ends_texts_where_the_tokenizer_adds_nothing() -> None:
    tokenizer = decoder_tokenizer()
    end = tokenizer.tokenizer.eos_token_id
    assert tokenizer.template == TokenTemplate((), (end,), (end,), (end,))
    named = decoder_tokenizer(eos_token="<end>", sep_token="<sep>")
    separator, end = named.tokenizer.sep_token_id, named.tokenizer.eos_token_id
    assert named.template == TokenTemplate((), (separator,), (end,), (end,))
    assert named.fingerprint != Tokenizer(named.tokenizer, "model").fingerprint
    with pytest.raises(UserError, match="has no token that ends a text.*name one as eos_token"):
        decoder_tokenizer(unk_token="<unk>")


def test_a_template_keeps_what_the_tokenizer_adds() -> None:
    """Llama's puts its first token before each of two texts, and nothing at the end."""
    plain = tiny_decoders.plain_tokenizer(LINES, bos_token="<s>", eos_token="</s>")
    start, end = plain.bos_token_id, plain.eos_token_id
    plain.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", start)]
    )
    assert Tokenizer(plain, "model", "left").template == TokenTemplate((start,), (start,), (end,), (end,))
    assert Tokenizer(plain, "model").template == TokenTemplate((start,), (start,), (), ())


def test_a_sentence_is_read_at_its_last_token() -> None:
    tokenizer = decoder_tokenizer()
    records = [Pair(str(i), "ma soeur" * i, "pomme", "a") for i in (1, 2)]
    rows = encode_pair(records, tokenizer, ("a",), TrainingPart())
    verbs = get_family("pair").verbs("left")
    masking = evaluation_masking(tokenizer, 0.15)
    ids = np.asarray(rows.input_ids)
    for item, start in enumerate(rows.starts[:-1].tolist()):
        [token] = verbs.targets(rows, item, [start], ids, masking).tokens
        assert token == rows.starts[item + 1] - 1 and ids[token] == tokenizer.tokenizer.eos_token_id


def test_no_answer_is_read_at_the_last_token_of_a_window() -> None:
    rows = small.tasks()["squad"].rows
    both, left = (get_family("span").verbs(sees) for sees in ("both", "left"))  # type: ignore[arg-type]
    masking: Any = None
    first, other = (verbs.targets(rows, 0, [7], rows.input_ids, masking) for verbs in (both, left))
    assert other.tokens[0] == first.tokens[-1] and other.tokens[-1] == first.tokens[0] == 7
    assert np.array_equal(other.tokens[1:-1], first.tokens[1:-1]) and np.array_equal(other.gold, first.gold)


def test_a_word_is_read_at_its_last_token() -> None:
    tokenizer = decoder_tokenizer()
    words = ("soeur", "Hamburg", "xyz", "ma")
    rows = encode_tag([Tagged("1", words, ("O", "new", "O", "O"))], tokenizer, ("O",), TrainingPart())
    verbs, masking = get_family("tag").verbs("left"), evaluation_masking(tokenizer, 0.15)
    read = verbs.reads(rows, 0, [0], rows.input_ids, masking)
    text = [tokenizer.tokenizer.decode(rows.input_ids[: token + 1]).split() for token in read]
    assert text == [list(words[: count + 1]) for count in range(4)]
    learnt = verbs.targets(rows, 0, [0], rows.input_ids, masking)
    assert learnt.tokens.tolist() == [token for word, token in enumerate(read) if word != 1]
    assert verbs.target_count(rows, 0, 0.15) == len(learnt.gold) == 3


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_text_is_learnt_with_the_models_own_next_token_loss(kind: str, tmp_path: Path) -> None:
    """Tied, untied and with capped logits; the sum of the loss's terms is that of AutoModelForCausalLM."""
    own = tiny_decoders.save_model(kind, tmp_path, 400)
    tokenizer = decoder_tokenizer()
    rows = encode_text([Text("1", LINES[0]), Text("2", LINES[1])], tokenizer, (), TrainingPart())
    task = dataclasses.replace(small.tasks()["mlm"], rows=rows, sees="left")
    collate = Collator({"mlm": task}, tokenizer, 0.15, 0)
    batch = collate([(0, "mlm", 0), (1, "mlm", 1)], 0, {"mlm": 1.0})
    model: Any = build_model(load_encoder(tmp_path, ModelPart()), [HeadSpec("mlm", "text")], 5).eval()
    output = read_output_layer(tmp_path)
    assert (output is None) == ties_output(own.config.to_dict())
    set_language_head(model.head("mlm"), output or {}, "folder")
    expected = 0.0
    with torch.no_grad():
        loss, _, counts = model(batch)
        for row in range(2):
            ids = torch.from_numpy(np.asarray(rows.input_ids[rows.starts[row] : rows.starts[row + 1]], np.int64))[None]
            expected += float(own(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert counts.sum() == sum(task.target_count(item, 0.15) for item in range(2)) == len(rows.input_ids) - 2


def test_a_pair_is_learnt_at_the_last_token_and_not_at_the_first(tmp_path: Path) -> None:
    """One word in the middle decides. Read at the first token, all rows look alike."""
    torch.manual_seed(5)
    rows = torch.randint(20, 180, (64, 6))
    rows[:, 0], rows[:, -1] = 10, 11
    gold = torch.arange(64) % 2
    rows[:, 3] = 12 + gold
    offsets = torch.arange(0, 65 * 6, 6)
    row = torch.arange(64).repeat_interleave(6)
    position = torch.arange(6).repeat(64)
    batch = Batch(rows.flatten(), torch.zeros_like(row), row, position, offsets, (6,) * 64)
    accuracy = {}
    for name, tokens in (("first", offsets[:-1]), ("last", offsets[1:] - 1)):
        trained = loaded("gpt2", tmp_path, HeadSpec("nli", "pair", ("a", "b")))
        optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
        for _ in range(15):
            logits = trained.head("nli")(trained(batch, "hidden")[tokens])
            loss = torch.nn.functional.cross_entropy(logits, gold)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy[name] = float((logits.argmax(1) == gold).float().mean())
    assert accuracy == {"first": 0.5, "last": 1.0}


@pytest.mark.parametrize("name", ["nli", "copa", "squad", "mlm"])
def test_each_family_says_how_many_targets_a_decoder_reads_and_stays_inside_the_item(name: str) -> None:
    task = dataclasses.replace(small.tasks()[name], sees="left")
    rows, masking = task.rows, evaluation_masking(small.tokenizer_stub(), 0.15)  # type: ignore[arg-type]
    for item in range(len(rows)):
        row, last = int(rows.items[item]), int(rows.items[item + 1])
        starts = rows.starts[row:last].tolist()
        targets = task.verbs.targets(rows, item, starts, rows.input_ids, masking)
        assert task.target_count(item, 0.15) == len(targets.gold)
        assert all(starts[0] <= token < rows.starts[last] for token in targets.tokens)


def test_a_gate_keeps_twice_the_inner_values_of_a_feed_forward_part() -> None:
    plain = Shape(layers=3, hidden=32, heads=4, intermediate=64, vocabulary=200, body=1, sees="left")
    gated, batch = dataclasses.replace(plain, gated=True), MicroBatch(rows=2, length=10)
    more = activations(gated, batch, 4, False) - activations(plain, batch, 4, False)
    assert more == 3 * 20 * 2 * 64 * 4  # layers, tokens, values of 64 each, bytes


def test_a_family_without_verbs_for_decoders_is_refused_by_name() -> None:
    family = dataclasses.replace(get_family("pair"), left_head=None)
    with pytest.raises(UserError, match="family 'pair' need a model whose tokens see both sides"):
        family.verbs("left")


def test_a_model_with_padded_rows_is_refused_before_the_phases_that_programs_wait_for(tmp_path: Path) -> None:
    """Gemma 2 trains on MNLI; the study's programs come later."""
    recipe = parse_recipe({"name": "x", "targets": ["xnli", "humaneval"], "intermediate": {"a": []}}, "the recipe")
    padded, packed = loaded("gemma2", tmp_path / "a"), loaded("gemma", tmp_path / "b")
    with pytest.raises(UserError, match=r"humaneval: .* have to be packed, and those of gemma2 are padded here; set"):
        check_packing(recipe, padded.backbone)
    check_packing(recipe, packed.backbone)
    without = parse_recipe({"name": "x", "targets": ["xnli"], "intermediate": {"a": ["mnli"]}}, "the recipe")
    check_packing(without, padded.backbone)


def test_sentences_of_a_decoder_are_pooled_over_all_tokens_or_at_the_last() -> None:
    hidden, offsets = torch.arange(10.0).reshape(5, 2), torch.tensor([0, 2, 5])
    assert pool(hidden, offsets, "last").tolist() == [[2, 3], [8, 9]]
    phases: Any = [SimpleNamespace(train=())]
    for pooling in ("mean", "last"):
        check_retrieval(EvaluationPart(retrieval_pooling=pooling), phases, ModelLimits(512, 3, "left"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="retrieval_pooling=first, but the model reads from left to right"):
        check_retrieval(EvaluationPart(retrieval_pooling="first"), phases, ModelLimits(512, 3, "left"))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gpt2", "llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("with_output", [False, True])
def test_planned_parameters_are_those_of_the_decoder_that_is_loaded(
    kind: str, with_output: bool, tmp_path: Path
) -> None:
    model = tiny_decoders.save_model(kind, tmp_path)
    if not with_output:
        model.base_model.save_pretrained(tmp_path)
    built: Any = build_model(load_encoder(tmp_path, ModelPart()), [HeadSpec("mlm", "text")], 1)
    words, shape = built.word_embedding, shape_of(tmp_path)
    assert shape is not None and (shape.sees, shape.vocabulary, shape.hidden, shape.layers) == ("left", 200, 32, 3)
    real = sum(parameter.numel() for parameter in built.parameters())
    assert trained_parameters(shape, 200, [shape.output]) == real
    assert trained_parameters(shape, 50, []) == real - shape.output - words.numel() + 50 * words.shape[1]


def test_a_language_model_with_an_output_layer_of_its_own_is_loaded_whole(tmp_path: Path) -> None:
    own = tiny_decoders.save_model("llama", tmp_path / "in")
    encoder: Any = load_encoder(tmp_path / "in", ModelPart())
    output = read_output_layer(tmp_path / "in")
    assert output is not None
    save_encoder(encoder, dict(encoder.state_dict()), tmp_path / "out", output["weight"])
    ids = torch.arange(20, 40)[None]
    again = T.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, own(ids).logits)
    assert_close(T.AutoModel.from_pretrained(tmp_path / "out")(ids).last_hidden_state, own.base_model(ids)[0])
    assert read_output_layer(tmp_path / "out") is not None


@pytest.mark.parametrize("kind", DECODERS)
def test_output_layers_are_tied_as_transformers_has_it(kind: str) -> None:
    config = T.AutoConfig.for_model(kind)
    assert ties_output({"model_type": kind}) == config.tie_word_embeddings
