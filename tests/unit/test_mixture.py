"""What a step holds depends on seed and step alone, and dealing it over ranks loses nothing and is balanced."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stilts_ds.batches.mixture import Mixture, Stream, deal, micro_batch_count, task_shares, total_steps
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


@pytest.mark.parametrize(
    "items, values, steps",
    [
        (100, {"num_train_epochs": 2, "train_batch_size": 32}, 7),
        (64, {"num_train_epochs": 1, "train_batch_size": 32}, 2),
        (3, {"num_train_epochs": 0.1, "train_batch_size": 32}, 1),
        (100, {"max_steps": 5}, 5),
    ],
)
def test_steps_come_from_epochs_unless_they_are_given(items: int, values: dict[str, Any], steps: int) -> None:
    assert total_steps(items, TrainingPart(**values)) == steps


LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=70)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 24))
@hypothesis_settings(max_examples=150, deadline=None)
def test_every_item_is_dealt_once_and_micro_batches_stay_small(lengths: list[int], world: int, per_device: int) -> None:
    setting = TrainingPart(train_batch_size=len(lengths), per_device_train_batch_size=per_device)
    count = micro_batch_count(setting, world)
    dealt = deal(lengths, world, count)
    assert [len(rank) for rank in dealt] == [count] * world
    assert sorted(p for rank in dealt for part in rank for p in part) == list(range(len(lengths)))
    assert max(len(part) for rank in dealt for part in rank) <= per_device
    assert dealt == deal(lengths, world, count)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 6))
@hypothesis_settings(max_examples=200, deadline=None)
def test_no_rank_has_more_than_its_share_and_one_item(lengths: list[int], world: int, count: int) -> None:
    loads = [sum(lengths[p] for part in rank for p in part) for rank in deal(lengths, world, count)]
    assert max(loads) <= sum(lengths) / world + max(lengths)


def test_a_usual_batch_is_balanced_within_some_tokens() -> None:
    rng = np.random.default_rng(0)
    for world in (2, 4, 8):
        lengths = rng.integers(8, 257, 32 * world).tolist()
        loads = [sum(lengths[p] for part in rank for p in part) for rank in deal(lengths, world, 2)]
        assert max(loads) <= 1.02 * sum(lengths) / world


def test_items_of_like_length_share_a_micro_batch_where_rows_are_padded() -> None:
    lengths = [100, 10, 90, 20, 95, 15, 98, 12]
    dealt = deal(lengths, 1, 2, padded=True)
    assert sum(max(lengths[p] for p in part) * len(part) for rank in dealt for part in rank) == 4 * 100 + 4 * 20


def test_micro_batches_of_packed_rows_are_as_even_as_ranks() -> None:
    """Lengths spread as in a mixture of tasks: every one of 8 ranks, and each of its 2 micro-batches, within 2 %."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        lengths = np.minimum(512, np.exp(rng.normal(3.9, 0.8, 256)) + 5).astype(int).tolist()
        parts = [[sum(lengths[p] for p in part) for part in rank] for rank in deal(lengths, 8, 2)]
        assert max(map(sum, parts)) <= 1.002 * sum(lengths) / 8
        assert max(max(part) for part in parts) <= 1.02 * sum(lengths) / 16


def shares(sizes: dict[str, int], **sampling: Any) -> dict[str, float]:
    return task_shares(sizes, SamplingPart(**sampling))


def test_weights_are_sizes_uniform_or_fixed() -> None:
    assert shares(SIZES) == pytest.approx({"large": 900 / 1010, "middle": 100 / 1010, "small": 10 / 1010})
    assert shares(SIZES, weights="uniform") == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    fixed = {"large": 2, "middle": 1.5, "small": 0.5}
    assert shares(SIZES, weights=fixed) == pytest.approx({"large": 0.5, "middle": 0.375, "small": 0.125})


def test_text_takes_its_share_and_the_tasks_keep_their_proportions() -> None:
    found = shares({"a": 30, "b": 10, "mlm": 10**6}, mlm_share=0.2)
    assert found == pytest.approx({"a": 0.6, "b": 0.2, "mlm": 0.2})
    assert shares({"a": 30, "mlm": 90}) == pytest.approx({"a": 0.25, "mlm": 0.75})
    assert shares({"mlm": 90}, mlm_share=0.2) == {"mlm": 1}
    assert shares({"a": 5}, mlm_share=0.2) == {"a": 1}


@pytest.mark.parametrize(
    ("sizes", "part", "steps"),
    [
        ({"a": 60, "b": 20}, {}, 20),  # 80 items, two epochs, 8 a step
        ({"a": 60, "b": 20, "mlm": 5000}, {"mlm_share": 0.2}, 25),  # the same 20 steps and a quarter as many of text
        ({"a": 60, "b": 20, "mlm": 80}, {}, 40),  # by size: all items, as for any task
        ({"a": 60, "b": 20, "mlm": 5000}, {"weights": "uniform"}, 30),
        ({"mlm": 40}, {"mlm_share": 0.2}, 10),
    ],
)
def test_epochs_count_the_labelled_items_and_text_comes_on_top(
    sizes: dict[str, int], part: dict[str, Any], steps: int
) -> None:
    setting = TrainingPart(train_batch_size=8, num_train_epochs=2)
    assert Mixture(sizes, setting, SamplingPart(**part), 1).total_steps == steps


