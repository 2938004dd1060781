"""One sample on one worker: how a program of each language is put to it, and which way to a verdict is possible."""

from __future__ import annotations

import base64
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from stilts_ds.execute import commands, languages
from stilts_ds.execute.commands import Given
from stilts_ds.execute.compile_server import CompileServer
from stilts_ds.execute.judges import strict_tests, with_comparison
from stilts_ds.execute.languages import LANGUAGES, ProgrammingLanguage
from stilts_ds.execute.policy import Cache, Refused
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.execute.worker import Worker

CACHE_MB = 512  # the largest file that is compiled once: C++'s precompiled header has about 150


def wall_limit(seconds: float) -> float:
    """A loaded machine gives a program a share of a core only, and starting costs time as well."""
    return 3 * seconds + 5


def modules_folder(readable: Sequence[str]) -> str:
    """Where node finds packages: what is made readable, and Debian's."""
    return ":".join([*readable, "/usr/share/nodejs", "/usr/lib/nodejs"])


@dataclass
class Slot:
    """A worker, and the compiler that stays warm beside it where the language has one."""

    worker: Worker
    compiler: CompileServer | None = None

    def close(self) -> None:
        self.worker.close()
        if self.compiler is not None:
            self.compiler.close()


def start_slot(language: ProgrammingLanguage, settings: ExecuteSettings, cache: str | None) -> Slot:
    """Raises Refused where a layer is missing."""
    shared = Cache(cache) if cache is not None else None
    compiler = CompileServer(language, settings.readable, settings.tool_path) if language.server else None
    return Slot(Worker(settings.readable, shared), compiler)


def fill_cache(language: ProgrammingLanguage, settings: ExecuteSettings, folder: str) -> None:
    """Compile into the folder what all programs of the language use. Raises Refused where that is not possible."""
    assert language.warm is not None
    given = language.warm()
    # Once for all workers, so it may take minutes.
    given["steps"][0] |= {"cpu": 300, "wall": 600.0}
    header = {"mode": "warm", "cpu": 310, "wall": 600.0, "nonce": ""}
    worker = Worker(settings.readable, Cache(folder, writable=True))
    try:
        result = worker.ask(header, replace(language.limits, file_mb=CACHE_MB), given)
    finally:
        worker.close()
    if result["verdict"] != "passed":
        raise Refused("compiler", f"{language.title} cannot compile here: {result['reason']}")


class Executor:
    """Asks a worker for verdicts."""

    def __init__(self, settings: ExecuteSettings):
        self.settings = settings
        self.by_status = settings.judge == "exit-status"

    def __call__(self, slot: Slot, program: Program, seconds: float) -> Verdict:
        """Two processes first; where the tests need the program's objects, one, and a weak verdict."""
        language = LANGUAGES[program.language]
        has_two = program.language == "python" or bool(language.driver)
        if self.settings.apart and has_two and not self.by_status:
            result = self._apart(slot.worker, language, program, seconds)
            # "objects": the tests hand over or name what only the program's process has.
            if result["verdict"] != "objects":
                return self._verdict(program, result, seconds, weak=False)
        result = self._together(slot, language, program, seconds)
        return self._verdict(program, result, seconds, weak=True)

    def tests_of(self, program: Program) -> str:
        """The tests under the judge that is asked for."""
        return strict_tests(program.language, program.tests) if self.settings.judge == "strict" else program.tests

    def _apart(self, worker: Worker, language: ProgrammingLanguage, program: Program, seconds: float) -> dict[str, Any]:
        """Two processes. Nothing that the program's process inherits may be worth having: there is no nonce."""
        tests = self.tests_of(program)
        header: dict[str, Any] = {"cpu": math.ceil(seconds), "wall": wall_limit(seconds)}
        if program.language == "python":
            header |= {"mode": "calls", "entry": program.entry}
            source = program.program.encode("utf-8", "surrogatepass")
            return worker.ask(header, language.limits, source, {"helpers": program.helpers, "tests": tests})
        header |= {"mode": "command-calls"}
        tests = language.opening + program.helpers + tests
        program_side, tests_side = commands.sides(
            language.driver, language.interpreter, program.program, tests, program.entry, language.typed
        )
        return self._ask_commands(worker, language, header, program_side, tests_side)

    def _together(self, slot: Slot, language: ProgrammingLanguage, program: Program, seconds: float) -> dict[str, Any]:
        """One process, whose tests end with this run's number."""
        # New for every run and in the tests' last line alone: a program that ends early cannot print it.
        nonce = secrets.token_hex(16)
        tests = with_comparison(program.language, self.tests_of(program))
        header = {"cpu": math.ceil(seconds), "wall": wall_limit(seconds), "nonce": nonce}
        if program.language == "python":
            # The nonce comes back in the outcome's frame: what Python programs print is not read.
            header |= {"mode": "together"}
            result = slot.worker.ask(header, language.limits, {"program": program.program, "tests": tests})
            return self._checked(result, nonce)
        assert language.together is not None
        given = language.together(program.program, tests, nonce)
        if slot.compiler is not None:
            compiled = slot.compiler.compile(given["files"])
            if compiled.problem:
                # Who ran out of time is executed once more, alone: the machine may be to blame.
                verdict = "timeout" if compiled.lost else "compile-error"
                return {"verdict": verdict, "reason": compiled.problem.splitlines()[0]}
            # Class files travel instead of the sources: nothing is left to compile in the sample's sandbox.
            given["files"] = {}
            given["binary"] = {name: base64.b64encode(text).decode() for name, text in compiled.classes.items()}
            given["env"]["CLASSPATH"] = f".:{languages.class_path(language, self.settings.tool_path)}"
        header |= {"mode": "command", "by_status": self.by_status}
        return self._checked(self._ask_commands(slot.worker, language, header, given), nonce)

    def _ask_commands(
        self, worker: Worker, language: ProgrammingLanguage, header: dict[str, Any], *sides: Given
    ) -> dict[str, Any]:
        cpu = header["cpu"]
        # What a compile server has compiled already needs no time for it.
        compiling = 0 if language.server else language.compile_seconds
        for given in sides:
            self._set_limits(given, cpu, compiling)
        header["wall"] += compiling
        header["program_cpu"] = cpu
        header["cpu"] = cpu + compiling + 1  # of the process that starts compiler and program
        return worker.ask(header, language.limits, *sides)

    def _set_limits(self, given: Given, cpu: int, compiling: int) -> None:
        for step in given["steps"]:
            step["cpu"], step["wall"] = compiling, compiling
        given["steps"][-1] |= {"cpu": cpu, "wall": wall_limit(cpu)}
        given["env"]["PATH"] = self.settings.tool_path
        # A language may have a path of its own there.
        given["env"].setdefault("NODE_PATH", modules_folder(self.settings.readable))

    def _checked(self, result: dict[str, Any], nonce: str) -> dict[str, Any]:
        """A pass of the weak way must hold this run's number."""
        if result["verdict"] == "passed" and not self.by_status and result.get("nonce") != nonce:
            return {**result, "verdict": "error", "reason": "ended before the tests did"}
        return result

    def _verdict(self, program: Program, result: dict[str, Any], seconds: float, weak: bool) -> Verdict:
        return Verdict(
            id=program.id,
            sample=program.sample,
            language=program.language,
            verdict=result["verdict"],
            # Cut off: the reason quotes what a program printed.
            reason=str(result.get("reason", ""))[:200],
            weak=weak,
            seconds=float(result.get("seconds", 0.0)),
            limit=seconds,
            natural_language=program.natural_language,
        )
