"""Many programs on several workers: time limits, second chances, and verdicts in the order of the programs."""

from __future__ import annotations

import logging
import math
import queue
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from stilts_ds.errors import UserError, counted
from stilts_ds.execute import languages
from stilts_ds.execute.judges import strict_tests, with_comparison
from stilts_ds.execute.languages import LANGUAGES, Given
from stilts_ds.execute.policy import Refused
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.execute.worker import Worker, WorkerLost

log = logging.getLogger(__name__)

CANONICAL_SECONDS = 60.0  # what a solution known to be right may take when it is timed
SLOWER = 10.0  # how much slower than that solution a right program may be


JUDGES = ("strict", "benchmark", "exit-status")


@dataclass(frozen=True)
class Settings:
    """How programs are executed.

    `seconds` are of the CPU; the wall clock's limit is three times as much and five. `judge` is how answers are
    compared: "strict" compares types too; "benchmark" leaves the tests as they are; "exit-status" believes that exit
    status 0 is a pass, as MBXP's harness does, which is only good for repeating its numbers. `apart` is the
    two-process verdict, where a language has it. `rerun` gives timeouts their second chance. `readable` are folders
    shown read-only inside, such as node_modules or a toolchain outside /usr.
    """

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


def wall_limit(seconds: float) -> float:
    """A loaded machine gives a program a share of a core only, and starting costs time as well."""
    return 3 * seconds + 5


# --- one sample ------------------------------------------------------------------------------------------------------


def modules_folder(readable: Sequence[str]) -> str:
    """Where node finds packages: what is made readable, and Debian's."""
    return ":".join([*readable, "/usr/share/nodejs", "/usr/lib/nodejs"])


class Executor:
    """Asks a worker for verdicts. Knows how a program of each language is put to it, and which way is possible."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def __call__(self, worker: Worker, program: Program, seconds: float) -> Verdict:
        """Two processes first; where the tests need the program's objects, one, and a weak verdict."""
        language = LANGUAGES[program.language]
        by_status = self.settings.judge == "exit-status"
        apart = self.settings.apart and not by_status and (program.language == "python" or bool(language.source))
        if apart:
            result = self._ask(worker, program, seconds, apart=True)
            if result["verdict"] != "objects":
                return self._verdict(program, result, seconds, weak=False)
        return self._verdict(program, self._ask(worker, program, seconds, apart=False), seconds, weak=True)

    def tests_of(self, program: Program) -> str:
        """The tests under the judge that is asked for."""
        return strict_tests(program.language, program.tests) if self.settings.judge == "strict" else program.tests

    def _ask(self, worker: Worker, program: Program, seconds: float, apart: bool) -> dict[str, Any]:
        nonce = secrets.token_hex(16)
        language = LANGUAGES[program.language]
        tests = self.tests_of(program) if apart else with_comparison(program.language, self.tests_of(program))
        header: dict[str, Any] = {"cpu": math.ceil(seconds), "wall": wall_limit(seconds), "nonce": nonce}
        if program.language == "python":
            if apart:
                blobs: tuple[Any, ...] = (
                    program.program.encode("utf-8", "surrogatepass"),
                    {
                        "helpers": program.helpers,
                        "tests": tests,
                    },
                )
                header |= {"mode": "calls", "entry": program.entry}
                del header["nonce"]  # nothing that the program's process inherits may be worth having
            else:
                blobs = ({"program": program.program, "tests": tests},)
                header |= {"mode": "together"}
            return self._checked(worker.ask(header, language.limits, *blobs), nonce, apart)
        header["wall"] += language.compile_seconds
        if apart:
            header |= {"mode": "command-calls"}
            del header["nonce"]
            folder = modules_folder(self.settings.readable)
            blobs = languages.sides(language, program.program, program.helpers + tests, program.entry, folder)
        else:
            assert language.together is not None
            header |= {"mode": "command", "by_status": self.settings.judge == "exit-status"}
            blobs = (language.together(program.program, tests, nonce),)
        for blob in blobs:
            self._set_limits(blob, header["cpu"], language.compile_seconds)
        header["program_cpu"] = header["cpu"]
        header["cpu"] += language.compile_seconds + 1  # of the process that starts compiler and program
        return self._checked(worker.ask(header, language.limits, *blobs), nonce, apart)

    def _set_limits(self, given: Given, cpu: int, compiling: int) -> None:
        for step in given["steps"]:
            step["cpu"], step["wall"] = compiling, compiling
        given["steps"][-1] |= {"cpu": cpu, "wall": wall_limit(cpu)}
        paths = [*(f"{folder}/.bin" for folder in self.settings.readable), languages.PATH]
        given["env"]["PATH"] = ":".join(paths)
        given["env"].setdefault("NODE_PATH", modules_folder(self.settings.readable))

    def _checked(self, result: dict[str, Any], nonce: str, apart: bool) -> dict[str, Any]:
        """A pass of the weak way must hold this run's number."""
        by_status = self.settings.judge == "exit-status"
        if result["verdict"] == "passed" and not apart and not by_status and result.get("nonce") != nonce:
            return {**result, "verdict": "error", "reason": "ended before the tests did"}
        return result

    def _verdict(self, program: Program, result: dict[str, Any], seconds: float, weak: bool) -> Verdict:
        return Verdict(
            id=program.id,
            sample=program.sample,
            language=program.language,
            verdict=result["verdict"],
            reason=str(result.get("reason", ""))[:200],
            weak=weak,
            seconds=float(result.get("seconds", 0.0)),
            limit=seconds,
            natural_language=program.natural_language,
        )


# --- workers ---------------------------------------------------------------------------------------------------------


