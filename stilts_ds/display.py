"""What people see of a run while it goes on: milestones, and how far the phase and the study are.

Everything is said once, to the log. The log file of a rank keeps all of it; the console of rank 0 shows milestones and
warnings. A record may carry a `StudyWork` or a `Position` (`extra=...` of logging): a terminal then has bars with the
time that is left, and a file or pipe a plain line now and then. Handlers draw, so nothing that works knows of bars.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TextIO

# A level of its own, between information and warnings: about one line a phase.
MILESTONE = 25
# Variable that says how much rank 0's console shows. Unset is `all`: a batch job's output is a log file.
CONSOLE = "STILTS_CONSOLE"
LEVELS = {"quiet": logging.WARNING, "milestones": MILESTONE, "all": logging.INFO}
PAUSE = 60.0  # seconds between two plain lines about progress, at least
LINES = 10  # or this share of the time so far: a log of a day has a hundred lines about progress, and not 1,440
LINE = "%(asctime)s %(message)s"
CLOCK = "%H:%M:%S"


@dataclass(frozen=True)
class PhaseWork:
    """What a phase has to do in this start: tokens to train (expected) and prediction files to write."""

    label: str
    tokens: float
    files: int


@dataclass(frozen=True)
class StudyWork:
    """The phases of this start in their order."""

    phases: tuple[PhaseWork, ...]


@dataclass(frozen=True)
class Position:
    """A phase has done `done` of `total` steps or files. `note`: what else to show beside it."""

    label: str
    unit: Literal["step", "file"]
    done: int
    total: int
    note: str = ""


def carrying(value: StudyWork | Position) -> dict[str, Any]:
    """The `extra` of a log record that brings progress with it."""
    return {"progress": value}


def concern(source: str) -> int:
    """Level of a doubt about what a study learns. The toy world's miniatures are made small on purpose, so there it
    goes into the log file only: a demonstration that warns about itself teaches people to ignore warnings."""
    return logging.INFO if source == "toy" else logging.WARNING


def duration(seconds: float) -> str:
    """A time span: `8 s`, `4 min 12 s`, `3 h 05 min`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02d} min"


# --- the time that is left -------------------------------------------------------------------------------------------


@dataclass
class _Rate:
    """Seconds spent on a kind of work, and how much of it was done in them."""

    seconds: float = 0.0
    amount: float = 0.0

    def time_for(self, amount: float) -> float | None:
        """Seconds for some more of it; None where none was measured yet."""
        if amount <= 0:
            return 0.0
        return self.seconds / self.amount * amount if self.amount > 0 else None


@dataclass
class StudyClock:
    """Where a start's phases stand, and how long the rest takes at the rates measured in this start."""

    now: Callable[[], float] = time.monotonic
    phases: dict[str, PhaseWork] = field(default_factory=dict)
    position: Position | None = None

    def begin(self, work: StudyWork) -> None:
        self.phases = {phase.label: phase for phase in work.phases}
        self.left = {(phase.label, "step"): phase.tokens for phase in work.phases}
        self.left |= {(phase.label, "file"): float(phase.files) for phase in work.phases}
        self.rates = {"step": _Rate(), "file": _Rate()}
        self.before = self.now()

    def move(self, position: Position) -> None:
        """Take in where a phase stands. The time since the last call belongs to what it did meanwhile, loading of
        models included, so that the rest is not promised too early."""
        rate, now = self.rates[position.unit], self.now()
        rate.seconds, self.before = rate.seconds + now - self.before, now
        key = (position.label, position.unit)
        last = self.position
        if last is not None and (last.label, last.unit) == key:
            start = last.done
        # Files are those of this start. Steps may go on from a checkpoint, so a first position only says where.
        else:
            start = 0 if position.unit == "file" else position.done
        if key in self.left and position.total > start:
            # Of what was left at the last position, the share that is done since.
            done = self.left[key] * (position.done - start) / (position.total - start)
            self.left[key] -= done
            rate.amount += done
        self._finish_earlier(position)
        self.position = position

    def _finish_earlier(self, position: Position) -> None:
        """Count what comes before a position as done: earlier phases, and training before predicting."""
        for label in self.phases:
            if label == position.label:
                break
            self.left[label, "step"] = self.left[label, "file"] = 0.0
        if position.unit == "file":
            self.left[position.label, "step"] = 0.0

    def phase_seconds(self) -> float | None:
        return self._seconds([self.position.label]) if self.position else None

    def study_seconds(self) -> float | None:
        """Seconds until all phases are done; None while a kind of work that is left was not measured yet."""
        return self._seconds(list(self.phases))

    def _seconds(self, labels: list[str]) -> float | None:
        total = 0.0
        for unit, rate in self.rates.items():
            seconds = rate.time_for(sum(self.left.get((label, unit), 0.0) for label in labels))
            if seconds is None:
                return None
            total += seconds
        return total

    @property
    def number(self) -> int:
        """Which phase of how many is at work, from 1; 0 before the first."""
        labels = list(self.phases)
        return labels.index(self.position.label) + 1 if self.position and self.position.label in labels else 0


