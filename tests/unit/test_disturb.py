"""Disturbances of word embeddings: FreeLB's step to the number, and draws by (seed, step, example)."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import small
import torch

from stilts_ds.batches.collate import Collator
from stilts_ds.errors import UserError
from stilts_ds.model.disturb import ascended, first_disturbance, row_norms
from stilts_ds.model.masks import row_keys
from stilts_ds.robust import AdversarialSteps, RandomStep
from stilts_ds.rows.batch import Batch

WIDTH = 16


def batch_of(places: list[int], step: int = 0, seed: int = 3) -> Batch:
    """Items of three tasks at these places of the global batch of a step."""
    names = ["nli", "copa", "squad"]
    items = [(place, names[place % 3], place) for place in places]
    return Collator(small.tasks(), small.tokenizer_stub(), 0.15, seed)(items, step, dict.fromkeys(names, 1.0))


def one_row(tokens: int = 1, width: int = 2) -> tuple[Batch, torch.Tensor]:
    batch = batch_of([0])
    places = torch.arange(tokens)
    zero = torch.zeros(tokens, dtype=torch.int64)
    made = replace(batch, row=zero, position=places, offsets=torch.tensor([0, tokens]), lengths=(tokens,))
    return made, torch.zeros(tokens, width)


@pytest.mark.parametrize(
    ("radius", "expected"), [(None, [0.06, 0.08]), (0.05, [0.03, 0.04]), (0.1, [0.06, 0.08]), (0.0, [0.0, 0.0])]
)
def test_a_step_has_its_length_along_the_gradient_and_is_cut_to_the_radius(
    radius: float | None, expected: list[float]
) -> None:
    batch, delta = one_row()
    found = ascended(delta, torch.tensor([[3.0, 4.0]]), batch, 0.1, radius)
    assert found[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_norms_are_those_of_a_row_over_its_tokens_and_channels() -> None:
    batch, delta = one_row(tokens=2)
    gradient = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    assert row_norms(gradient, batch).tolist() == [5.0]
    found = ascended(delta, gradient, batch, 0.1, None)
    assert found.flatten().tolist() == pytest.approx([0.0, 0.06, 0.08, 0.0], rel=1e-6)


def test_a_row_without_a_gradient_stays_where_it_is() -> None:
    batch, _ = one_row()
    found = ascended(torch.tensor([[0.5, -0.5]]), torch.zeros(1, 2), batch, 0.1, None)
    assert found.tolist() == [[0.5, -0.5]]


METHODS = [
    AdversarialSteps(method="adversarial", magnitude=0.2, radius=0.05),
    AdversarialSteps(method="adversarial", magnitude=0.3),
    RandomStep(method="random", radius=0.7),
]


@pytest.mark.parametrize("robust", METHODS, ids=["cut", "cube", "ball"])
def test_a_rows_disturbance_is_its_own_whatever_rows_are_beside_it(robust: Any) -> None:
    together = batch_of([0, 1, 2, 3])
    whole = first_disturbance(robust, together, WIDTH)
    assert whole is not None
    alone = [first_disturbance(robust, batch_of([place]), WIDTH) for place in (0, 1, 2, 3)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-6, atol=0)
    others = [batch_of([0, 1, 2, 3], step=1), batch_of([0, 1, 2, 3], seed=4), batch_of([4, 1, 2, 3])]
    for other in others:
        drawn = first_disturbance(robust, other, WIDTH)
        assert not torch.equal(drawn[: together.lengths[0]], whole[: together.lengths[0]])


def test_the_first_disturbance_of_freelb_is_uniform_in_its_cube() -> None:
    robust = AdversarialSteps(method="adversarial", magnitude=0.2)
    batch, _ = one_row(tokens=8)
    found = first_disturbance(robust, replace(batch, mask_keys=batch.mask_keys[:2]), 1000).flatten()
    half_width = 0.2 / 8000**0.5
    assert float(found.abs().max()) <= half_width
    # 8,000 draws: mean 0 and variance a third of the square, to five standard errors
    assert abs(float(found.mean())) < 5 * half_width / 3**0.5 / 8000**0.5
    assert float(found.var()) == pytest.approx(half_width**2 / 3, rel=0.06)


def test_random_disturbances_are_uniform_in_the_ball() -> None:
    """In two dimensions: the squared length over the squared radius is uniform, and so is the direction."""
    rows = torch.arange(400)
    batch, _ = one_row()
    batch = replace(
        batch, row=rows, position=torch.zeros_like(rows), offsets=torch.arange(401), lengths=(1,) * 400,
        mask_keys=row_keys(3, 0, [(place, 0) for place in range(400)]),
    )  # fmt: skip
    x, y = first_disturbance(RandomStep(method="random", radius=2.0), batch, 2).unbind(1)
    lengths = ((x * x + y * y) / 4).tolist()
    angles = (torch.atan2(y, x) / (2 * math.pi) + 0.5).tolist()
    assert max(lengths) <= 1 + 1e-6
    for drawn, quarter in itertools.product((lengths, angles), range(4)):
        share = sum(quarter / 4 <= value < (quarter + 1) / 4 for value in drawn) / len(drawn)
        assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 400) ** 0.5


def test_a_radius_of_0_disturbs_nothing() -> None:
    batch = batch_of([0, 1])
    for robust in (AdversarialSteps(method="adversarial", steps=1, radius=0), RandomStep(method="random", radius=0)):
        found = first_disturbance(robust, batch, WIDTH)
        assert found is not None and not found.any()
    assert first_disturbance(None, batch, WIDTH) is None


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
def test_a_disturbance_is_what_transformers_computes_from_disturbed_embeddings(packed: bool) -> None:
    model = small.model(packed=packed).eval()
    batch = batch_of([0, 1, 2])
    delta = first_disturbance(RandomStep(method="random", radius=3.0), batch, WIDTH)
    hidden = model.backbone.hidden_states(replace(batch, disturbance=delta))
    assert not torch.allclose(hidden, model.backbone.hidden_states(batch), atol=1e-2)
    for first, length in zip(batch.starts, batch.lengths):
        row = slice(first, first + length)
        embedded = model.encoder.get_input_embeddings()(batch.input_ids[row]) + delta[row]
        alone = replace(
            batch, input_ids=batch.input_ids[row], token_type_ids=batch.token_type_ids[row],
            row=torch.zeros(length, dtype=torch.int64), position=torch.arange(length),
            offsets=torch.tensor([0, length]), lengths=(length,), disturbance=delta[row],
        )  # fmt: skip
        ours = model.backbone.hidden_states(alone)
        theirs = small.model(packed=False).eval().encoder(inputs_embeds=embedded[None]).last_hidden_state[0]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(hidden[row], theirs, rtol=0, atol=1e-5)


def test_all_passes_of_a_step_have_the_same_dropout_masks() -> None:
    """Without a disturbance, passes that drop alike have one loss."""
    model = small.model(dropout=0.3).train()
    batch = batch_of([0, 1, 2])
    losses = [model(batch)[0].item() for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]
    assert model(batch_of([0, 1, 2], step=1))[0].item() != losses[0]


def test_a_model_that_looks_its_words_up_elsewhere_is_refused() -> None:
    """Else it would train as if nothing had been asked for."""
    model, batch = small.model().eval(), batch_of([0, 1])
    disturbed = replace(batch, disturbance=first_disturbance(RandomStep(method="random", radius=1.0), batch, WIDTH))
    model.encoder.get_input_embeddings = lambda: torch.nn.Embedding(2, WIDTH)
    with pytest.raises(UserError, match="does not work with xlm-roberta: it calls its word embeddings 0 times a pass"):
        model.backbone.hidden_states(disturbed)
    model.encoder.get_input_embeddings = lambda: torch.nn.Linear(2, WIDTH)
    with pytest.raises(UserError, match="needs word embeddings in a table, and the model's are a Linear"):
        _ = model.backbone.embedding_width