@pytest.mark.parametrize("unit", ["step", "example"])
@pytest.mark.parametrize(("alpha", "expected"), [(1.0, (0.8, 0.16, 0.04)), (0.5, (0.52786, 0.23607, 0.23607)),
                                                 (0.0, (1 / 3, 1 / 3, 1 / 3))])  # fmt: skip
def test_languages_are_drawn_by_their_size_to_the_power_alpha(
    unit: str, alpha: float, expected: tuple[float, ...]
) -> None:
    """400, 80 and 20 rows. alpha 0.5 with 80 rows twice: 20 / (20 + 2 x 8.944) = 0.52786."""
    counts = (400, 80, 20) if alpha != 0.5 else (400, 80, 80)
    group = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], counts))
    setting = TrainingPart(train_batch_size=4, max_steps=3000)
    sampling = SamplingPart(unit=unit, language_exponent=alpha)
    made = Mixture({"mlm": len(group), "a": 9}, setting, sampling, 3, {"mlm": group})
    drawn = [pair for step in range(3000) for pair in made.step(step)]
    items = [item for task, item in drawn if task == "mlm"]
    seen = np.bincount(group[items], minlength=3) / len(items)
    assert seen == pytest.approx(expected, abs=0.015)
    for language, count in enumerate(counts):
        mine = [item for item in items if group[item] == language]
        assert len(mine) > count and sorted(mine[:count]) == np.flatnonzero(group == language).tolist()
    shorter = Mixture({"mlm": len(group), "a": 9}, setting.model_copy(update={"max_steps": 50}), sampling, 3,
                      {"mlm": group})  # fmt: skip
    assert [shorter.step(s) for s in range(50)] == [made.step(s) for s in range(50)]
    cost = {"mlm": np.arange(len(group)) + 1, "a": np.full(9, 7)}
    assert made.tokens(cost) == sum(int(cost[task][item]) for task, item in drawn)


def item_of(made: Mixture, task: int, position: int) -> int:
    """The definition, for one example: an epoch is a permutation by the seed, the task, the epoch and the group."""
    stream = made.streams[task]
    group, nth = 0, position
    if stream.group is not None and stream.nth is not None:
        group, nth = int(stream.group[position]), int(stream.nth[position])
    members = list(stream.members[group])
    epoch, offset = divmod(nth, len(members))
    key = [stream.seed, 1, task, epoch, *([group] if stream.group is not None else [])]
    return int(members[np.random.default_rng(key).permutation(len(members))[offset]])


@pytest.mark.parametrize("unit", ["step", "example"])
def test_a_step_drawn_at_once_is_drawn_example_by_example(unit: str) -> None:
    """Also where a step spans epochs of a task and a language."""
    sizes, languages = {"a": 5, "b": 40, "mlm": 90}, np.random.default_rng(1).integers(0, 7, 90)
    setting = TrainingPart(train_batch_size=16, max_steps=40)
    made = Mixture(sizes, setting, SamplingPart(unit=unit), 3, {"mlm": languages})
    counts: Counter[int] = Counter()
    for step in range(40):
        tasks = [made.drawn[step]] * 16 if unit == "step" else made.drawn[16 * step : 16 * step + 16]
        expected = []
        for task in map(int, tasks):
            expected.append((made.tasks[task], item_of(made, task, counts[task])))
            counts[task] += 1
        assert made.step(step) == expected


@pytest.mark.parametrize("per_device", [32, 8])
def test_no_rank_of_eight_is_two_percent_above_its_share(per_device: int) -> None:
    """Lengths spread like those of MultiNLI, QQP and SQuAD rows in XLM-R's tokens (log-normal, cut at 384)."""
    rng = np.random.default_rng(4)
    means, spread = np.array([3.7, 3.5, 5.3]), np.array([0.45, 0.4, 0.4])
    kind = rng.choice(3, size=200_000, p=[0.45, 0.42, 0.13])
    lengths = np.clip(np.exp(rng.normal(means[kind], spread[kind])), 8, 384).astype(int)
    setting = TrainingPart(train_batch_size=256, per_device_train_batch_size=per_device, max_steps=200)
    made = Mixture({"all": len(lengths)}, setting, SamplingPart(), 1)
    for step in range(200):
        costs = [int(lengths[item]) for _, item in made.step(step)]
        dealt = deal(costs, 8, micro_batch_count(setting, 8))
        loads = [sum(costs[p] for part in rank for p in part) for rank in dealt]
        assert max(loads) <= 1.02 * sum(costs) / 8


@pytest.mark.parametrize("padded, pool", [(False, 1), (True, 1), (False, 4)])
def test_a_rank_that_deals_for_itself_gets_what_a_deal_for_all_gives_it(padded: bool, pool: int) -> None:
    lengths = np.random.default_rng(5).integers(4, 90, 64).tolist()
    for_all = deal(lengths, 4, 2, padded, pool)
    for rank in range(4):
        alone = deal(lengths, 4, 2, padded, pool, only=rank)
        assert alone[rank] == for_all[rank] and not any(alone[other] for other in range(4) if other != rank)


def test_order_and_lengths_take_4_bytes_an_item() -> None:
    stream = Stream(1000, np.repeat([0, 1], 500), 0.5, 3000, (7, 0))
    assert stream.nth is not None and stream.nth.dtype == np.int32
    assert {members.dtype for members in map(np.asarray, stream.members)} == {np.dtype(np.int32)}
    order = stream._order(0, 2, 500)
    # The same order as of numbers of 8 bytes: no phase trains on other examples than before.
    assert order.dtype == np.int32 and np.array_equal(order, np.random.default_rng([7, 1, 0, 2, 0]).permutation(500))
