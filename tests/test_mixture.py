"""What a step holds depends on seed and step alone, and dealing it over ranks loses nothing and is balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stilts_ds.batches.mixture import Mixture, deal, micro_batch_count, total_steps
from stilts_ds.config import SamplingPart, TrainingPart

SIZES = {"large": 900, "middle": 100, "small": 10}


def mixture(sizes: dict[str, int], seed: int = 5, unit: str = "example", batch: int = 8, **more: Any) -> Mixture:
    sampling = {k: more.pop(k) for k in ("cap", "temperature") if k in more}
    return Mixture(sizes, TrainingPart(train_batch_size=batch, **more), SamplingPart(unit=unit, **sampling), seed)


@pytest.mark.parametrize("unit", ["step", "example"])
def test_a_step_is_a_pure_function_of_seed_and_step(unit: str) -> None:
    a, b = mixture(SIZES, unit=unit, max_steps=40), mixture(dict(reversed(SIZES.items())), unit=unit, max_steps=40)
    forward = [a.step(step) for step in range(40)]
    backward = [b.step(step) for step in reversed(range(40))]
    assert forward == backward[::-1]
    other = mixture(SIZES, seed=6, unit=unit, max_steps=40)
    assert forward != [other.step(step) for step in range(40)]


def test_a_longer_run_begins_like_a_shorter_one() -> None:
    short, long = mixture(SIZES, max_steps=10), mixture(SIZES, max_steps=40)
    assert [short.step(s) for s in range(10)] == [long.step(s) for s in range(10)]


def test_the_size_of_a_micro_batch_changes_no_step() -> None:
    a, b = mixture(SIZES, max_steps=9), mixture(SIZES, max_steps=9, per_device_train_batch_size=2)
    assert [a.step(s) for s in range(9)] == [b.step(s) for s in range(9)]


@pytest.mark.parametrize("unit", ["step", "example"])
@pytest.mark.parametrize("sizes", [{"one": 37}, {"a": 30, "b": 50, "c": 7}])
def test_each_item_comes_once_in_each_epoch_of_its_task(unit: str, sizes: dict[str, int]) -> None:
    made = mixture(sizes, unit=unit, num_train_epochs=6)
    stream: dict[str, list[int]] = {name: [] for name in sizes}
    for step in range(made.total_steps):
        items = made.step(step)
        assert len(items) == 8 and (unit == "example" or len({name for name, _ in items}) == 1)
        for name, item in items:
            stream[name].append(item)
    for name, size in sizes.items():
        epochs = [stream[name][i : i + size] for i in range(0, len(stream[name]), size)]
        assert len(epochs) > 1
        for epoch in epochs:
            assert len(set(epoch)) == len(epoch) and max(epoch) < size
        assert sorted(epochs[0]) == list(range(size)) and epochs[0] != sorted(epochs[0])
        assert len(epochs[1]) < size or epochs[0] != epochs[1]


@pytest.mark.parametrize(
    "part, shares",
    [
        ({}, (900, 100, 10)),
        ({"cap": 200}, (200, 100, 10)),
        ({"temperature": 2.0}, (30.0, 10.0, 10**0.5)),
        ({"cap": 400, "temperature": 2.0}, (20.0, 10.0, 10**0.5)),
        ({"temperature": 1e6}, (1, 1, 1)),
    ],
)
@pytest.mark.parametrize("unit", ["step", "example"])
def test_tasks_are_drawn_with_capped_and_tempered_proportions(unit: str, part: dict[str, Any], shares: Any) -> None:
    """A binomial count stays within five standard deviations of its mean (seed fixed, so this never flickers)."""
    steps = 4000
    made = mixture(SIZES, unit=unit, batch=2, max_steps=steps, **part)
    draws = steps * (2 if unit == "example" else 1)
    seen = Counter(name for step in range(steps) for name, _ in made.step(step))
    for name, share in zip(SIZES, shares):
        p = share / sum(shares)
        count = seen[name] / (1 if unit == "example" else 2)
        assert abs(count - draws * p) < 5 * (draws * p * (1 - p)) ** 0.5, name


@pytest.mark.parametrize("items, values, steps", [
    (100, {"num_train_epochs": 2, "train_batch_size": 32}, 7), (64, {"num_train_epochs": 1, "train_batch_size": 32}, 2),
    (3, {"num_train_epochs": 0.1, "train_batch_size": 32}, 1), (100, {"max_steps": 5}, 5),
])
def test_steps_come_from_epochs_unless_they_are_given(items: int, values: dict[str, Any], steps: int) -> None:
    assert total_steps(items, TrainingPart(**values)) == steps


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=70)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 24))
@hypothesis_settings(max_examples=300, deadline=None)
def test_every_item_is_dealt_once_and_micro_batches_stay_small(lengths: list[int], world: int, per_device: int) -> None:
    setting = TrainingPart(train_batch_size=len(lengths), per_device_train_batch_size=per_device)
    count = micro_batch_count(setting, world)
    dealt = deal(lengths, world, count)
    assert [len(rank) for rank in dealt] == [count] * world
    assert sorted(p for rank in dealt for part in rank for p in part) == list(range(len(lengths)))
    assert max(len(part) for rank in dealt for part in rank) <= per_device
    assert dealt == deal(lengths, world, count)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 6))
@hypothesis_settings(max_examples=500, deadline=None)
def test_no_rank_has_more_than_its_share_and_one_item(lengths: list[int], world: int, count: int) -> None:
    loads = [sum(lengths[p] for part in rank for p in part) for rank in deal(lengths, world, count)]
    assert max(loads) <= sum(lengths) / world + max(lengths)


def test_a_usual_batch_is_balanced_within_some_tokens() -> None:
    rng = np.random.default_rng(0)
    for world in (2, 4, 8):
        lengths = rng.integers(8, 257, 32 * world).tolist()
        loads = [sum(lengths[p] for part in rank for p in part) for rank in deal(lengths, world, 2)]
        assert max(loads) <= 1.02 * sum(lengths) / world


def test_items_of_like_length_share_a_micro_batch() -> None:
    lengths = [100, 10, 90, 20, 95, 15, 98, 12]
    padded = sum(max(lengths[p] for p in part) * len(part) for rank in deal(lengths, 1, 2) for part in rank)
    assert padded == 4 * 100 + 4 * 20
