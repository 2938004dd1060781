"""Ranks of a test program without the seconds of their imports: forked from one process that has them behind it
(not from the tests' own process, which has threads).

`start` is that of ranks.py otherwise: processes with an environment, an output and a status of their own.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from ranks import PROGRAMS, environment, places

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["loaded"])


class Rank:
    """What `subprocess.Popen` offers of a process, as far as tests need it."""

    def __init__(self, program: str, arguments: list[str], place: Mapping[str, str]) -> None:
        self.printed = tempfile.NamedTemporaryFile("r", prefix="rank-", errors="replace")  # noqa: SIM115
        given = (program, arguments, dict(place), self.printed.name)
        self.process = SERVER.Process(target=_live, args=given, daemon=True)
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def ended(self, timeout: float) -> Rank:
        """This process, when it has ended; `output` is what it has printed."""
        self.output = self.communicate(timeout)[0]
        return self

    def communicate(self, timeout: float) -> tuple[str, None]:
        """What it has printed, when it has ended. Kills it and raises TimeoutError where it does not."""
        self.process.join(timeout)
        output = self.printed.read()
        if self.returncode is None:
            self.process.kill()
            raise TimeoutError(f"a rank still runs after {timeout} s:\n{output[-3000:]}")
        return output, None


def _live(program: str, arguments: list[str], place: dict[str, str], output: str) -> None:
    os.environ.clear()
    os.environ.update(place)
    with open(output, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


def start(program: Path | str, *arguments: object, ranks: int, **extra: str) -> list[Rank]:
    _serve()
    return [Rank(str(program), [*map(str, arguments)], place) for place in places(ranks, **extra)]


def started(
    folder: Path, arguments: Sequence[object], extra: Mapping[str, str] = {}, program: str = "warm_stilts.py"
) -> Rank:
    """`stilts ARGUMENTS` in `folder`, launcher and ranks forked, in a session of its own. `program` is the one of
    helpers/programs that starts it, or one that changes something first."""
    _serve()
    return Rank(str(PROGRAMS / program), [str(folder), *map(str, arguments)], environment(**extra))


def stilts(folder: Path, arguments: Sequence[object], extra: Mapping[str, str] = {}, timeout: float = 400) -> Rank:
    """`stilts ARGUMENTS` in `folder` to its end."""
    return started(folder, arguments, extra).ended(timeout)


def _serve() -> None:
    """Start the process that ranks are forked from, if it does not run: some of the environment counts on import."""
    here = {"PYTHONPATH": os.pathsep.join((str(Path(__file__).parent), environment()["PYTHONPATH"]))}
    with mock.patch.dict(os.environ, environment() | here):
        forkserver.ensure_running()
