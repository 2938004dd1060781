"""How programs are executed, as data: this module runs nothing, so that a recipe can hold it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_ds.execute import languages

JUDGES = ("strict", "benchmark", "exit-status")


@dataclass(frozen=True)
class ExecuteSettings:
    """How programs are executed.

    `allow` is the consent to run what nobody has read: without it nothing is. `seconds` are of the CPU; the wall
    clock's limit is three times as much and five. `judge` is how answers are compared: "strict" compares types too;
    "benchmark" leaves the tests as they are; "exit-status" believes that exit status 0 is a pass, as MBXP's harness
    does, which is only good for repeating its numbers. `apart` is the two-process verdict, where a language has it.
    `rerun` gives timeouts their second chance. `readable` are folders shown read-only inside, such as node_modules or
    a toolchain outside /usr.
    """

    allow: bool = False
    workers: int = 2
    seconds: float = 3.0
    judge: str = "strict"
    apart: bool = True
    rerun: bool = True
    readable: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.workers <= 256:
            raise UserError(f"workers is {self.workers}: give 1 to 256")
        if self.judge not in JUDGES:
            raise UserError(f"judge is {self.judge!r}: give {', '.join(JUDGES)}")
        if not 0.1 <= self.seconds <= 3600:
            raise UserError(f"seconds is {self.seconds}: give 0.1 to 3600 CPU seconds")
        for folder in self.readable:
            _check_readable(folder)

    @property
    def tool_path(self) -> str:
        """Where the commands of toolchains are looked for."""
        # .bin is npm's, bin a toolchain's. They come first: who shows a folder wants the commands in it.
        folders = [f"{folder}/{name}" for folder in self.readable for name in (".bin", "bin")]
        return ":".join([*folders, languages.PATH])


def _check_readable(folder: str) -> None:
    """Raise UserError for what could not be shown inside, or would be hidden there."""
    path = Path(folder)
    if not path.is_absolute() or not path.is_dir():
        raise UserError(f"readable: {folder} is no folder; give the whole path of one")
    # Mounted over what lies there: a folder below them would be hidden inside.
    if path.parts[1:2] in ((), ("tmp",), ("cache",), ("proc",), ("dev",)):
        raise UserError(f"readable: {folder} cannot be shown: the sandbox has a folder of its own there; move it")
