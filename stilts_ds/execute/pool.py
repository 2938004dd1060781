"""Many programs on several workers: time limits, second chances, and verdicts in the order of the programs."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from stilts_ds.errors import UserError, counted
from stilts_ds.execute import languages
from stilts_ds.execute.executor import Executor, Slot, fill_cache, start_slot
from stilts_ds.execute.languages import LANGUAGES, ProgrammingLanguage
from stilts_ds.execute.programs import Program, Verdict
from stilts_ds.execute.settings import ExecuteSettings
from stilts_ds.execute.worker import WorkerLost

log = logging.getLogger(__name__)

CANONICAL_SECONDS = 60.0  # what a solution known to be right may take when it is timed
SLOWER = 10.0  # how much slower than that solution a right program may be
CONSENT = (
    "programs that a model wrote are run only where you allow it: --allow, `execute.allow: true` in a file for "
    "--settings, or Settings(allow=True); docs/execute.md says what they can and cannot reach"
)


# --- workers ---------------------------------------------------------------------------------------------------------


@contextmanager
def shared_cache(language: ProgrammingLanguage, settings: ExecuteSettings) -> Iterator[str | None]:
    """A folder with what all workers of the language read: Go's packages, C++'s precompiled header. None for others."""
    if language.warm is None:
        yield None
        return
    # As root the workers are other users, who need not be able to enter the folder that TMPDIR names.
    folder = tempfile.mkdtemp(prefix="stilts-cache-", dir="/tmp" if os.getuid() == 0 else None)
    try:
        # Read by other users, and written only while it is filled.
        os.chmod(folder, 0o755)
        log.info("compiling once what all %s programs use", language.title)
        fill_cache(language, settings, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Workers:
    """The workers of one language at a time. A worker that is lost is replaced; a sample that loses it is an error."""

    def __init__(self, settings: ExecuteSettings):
        self.settings = settings
        self.execute = Executor(settings)
        self.cache: str | None = None

    @contextmanager
    def of(self, language: str, count: int) -> Iterator[list[Slot]]:
        """Raises Refused where a layer is missing, or the language's compiler does not work."""
        known = LANGUAGES[language]
        slots: list[Slot] = []
        with shared_cache(known, self.settings) as self.cache:
            try:
                for _ in range(count):
                    slots.append(start_slot(known, self.settings, self.cache))
                yield slots
            finally:
                for slot in slots:
                    slot.close()

    def run(
        self,
        slots: list[Slot],
        programs: Sequence[Program],
        seconds: Callable[[Program], float],
        done: Callable[[Verdict], None],
    ) -> list[Verdict]:
        """Verdicts of all programs, in their order."""
        verdicts: list[Verdict | None] = [None] * len(programs)
        # One queue for all workers, so that a slow program holds up one of them only.
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        problems: list[BaseException] = []
        for index in range(len(programs)):
            waiting.put(index)

        def serve(slot: int) -> None:
            try:
                while not problems:
                    index = waiting.get_nowait()
                    verdict = self._verdict(slots, slot, programs[index], seconds(programs[index]))
                    verdicts[index] = verdict
                    done(verdict)
            except queue.Empty:
                return
            # An interrupt, too, must reach the caller, and the other threads must stop.
            except BaseException as problem:
                problems.append(problem)

        # Threads are enough: each waits for its sandbox, which works in processes of its own.
        threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in range(len(slots))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        return [verdict for verdict in verdicts if verdict is not None]

    def _verdict(self, slots: list[Slot], slot: int, program: Program, seconds: float) -> Verdict:
        try:
            return self.execute(slots[slot], program, seconds)
        except WorkerLost as problem:
            # Whatever the program did to its sandbox ends with it.
            slots[slot].close()
            slots[slot] = start_slot(LANGUAGES[program.language], self.settings, self.cache)
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
    programs: Sequence[Program], settings: ExecuteSettings | None = None, done: Callable[[Verdict], None] | None = None
) -> list[Verdict]:
    """Execute programs in the sandbox and return a verdict for each, in their order.

    What the machine cannot judge is withheld, never failed: its language's toolchain is missing, or a library that its
    tests load. Programs that run out of time are executed once
    more, alone, with ten times the seconds that the problem's canonical solution takes on this machine where that is
    more. `done` is called with each verdict. Raises UserError without `settings.allow`, and Refused, which is one too,
    where a layer of the sandbox is missing.
    """
    settings = settings or ExecuteSettings()
    if not settings.allow:
        raise UserError(CONSENT)
    # Python programs are not run by a command here, so there is no exit status to believe.
    if settings.judge == "exit-status" and any(program.language == "python" for program in programs):
        raise UserError("the judge exit-status is for programs that a command runs; use strict or benchmark for Python")
    report = done or (lambda verdict: None)
    workers = Workers(settings)
    verdicts: dict[tuple[str, int], Verdict] = {}
    # One language after the other: each has workers and a cache of its own, which are large.
    for language in dict.fromkeys(program.language for program in programs):
        chosen = [program for program in programs if program.language == language]
        absent = languages.missing(language, settings.tool_path)
        if absent:
            given = [withheld(program, absent) for program in chosen]
        else:
            given = _of_language(workers, language, chosen, settings, report)
        verdicts |= {verdict.key: verdict for verdict in given}
        # No program is failed for what the machine lacks: a command, or a library that its tests load.
        reasons = Counter(verdict.reason for verdict in given if verdict.verdict == "withheld")
        for reason, count in reasons.items():
            log.warning("%s withheld: %s", counted(count, f"{LANGUAGES[language].title} program"), reason)
    return [verdicts[program.key] for program in programs]


def withheld(program: Program, absent: Sequence[str]) -> Verdict:
    """No verdict: the machine lacks the language's commands."""
    reason = f"{' and '.join(absent)} not found in the sandbox"
    return Verdict(
        program.id, program.sample, program.language, "withheld", reason, natural_language=program.natural_language
    )


def _of_language(
    workers: Workers, language: str, programs: list[Program], settings: ExecuteSettings, done: Callable[[Verdict], None]
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
            # On one worker, and with nothing beside it: the first timeout may have been the neighbours' doing.
            [again] = workers.run(started[:1], [program], lambda sample: limits[sample.id], lambda verdict: None)
            verdicts[index] = replace(again, alone=True)
    return verdicts


def _limit_of(workers: Workers, started: list[Slot], program: Program, seconds: float) -> float:
    """Ten times what the problem's canonical solution takes here, at least the usual seconds."""
    if not program.canonical:
        return seconds
    solution = replace(program, program=program.canonical)
    [timed] = workers.run(started[:1], [solution], lambda _: CANONICAL_SECONDS, lambda verdict: None)
    if not timed.passed:
        return seconds
    return max(seconds, SLOWER * timed.seconds)
