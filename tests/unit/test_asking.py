"""Ranks ask each other by the clock whether to stop, all at the same steps; a cancellation outranks a time limit."""

from __future__ import annotations

from typing import Any

import pytest

from stilts_ds.engine import preempt
from stilts_ds.engine.preempt import MOST_STEPS, SIGNALS, Asking, Stopped, stop_this_rank_if_requested


class Ranks:
    """Rank 0 of a world whose other ranks always answer `answers` (numbers of signals, wanted saves)."""

    first = True

    def __init__(self, *answers: tuple[int, int]) -> None:
        self.answers, self.asked = answers, 0

    def maximum(self, numbers: list[int], prompt: bool) -> list[int]:
        self.asked += 1
        return [max(column) for column in zip(numbers, *((number, save, 0) for number, save in self.answers))]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr(preempt.time, "monotonic", lambda: seconds[0])
    monkeypatch.setattr(preempt, "_received", [])
    return seconds


def steps_asked(asking: Asking, world: Any, clock: list[float], lasting: list[float]) -> list[int]:
    """The steps, from 1, after which ranks have asked each other."""
    asked = []
    for step, seconds in enumerate(lasting, start=1):
        clock[0] += seconds
        before = world.asked
        asking.stop_or_save(False)
        asked += [step] * (world.asked - before)
    return asked


def test_ranks_ask_after_each_slow_step_and_by_the_clock_after_quick_ones(clock: list[float]) -> None:
    world: Any = Ranks()
    assert steps_asked(Asking(world), world, clock, [1.0] * 5) == [1, 2, 3, 4, 5]
    # Twice as rarely each time, up to what takes a fifth of a second.
    assert steps_asked(Asking(world), world, clock, [0.019] * 40) == [1, 3, 7, 15, 25, 35]
    quick = steps_asked(Asking(world), world, clock, [1e-6] * 1000)
    assert max(later - earlier for earlier, later in zip(quick, quick[1:])) == MOST_STEPS


def test_steps_that_become_slow_are_asked_after_each_again(clock: list[float]) -> None:
    world: Any = Ranks()
    asked = steps_asked(Asking(world), world, clock, [0.019] * 25 + [5.0] * 15)
    assert asked == [1, 3, 7, 15, 25, 35, 36, 37, 38, 39, 40]


def test_other_ranks_follow_what_rank_0_says(clock: list[float]) -> None:
    class Other(Ranks):
        first = False

    world: Any = Other((0, 0))
    asking = Asking(world)
    world.maximum = lambda numbers, prompt: [0, 0, 7] if numbers[2] == 0 else pytest.fail("it has a say")
    for _ in range(8):
        asking.stop_or_save(False)
    assert asking.steps == 7 and asking.left == 7


@pytest.mark.parametrize("here, there, told", [
    ("SIGUSR1", "", "SIGUSR1"), ("", "SIGUSR1", "SIGUSR1"), ("SIGUSR1", "SIGTERM", "SIGTERM"),
    ("SIGTERM", "SIGUSR1", "SIGTERM"), ("SIGHUP", "SIGINT", "SIGINT"),
])  # fmt: skip
def test_a_run_that_is_cancelled_is_not_continued_whatever_else_it_was_told(
    here: str, there: str, told: str, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preempt, "_received", [here] if here else [])
    world: Any = Ranks((SIGNALS.index(there) + 1 if there else 0, 1))
    with pytest.raises(Stopped, match=told):
        Asking(world).stop_if_requested()
    if here:
        with pytest.raises(Stopped, match=here):
            stop_this_rank_if_requested()


def test_a_time_to_stop_at_counts_as_a_time_limit(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILTS_STOP_AT", "1")
    with pytest.raises(Stopped, match="SIGUSR1"):
        stop_this_rank_if_requested()


@pytest.mark.parametrize("here, there", [(True, 0), (False, 1), (False, 0)])
def test_a_checkpoint_is_saved_when_any_rank_wants_one(here: bool, there: int, clock: list[float]) -> None:
    world: Any = Ranks((0, there))
    assert Asking(world).stop_or_save(here) == (here or bool(there))
