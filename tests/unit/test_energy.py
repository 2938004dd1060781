"""Counting the energy of GPUs. The driver's own counter needs a GPU; here it is a list of readings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stilts_ds.engine import cost
from stilts_ds.engine.cost import Cost
from stilts_ds.engine.energy import energy_counter
from stilts_ds.phase_status import PhaseStatus


def world(rank: int = 0, others: tuple[float | None, ...] = ()) -> Any:
    return SimpleNamespace(
        size=1 + len(others), device=torch.device("cpu"), rank=rank, gather=lambda value: [value, *others]
    )


def count(monkeypatch: pytest.MonkeyPatch, readings: list[float | None]) -> None:
    left = iter(readings)
    monkeypatch.setattr(cost, "energy_counter", lambda device: lambda: next(left))


def test_joules_of_all_ranks_and_starts_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, [1000.0, 1500.0, 1800.0])
    first = Cost(PhaseStatus(), world(others=(10.0,)))
    assert first.so_far()["joules"] == 510.0 and first.so_far()["joules"] == 810.0
    count(monkeypatch, [5000.0, 5001.0])
    stopped = PhaseStatus(state="stopped:SIGTERM", joules=810.0)
    assert Cost(stopped, world()).so_far()["joules"] == 811.0


@pytest.mark.parametrize("before, readings, others", [
    (PhaseStatus(), [None, None], ()),  # no counter here
    (PhaseStatus(), [1.0, 2.0], (None,)),  # none on another rank
    (PhaseStatus(state="done"), [1.0, 2.0], ()),  # an earlier start did not count
    (PhaseStatus(state="running", joules=5.0), [1.0, 2.0], ()),  # or was killed
    (PhaseStatus(state="failed", joules=5.0), [1.0, 2.0], ()),
])  # fmt: skip
def test_a_sum_that_lacks_a_part_is_not_told(
    before: PhaseStatus, readings: list[float | None], others: tuple[None, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    count(monkeypatch, readings)
    assert "joules" not in Cost(before, world(others=others)).so_far()


def test_a_cpu_has_no_counter() -> None:
    assert energy_counter(torch.device("cpu"))() is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_counter_of_a_gpu_rises_with_work() -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is an optional extra")
    counter = energy_counter(torch.device("cuda", 0))
    before = counter()
    values = torch.randn(8192, 8192, device="cuda")
    for _ in range(50):
        values = values @ values / 100
    torch.cuda.synchronize()
    after = counter()
    assert before is not None and after is not None and 1 < after - before < 10_000
