"""Dropout masks belong to the example: the same however rows are batched, packed, dealt or computed again."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import small
import torch
from torch.nn import functional
from transformers import (
    AlbertConfig,
    AutoModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    XLMConfig,
    XLNetConfig,
)

from stilts_ds.batches.collate import Collator
from stilts_ds.model.checks import masks_follow_rows
from stilts_ds.model.encoder import recompute_activations
from stilts_ds.model.masks import Masks, row_keys
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.batch import Batch

TASKS = small.tasks()
WEIGHTS = dict.fromkeys(TASKS, 0.1)
ITEMS = [(3 * item + index, name, item) for item in range(3) for index, name in enumerate(TASKS)]
Micro = Sequence[Sequence[tuple[int, str, int]]]


def collated(items: Sequence[tuple[int, str, int]], step: int = 0, seed: int = 3) -> Batch:
    return Collator(TASKS, small.tokenizer_stub(), 0.15, seed)(items, step, WEIGHTS)


def gradients(model: MultiTask, micro_batches: Micro) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss and gradients of micro-batches, one after the other."""
    model.train().zero_grad()
    total = 0.0
    for items in micro_batches:
        loss, _, _ = model(collated(items))
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@functools.cache
def expected_of_all() -> tuple[float, dict[str, torch.Tensor]]:
    """Of all items at once, packed: what every other way to batch them has to give."""
    return gradients(small.model(dropout=0.1), [ITEMS])


def loss_of(items: Sequence[tuple[int, str, int]], **other: int) -> float:
    with torch.no_grad():
        return float(small.model(dropout=0.1).train()(collated(items, **other))[0])


SPLITS: dict[str, Micro] = {
    "whole": [ITEMS],
    "other order": [ITEMS[::-1]],
    "micro-batches, one without examples": [ITEMS[::3], ITEMS[1::3], [], ITEMS[2::3]],
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("split", SPLITS)
def test_losses_and_gradients_with_dropout_are_the_same_however_rows_are_batched(
    split: str, packed: bool, checkpointing: bool
) -> None:
    expected_loss, expected = expected_of_all()
    model = small.model(dropout=0.1, packed=packed)
    if checkpointing:
        recompute_activations(model.encoder, model.masks)
    loss, found = gradients(model, SPLITS[split])
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=2e-6, msg=name)


def test_masks_depend_on_seed_and_step_and_a_pass_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    model = small.model(dropout=0.1).train()
    before = torch.get_rng_state()
    model(collated(ITEMS))
    assert torch.equal(torch.get_rng_state(), before)
    torch.set_rng_state(state)
    losses = [loss_of(ITEMS), loss_of(ITEMS), loss_of(ITEMS, step=1), loss_of(ITEMS, seed=4)]
    assert losses[0] == losses[1] and len(set(losses)) == 3


def test_every_row_of_a_step_and_the_step_itself_have_keys_of_their_own() -> None:
    """The rows of a question's choices too."""
    rows = [(example, row) for example in range(64) for row in range(4)]
    keys = torch.cat([row_keys(seed, step, rows) for seed in (1, 2) for step in range(8)])
    assert len(keys) == 16 * 257 == len(keys.unique())
    questions = collated([(7, "copa", 0), (2, "copa", 1)]).mask_keys
    assert questions is not None
    assert torch.equal(questions, row_keys(3, 0, [(7, 0), (7, 1), (2, 0), (2, 1)]))


SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
RATES = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
# Layers that share weights, distances that all rows share, functions in place of modules, windows, plain modules.
CONFIGS = {
    "albert": lambda: AlbertConfig(**SIZES, **RATES, embedding_size=8),
    "electra": lambda: ElectraConfig(**SIZES, **RATES, embedding_size=8),
    "deberta-v2": lambda: DebertaV2Config(**SIZES, **RATES, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "distilbert": lambda: DistilBertConfig(
        vocab_size=100, dim=16, n_layers=2, n_heads=2, hidden_dim=32, dropout=0.3, attention_dropout=0.3
    ),
    "xlm": lambda: XLMConfig(
        vocab_size=100, emb_dim=16, n_layers=2, n_heads=2, dropout=0.3, attention_dropout=0.3, n_langs=1
    ),
    "modernbert": lambda: ModernBertConfig(**SIZES, attention_dropout=0.3, embedding_dropout=0.3, mlp_dropout=0.3),
    "xlnet": lambda: XLNetConfig(vocab_size=100, d_model=16, n_layer=2, n_head=2, d_inner=32, dropout=0.3),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_encoders_masks_are_its_rows_own_or_it_is_known_that_they_are_not(name: str) -> None:
    """XLNet's tensors have their rows along the second axis."""
    torch.manual_seed(0)
    encoder = AutoModel.from_config(CONFIGS[name]())
    assert masks_follow_rows(encoder) == (name != "xlnet")


@pytest.mark.parametrize("masked", ["bool", "float", "causal", None])
@pytest.mark.parametrize("groups", [1, 2])
def test_attention_with_dropout_is_torchs_where_nothing_is_dropped(masked: str | None, groups: int) -> None:
    """A rate below 16 bits drops nothing, and goes the way of one that does."""
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 7, 8), torch.randn(2, 4 // groups, 7, 8), torch.randn(2, 4 // groups, 7, 8)
    visible = torch.rand(2, 1, 7, 7) > 0.3
    visible[..., 0] = True
    given: dict[str, Any] = {"enable_gqa": groups > 1, "is_causal": masked == "causal", "scale": 0.3}
    if masked in ("bool", "float"):
        given["attn_mask"] = visible if masked == "bool" else torch.where(visible, 0.0, -torch.inf)
    masks, batch = Masks(), collated(ITEMS[:1])
    batch.mask_keys, batch.lengths = row_keys(0, 0, [(0, 0), (1, 0)]), (7, 7)
    batch.row, batch.position = torch.arange(2).repeat_interleave(7), torch.arange(7).repeat(2)
    with masks.of(batch, packed=False):
        ours = functional.scaled_dot_product_attention(query, key, value, dropout_p=1e-9, **given)
        dropped = functional.scaled_dot_product_attention(query, key, value, dropout_p=0.5, **given)
    torch.testing.assert_close(ours, functional.scaled_dot_product_attention(query, key, value, **given))
    assert not torch.allclose(dropped, ours, atol=0.1)