def left(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds)} left"


# --- handlers --------------------------------------------------------------------------------------------------------


class Console(logging.Handler):
    """Rank 0's console, where it is no terminal: lines from a level on, and one about progress now and then."""

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__()  # of any level: records with progress are looked at whatever theirs is
        self.stream, self.least, self.clock = stream, level, StudyClock()
        self.began = self.spoke = self.clock.now()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            progress = getattr(record, "progress", None)
            if isinstance(progress, StudyWork):
                self.clock.begin(progress)
                self.begin()
            if isinstance(progress, Position) and self.clock.phases:
                self.clock.move(progress)
                self.moved(record)
            if record.levelno >= self.least:
                self.line(self.format(record))
        except Exception:  # as every handler of logging: a console that is gone must not end a run
            self.handleError(record)

    def begin(self) -> None:
        """The work of the study is known."""

    def moved(self, record: logging.LogRecord) -> None:
        """Tell how far it is, where the console has been silent for a while and does not tell every step anyway."""
        now = self.clock.now()
        silent = now - self.spoke < max(PAUSE, (now - self.began) / LINES)
        if self.least <= logging.INFO or self.least > MILESTONE or silent:
            return
        self.line(self.format(logging.makeLogRecord({**record.__dict__, "msg": self.summary(), "args": None})))

    def summary(self) -> str:
        position = self.clock.position
        assert position is not None
        words = [f"{position.unit} {position.done:,} of {position.total:,}", position.note]
        words.append(left(self.clock.phase_seconds()))
        study = [f"phase {self.clock.number} of {len(self.clock.phases)}", left(self.clock.study_seconds())]
        return f"{position.label}: {', '.join(filter(None, words))}; {', '.join(filter(None, study))}"

    def line(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()
        self.spoke = self.clock.now()


class Bars(Console):
    """Rank 0's terminal: a bar for the study and one for the phase below the lines, which never collide with them."""

    def __init__(self, stream: TextIO, level: int) -> None:
        super().__init__(stream, level)
        from rich.console import Console as Screen
        from rich.progress import BarColumn, Progress, TextColumn

        self.screen = Screen(file=stream, soft_wrap=True, highlight=False, markup=False, emoji=False)
        columns = [TextColumn("{task.description}", markup=False), BarColumn(bar_width=24)]
        columns.append(TextColumn("{task.fields[note]}", markup=False))
        self.bars = Progress(*columns, console=self.screen, transient=True)

    def begin(self) -> None:
        if self.least > MILESTONE or self.bars.live.is_started:
            return
        self.study = self.bars.add_task("study", total=None, note="")
        self.phase = self.bars.add_task("", total=None, note="")
        self.bars.start()

    def moved(self, record: logging.LogRecord) -> None:
        position, clock = self.clock.position, self.clock
        if not self.bars.live.is_started or position is None:
            return
        number, count = clock.number, len(clock.phases)
        phases = f"phase {number} of {count}"
        self.bars.update(
            self.study, total=count, completed=max(0, number - 1), note=_note(phases, clock.study_seconds())
        )
        words = f"{position.unit} {position.done:,} of {position.total:,}"
        note = _note(", ".join(filter(None, [words, position.note])), clock.phase_seconds())
        self.bars.update(
            self.phase, description=position.label, total=position.total, completed=position.done, note=note
        )

    def line(self, text: str) -> None:
        # Printed by the owner of the bars, which puts whole lines above them.
        self.screen.print(text)
        self.spoke = self.clock.now()

    def close(self) -> None:
        self.bars.stop()
        super().close()


def _note(words: str, seconds: float | None) -> str:
    return words if seconds is None else f"{words}, {left(seconds)}"


def console_handler(stream: TextIO | None = None) -> Console:
    """The handler for rank 0's console, as the variable `STILTS_CONSOLE` and the console's kind ask for."""
    stream = stream or sys.stderr
    level = LEVELS.get(os.environ.get(CONSOLE, "all"), logging.INFO)
    # A terminal that cannot move its cursor (an editor's shell, say) would show every state of a bar below the last.
    draws = stream.isatty() and os.environ.get("TERM") not in (None, "", "dumb", "unknown")
    return Bars(stream, level) if draws else Console(stream, level)


# --- scores ----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A score as it is printed everywhere: one digit, "-" where there is none."""
    return "-" if value is None else f"{rounded(value):.1f}"


def signed(value: float | None) -> str:
    """A gain as it is printed everywhere."""
    return "-" if value is None else f"{rounded(value):+.1f}"


def rounded(value: float) -> float:
    """To one digit. Means of the same scores that were added up in another order differ in their last bits, which must
    not decide how 46.25 is printed. Adding 0.0 turns -0.0 into 0.0: "-0.0" would read as a loss."""
    return round(round(value, 9), 1) + 0.0