class Workers:
    """The workers of one language at a time. A worker that is lost is replaced; a sample that loses it is an error."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.execute = Executor(settings)

    @contextmanager
    def of(self, language: str, count: int) -> Iterator[list[Worker]]:
        workers: list[Worker] = []
        try:
            for _ in range(count):
                workers.append(self.start(language))
            yield workers
        finally:
            for worker in workers:
                worker.close()

    def start(self, language: str) -> Worker:
        """A new worker, with its precompiled header or packages. Raises Refused where a layer is missing."""
        known = LANGUAGES[language]
        worker = Worker(self.settings.readable, known.cache_mb)
        if known.warm is not None:
            header = {"mode": "warm", "cpu": 310, "wall": 600.0, "nonce": ""}
            given = known.warm()
            given["steps"][0] |= {"cpu": 300, "wall": 600.0}
            result = worker.ask(header, replace(known.limits, file_mb=known.cache_mb), given)
            if result["verdict"] != "passed":
                worker.close()
                raise Refused("compiler", f"{known.title} cannot compile here: {result['reason']}")
        return worker

    def run(
        self,
        workers: list[Worker],
        programs: Sequence[Program],
        seconds: Callable[[Program], float],
        done: Callable[[Verdict], None],
    ) -> list[Verdict]:
        """Verdicts of all programs, in their order."""
        verdicts: list[Verdict | None] = [None] * len(programs)
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        problems: list[BaseException] = []
        for index in range(len(programs)):
            waiting.put(index)

        def serve(slot: int) -> None:
            try:
                while not problems:
                    index = waiting.get_nowait()
                    verdict = self._one(workers, slot, programs[index], seconds(programs[index]))
                    verdicts[index] = verdict
                    done(verdict)
            except queue.Empty:
                return
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in range(len(workers))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        return [verdict for verdict in verdicts if verdict is not None]

    def _one(self, workers: list[Worker], slot: int, program: Program, seconds: float) -> Verdict:
        try:
            return self.execute(workers[slot], program, seconds)
        except WorkerLost as problem:
            workers[slot].close()
            workers[slot] = self.start(program.language)
            reason = f"the sandbox {problem}; a new one was started"
            return Verdict(
                program.id,
                program.sample,
                program.language,
                "error",
                reason,
                limit=seconds,
                natural_language=program.natural_language,
            )


def execute(
    programs: Sequence[Program], settings: Settings | None = None, done: Callable[[Verdict], None] | None = None
) -> list[Verdict]:
    """Execute programs in the sandbox and return a verdict for each, in their order.

    Languages whose toolchain is missing are withheld, never failed. Programs that run out of time are executed once
    more, alone, with ten times the seconds that the problem's canonical solution takes on this machine where that is
    more. Raises Refused, a UserError, where a layer of the sandbox is missing; `done` is called with each verdict.
    """
    settings = settings or Settings()
    if settings.judge == "exit-status" and any(program.language == "python" for program in programs):
        raise UserError("the judge exit-status is for programs that a command runs; use strict or benchmark for Python")
    report = done or (lambda verdict: None)
    workers = Workers(settings)
    verdicts: dict[tuple[str, int], Verdict] = {}
    for language in dict.fromkeys(program.language for program in programs):
        chosen = [program for program in programs if program.language == language]
        absent = languages.missing(language, tool_path(settings))
        if absent:
            log.warning("%s is not here: %s withheld", " and ".join(absent), counted(len(chosen), "program"))
            given = [withheld(program, absent) for program in chosen]
        else:
            given = _of_language(workers, language, chosen, settings, report)
        verdicts |= {verdict.key: verdict for verdict in given}
    return [verdicts[program.key] for program in programs]


def tool_path(settings: Settings) -> str:
    return ":".join([*(f"{folder}/.bin" for folder in settings.readable), languages.PATH])


def withheld(program: Program, absent: Sequence[str]) -> Verdict:
    """No verdict: the machine lacks the language's commands."""
    reason = f"{' and '.join(absent)} not found in the sandbox"
    return Verdict(
        program.id, program.sample, program.language, "withheld", reason, natural_language=program.natural_language
    )


def _of_language(
    workers: Workers, language: str, programs: list[Program], settings: Settings, done: Callable[[Verdict], None]
) -> list[Verdict]:
    count = min(settings.workers, len(programs))
    log.info("%s on %s", counted(len(programs), f"{LANGUAGES[language].title} program"), counted(count, "worker"))
    with workers.of(language, count) as started:
        verdicts = workers.run(started, programs, lambda program: settings.seconds, done)
        slow = [index for index, verdict in enumerate(verdicts) if verdict.verdict == "timeout"]
        if not slow or not settings.rerun:
            return verdicts
        log.info("%s ran out of time: once more, alone", counted(len(slow), "program"))
        limits: dict[str, float] = {}
        for index in slow:
            program = programs[index]
            if program.id not in limits:
                limits[program.id] = _limit_of(workers, started, program, settings.seconds)
            [again] = workers.run(started[:1], [program], lambda it: limits[it.id], lambda verdict: None)
            verdicts[index] = replace(again, alone=True)
    return verdicts


def _limit_of(workers: Workers, started: list[Worker], program: Program, seconds: float) -> float:
    """Ten times what the problem's canonical solution takes here, at least the usual seconds."""
    if not program.canonical:
        return seconds
    solution = replace(program, program=program.canonical)
    [timed] = workers.run(started[:1], [solution], lambda _: CANONICAL_SECONDS, lambda verdict: None)
    if not timed.passed:
        return seconds
    return max(seconds, SLOWER * timed.seconds)
