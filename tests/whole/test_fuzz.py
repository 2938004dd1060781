"""A few thousand malformed inputs in every target; `make fuzz` gives a hundred thousand."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import fuzz
import pytest
from fuzz_mutate import Dice
from fuzz_target import Target
from stilts_launcher.backends.slurm import Slurm

from stilts_ds.errors import UserError

pytestmark = pytest.mark.processes

INPUTS = 3000  # over all targets together
WHOLE = sum(target.weight for target in fuzz.TARGETS)


@pytest.fixture(autouse=True)
def as_they_were(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Targets silence loggers and take Slurm's queue away for their own process; here other tests come after them."""
    monkeypatch.setattr(Slurm, "queue", Slurm.queue)
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels):
        logger.setLevel(level)


@pytest.mark.parametrize("target", fuzz.TARGETS, ids=lambda target: target.name)
def test_no_malformed_input_crashes_or_is_believed(target: Target, tmp_path: Path) -> None:
    tally = fuzz.run_target(target, range(-(-INPUTS * target.weight // WHOLE)), 0, tmp_path / "files")
    assert not tally.crashes, "\n".join(f"{name} {tally.crashes[name]}\n{told}" for name, told in tally.stories.items())
    assert tally.inputs == tally.accepted + tally.refused


def said(message: str) -> None:
    raise UserError(message)


@pytest.mark.parametrize(
    "once, crash",
    [
        (lambda dice, folder: [][1], "IndexError"),
        (lambda dice, folder: said(f"{folder}/x.json: is damaged"), "Silent"),
        (lambda dice, folder: said("something is damaged; delete it"), "Silent"),
        (lambda dice, folder: bytearray(fuzz.MEMORY + (1 << 30)), "MemoryError"),
    ],
)
def test_the_fuzzer_sees_what_it_must_not_miss(once: object, crash: str, tmp_path: Path) -> None:
    """A crash, an error without a remedy, one without a place, and memory without end."""
    target = Target("made up", 1, lambda folder: lambda dice: once(dice, folder))  # type: ignore[operator]
    tally = fuzz.run_target(target, range(2), 0, tmp_path / "files")
    assert tally.crashed == 2 and all(name.startswith(crash) for name in tally.crashes)


def test_an_endless_input_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(dice: Dice) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    tally = fuzz.run_target(Target("endless", 1, lambda folder: forever), range(1), 0, tmp_path / "files")
    assert list(tally.crashes)[0].startswith("Hang")


def test_an_input_is_the_same_every_time(tmp_path: Path) -> None:
    """A crash can be run again by its number alone."""
    seen: list[float] = []
    target = Target("dice", 1, lambda folder: lambda dice: seen.append(dice.random()))
    for folder in ("a", "b"):
        fuzz.run_target(target, range(3), 5, tmp_path / folder)
    assert seen[:3] == seen[3:] and len(set(seen)) == 3
