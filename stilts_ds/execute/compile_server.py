"""A compiler that stays warm in a sandbox of its own, where no program is ever run.

Java's, Kotlin's and Scala's compilers take seconds to start and a fraction of a second for a program. One is kept for
each worker; class files come back as bytes and go into the sample's own sandbox.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from stilts_ds.execute import commands, languages
from stilts_ds.execute.languages import ProgrammingLanguage
from stilts_ds.execute.policy import SandboxLimits
from stilts_ds.execute.worker import Worker, WorkerLost

LIMITS = SandboxLimits(memory_mb=2048, memory_kind="data", total_mb=3072, processes=128, files=256, scratch_mb=128)
MACHINE = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx768m", "-Xss8m")
CPU_SECONDS = 24 * 3600  # of a server's whole life; each compilation has a limit by the wall clock
STARTING = 120.0  # seconds that the first compilation may take on top, on a loaded machine
MAX_ANSWER = 32 << 20  # bytes of all class files of a program
SOURCE = "CompileServer.java"


@dataclass(frozen=True)
class Compiled:
    """Class files by their paths, or what is wrong with the program; `lost` where the compiler gave no answer."""

    classes: dict[str, bytes]
    problem: str = ""
    lost: bool = False


class CompileServer:
    """The compiler of a language. Starts with the first program and anew where it is lost."""

    def __init__(self, language: ProgrammingLanguage, readable: tuple[str, ...], path: str):
        self.language, self.readable, self.path = language, readable, path
        self.worker: Worker | None = None

    def compile(self, files: Mapping[str, str]) -> Compiled:
        """Compile a program's files. A compiler that is lost or takes too long gets a second chance, started anew:
        the program before may have used its memory up."""
        request = b"".join(
            _part(name.encode()) + _part(text.encode("utf-8", "replace")) for name, text in files.items()
        )
        for _ in range(2):
            try:
                return _unpack(self._exchange(request))
            except WorkerLost as problem:
                lost = str(problem)
                self.close()
        return Compiled({}, f"the compiler {lost} (limit {self.language.compile_seconds} s)", lost=True)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def _exchange(self, request: bytes) -> bytes:
        seconds = float(self.language.compile_seconds)
        if self.worker is None:
            self.worker = self._start()
            seconds += STARTING
        return self.worker.exchange(_part(request), seconds, MAX_ANSWER)

    def _start(self) -> Worker:
        jars = languages.class_path(self.language, self.path)
        machine = (*MACHINE, "-cp", jars) if jars else MACHINE
        run = commands.step(*machine, SOURCE, *self.language.server)
        source = commands.DRIVERS.joinpath(SOURCE).read_text(encoding="utf-8")
        given = commands.given({SOURCE: source}, run, PATH=self.path)
        # Kotlin's compiler does not look for its library on its own class path.
        if self.language.name == "kotlin":
            run["argv"] += ["-cp", jars.replace("*", "kotlin-stdlib.jar")]
        run["cpu"] = CPU_SECONDS
        worker = Worker(self.readable)
        worker.serve({"mode": "server", "cpu": CPU_SECONDS, "wall": 0.0}, LIMITS, given)
        return worker


def _part(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def _unpack(answer: bytes) -> Compiled:
    """The server's answer. Raises WorkerLost for one that is cut off or no answer."""
    parts = []
    at = 0
    while at < len(answer):
        size = int.from_bytes(answer[at : at + 4], "big")
        parts.append(answer[at + 4 : at + 4 + size])
        at += 4 + size
    if at != len(answer) or len(parts) % 2 == 0:
        raise WorkerLost("gave no answer that can be read")
    # The problem, empty where there is none; then name and content of each class file in turn.
    problem, *files = parts
    if problem:
        return Compiled({}, problem.decode("utf-8", "replace"))
    return Compiled({name.decode(): content for name, content in zip(files[::2], files[1::2])})
