"""What people see of a run: milestones, the time that is left, and bars that no line collides with."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator

import pytest

from stilts_ds import display
from stilts_ds.display import MILESTONE, PhaseWork, Position, StudyClock, StudyWork, carrying, number, signed

WORK = StudyWork((PhaseWork("none/seed1/xnli", 1000, 2), PhaseWork("mnli/seed1/[b]xnli", 3000, 2)))
NONE, MNLI = (phase.label for phase in WORK.phases)


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger = logging.getLogger("display_under_test")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    yield logger
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()


def screen(written: str) -> list[str]:
    """The lines of a terminal after all of it was written: line feeds, returns, cursor up, erase line."""
    lines, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[^\x1b]", written):
        if token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            column = 0
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token.endswith("A"):
            row -= int(token[2:-1] or 1)
        elif not token.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines if line.strip()]


def test_the_time_left_comes_from_the_rates_of_this_start() -> None:
    now = Clock()
    clock = StudyClock(now)
    clock.begin(WORK)
    assert clock.study_seconds() is None  # nothing was measured
    for now.time, step in ((10, 0), (60, 5), (110, 10)):
        clock.move(Position(NONE, "step", step, 10))
    # 1,000 tokens took 110 s with the loading; no file was predicted yet, and files are left.
    assert clock.study_seconds() is None
    for now.time, file in ((114, 1), (118, 2)):
        clock.move(Position(NONE, "file", file, 2))
    assert clock.phase_seconds() == 0
    # 3,000 tokens and two files are left.
    assert clock.study_seconds() == pytest.approx(3000 * 0.11 + 2 * 4)
    assert clock.number == 1


def test_a_phase_that_goes_on_counts_only_what_is_left_of_it() -> None:
    now = Clock()
    clock = StudyClock(now)
    clock.begin(StudyWork((PhaseWork(NONE, 1000, 0),)))
    for now.time, step in ((0, 90), (10, 95)):
        clock.move(Position(NONE, "step", step, 100))
    # Its checkpoint was of step 90: half of the rest took ten seconds.
    assert clock.study_seconds() == pytest.approx(10)


def test_a_phase_of_nothing_but_files_is_measured_by_files() -> None:
    now = Clock()
    clock = StudyClock(now)
    clock.begin(StudyWork((PhaseWork("none/retrieval", 0, 4),)))
    for now.time, file in ((3, 1), (6, 2)):
        clock.move(Position("none/retrieval", "file", file, 4))
    assert clock.study_seconds() == pytest.approx(6)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [("quiet", ["doubt"]), ("milestones", ["phase ended", "doubt"]), ("all", ["a step", "phase ended", "doubt"])],
)
def test_the_console_shows_as_much_as_was_asked_for(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch, asked: str, shown: list[str]
) -> None:
    monkeypatch.setenv(display.CONSOLE, asked)
    written = io.StringIO()
    log.addHandler(display.console_handler(written))
    log.info("a step")
    log.log(MILESTONE, "phase ended")
    log.warning("doubt")
    assert written.getvalue().splitlines() == shown


def test_a_console_that_is_a_file_gets_a_line_of_progress_now_and_then(log: logging.Logger) -> None:
    written = io.StringIO()
    handler = display.Console(written, MILESTONE)
    handler.clock.now = now = Clock()
    handler.began = handler.spoke = 0.0
    log.addHandler(handler)
    log.info("work", extra=carrying(WORK))
    for step in range(101):
        now.time += 2
        log.info("step %d", step, extra=carrying(Position(NONE, "step", step, 100, "loss 1.02")))
    lines = written.getvalue().splitlines()
    # 202 seconds, one line in each whole minute.
    assert len(lines) == 3 and "\x1b" not in written.getvalue()
    assert lines[0] == "none/seed1/xnli: step 29 of 100, loss 1.02; phase 1 of 2"


def test_a_long_run_has_few_lines_about_progress(log: logging.Logger) -> None:
    written = io.StringIO()
    handler = display.Console(written, MILESTONE)
    handler.clock.now = now = Clock()
    handler.began = handler.spoke = 0.0
    log.addHandler(handler)
    log.info("work", extra=carrying(WORK))
    for step in range(24 * 360):
        now.time += 10
        log.info("step", extra=carrying(Position(NONE, "step", step, 24 * 360)))
    assert 30 < len(written.getvalue().splitlines()) < 80  # in a day


def test_lines_never_collide_with_the_bars_and_the_bars_leave_nothing(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv(display.CONSOLE, "milestones")
    terminal = Terminal()
    handler = display.console_handler(terminal)
    assert isinstance(handler, display.Bars)
    log.addHandler(handler)
    log.info("work", extra=carrying(WORK))
    for label in (NONE, MNLI):
        for step in range(11):
            log.info("step", extra=carrying(Position(label, "step", step, 10, "loss 1.02")))
        handler.bars.refresh()
        during = screen(terminal.getvalue())
        assert during[-1].startswith(label) and "step 10 of 10, loss 1.02" in during[-1]
        assert during[-2].startswith("study")
        log.log(MILESTONE, "%s done [b]not bold[/b]", label)
        log.warning("a doubt about %s", label)
    handler.close()
    expected = [line for label in (NONE, MNLI) for line in (f"{label} done [b]not bold[/b]", f"a doubt about {label}")]
    assert screen(terminal.getvalue()) == expected
    assert terminal.getvalue().rstrip("\n").rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert type(display.console_handler(Terminal())) is display.Console


def test_a_demonstration_does_not_warn_about_itself() -> None:
    assert display.concern("toy") == logging.INFO
    assert display.concern("local") == display.concern("hub") == logging.WARNING


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (252, "4 min 12 s"), (59.6, "1 min 00 s"), (11100, "3 h 05 min")],
)
def test_durations_read_like_a_clock(seconds: float, text: str) -> None:
    assert display.duration(seconds) == text


def test_a_score_is_printed_alike_in_whichever_order_it_was_added_up() -> None:
    """46.25 of four languages, and what two orders of adding make of it: the log once said 46.3 and the table 46.2."""
    one, other = 46.25, 46.250000000000007
    assert one != other
    assert number(one) == number(other) == "46.2" and signed(-one) == signed(-other) == "-46.2"
    assert (number(0.05 + 1e-12), number(-0.04), signed(-0.04), number(None)) == ("0.1", "0.0", "+0.0", "-")
