"""Malformed inputs by the hundred thousand: each is either used, with a right result, or refused with a UserError.

    python tests/tools/fuzz.py --inputs 100000 --seed 1 [--target readers] [--table FILE]

An input is a function of (seed, target, number): `--target NAME --only NUMBER` runs one again. A refusal must name the
file, line or key and say what to do; any other exception, more than SECONDS for an input, more than MEMORY, a message
with control characters, or a damaged file that is believed counts as a crash, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fuzz_readers
import fuzz_runs
import fuzz_settings
import fuzz_tensors
from fuzz_mutate import Dice
from fuzz_target import Target

from stilts_ds.errors import UserError
from stilts_ds.run_dir import git_commit

SECONDS = 10.0
MEMORY = 3 << 30  # bytes of address space on top of what is loaded
TARGETS: tuple[Target, ...] = (*fuzz_readers.TARGETS, *fuzz_settings.TARGETS, *fuzz_runs.TARGETS, *fuzz_tensors.TARGETS)
REMEDY = re.compile(
    r"; |did you mean|should|must|use |set |give |write |delete|remove|repair|download|unset|known: |check |start all|"
    r"exceeded|not a valid|such as |train |run |is missing|leave |no language|fetch|make |greater than|less than|"
    r"at least|one of|too |convert"
)


BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


class Hang(BaseException):
    """An input took longer than SECONDS."""


class Silent(Exception):
    """A refusal that does not say where the fault is, or what to do."""


@dataclass
class Tally:
    """What became of the inputs of one target."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    slowest: tuple[float, int] = (0.0, -1)
    crashes: dict[str, list[int]] = field(default_factory=dict)
    stories: dict[str, str] = field(default_factory=dict)

    @property
    def crashed(self) -> int:
        return sum(map(len, self.crashes.values()))


def check_refusal(message: str, names: tuple[str, ...]) -> None:
    """Raises Silent for a message that a user could not act on."""
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c != "\n" or c in BIDI for c in message):
        raise Silent(f"control characters in the message: {message!r}")
    if not any(name in message for name in names):
        raise Silent(f"the message names none of {names}: {message}")
    if not REMEDY.search(message):
        raise Silent(f"the message says nothing of what to do: {message}")
    if len(message) > 20_000:
        raise Silent(f"a message of {len(message)} characters: {message[:200]}")


def story_of(problem: BaseException) -> tuple[str, str]:
    """(a short name by which equal crashes are counted together, the traceback)."""
    frames = traceback.extract_tb(problem.__traceback__)
    ours = [frame for frame in frames if "stilts" in frame.filename] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].name}"
    detail = re.sub(r"[0-9a-f/]{6,}|\d+", "#", str(problem))[:60] if isinstance(problem, Silent) else ""
    lines = [f"  {Path(f.filename).name}:{f.lineno} {f.name}: {f.line}" for f in frames[-6:]]
    told = f"{type(problem).__name__}: {problem}".encode("ascii", "backslashreplace").decode()
    return f"{type(problem).__name__} in {place} {detail}".strip(), "\n".join([*lines, f"  {told[:600]}"])


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """No input may take more address space than this on top of what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def run_target(target: Target, numbers: range, seed: int, folder: Path) -> Tally:
    """Give the target its inputs; the valid files it starts from must be accepted first."""
    folder.mkdir()
    once = target.make(folder)
    names = (*target.names, str(folder))
    tally = Tally()
    with bounded_memory(MEMORY):
        for number in numbers:
            started = time.perf_counter()
            try:
                with alarm(SECONDS):
                    once(Dice(f"{seed} {target.name} {number}"))
                tally.accepted += 1
            except UserError as refusal:
                try:
                    check_refusal(str(refusal), names)
                    tally.refused += 1
                except Silent as problem:
                    note(tally, problem.with_traceback(refusal.__traceback__), number)
            except (Exception, Hang) as problem:
                note(tally, problem, number)
            except KeyboardInterrupt:
                raise
            except BaseException as problem:  # a panic of a Rust library is no Exception
                note(tally, problem, number)
            tally.inputs += 1
            tally.slowest = max(tally.slowest, (time.perf_counter() - started, number))
    gc.collect()
    return tally


def note(tally: Tally, problem: BaseException, number: int) -> None:
    name, story = story_of(problem)
    tally.crashes.setdefault(name, []).append(number)
    tally.stories.setdefault(name, story)


def fuzz(inputs: int, seed: int, wanted: str | None = None, only: int | None = None, jobs: int = 2) -> dict[str, Tally]:
    """Share `inputs` out among the targets by their weights, at least one each; targets run beside each other."""
    chosen = [i for i, target in enumerate(TARGETS) if wanted is None or wanted in target.name]
    whole = sum(TARGETS[i].weight for i in chosen)
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(prefix="stilts-fuzz-") as folder, ProcessPoolExecutor(jobs, context) as pool:
        work = {}
        for i in chosen:
            count = -(-inputs * TARGETS[i].weight // whole)
            numbers = range(count) if only is None else range(only, only + 1)
            own = Path(folder).resolve() / TARGETS[i].name.replace(" ", "-")
            work[TARGETS[i].name] = pool.submit(_run_numbered, i, numbers, seed, own)
        found = {}
        for name, future in work.items():
            found[name] = _result(future)
            print(f"{name}: {found[name].inputs} inputs, {found[name].crashed} crashes", file=sys.stderr, flush=True)
        return found


def _run_numbered(index: int, numbers: range, seed: int, folder: Path) -> Tally:
    return run_target(TARGETS[index], numbers, seed, folder)


def _result(future: Future[Tally]) -> Tally:
    try:
        return future.result()
    except BrokenProcessPool:  # a library of native code ended its process: no exception, but a crash
        return Tally(inputs=1, crashes={"a process was ended": [-1]}, stories={"a process was ended": "use --target"})


def table(found: dict[str, Tally]) -> str:
    rows = [(name, t.inputs, t.accepted, t.refused, t.crashed, t.slowest[0]) for name, t in found.items()]
    total = ("**all**", *(sum(row[i] for row in rows) for i in range(1, 5)), max(row[5] for row in rows))
    lines = ["| target | inputs | used, and right | refused | crashes | slowest (ms) |", "|---|---|---|---|---|---|"]
    lines += [f"| {n} | {a:,} | {b:,} | {c:,} | {d:,} | {1000 * e:,.1f} |" for n, a, b, c, d, e in [*rows, total]]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs over all targets (default: 100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", help="only targets whose name holds this")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="only this input")
    parser.add_argument("--jobs", type=int, default=2, help="targets that run at the same time (default: 2)")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table into this Markdown file")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    found = fuzz(given.inputs, given.seed, given.target, given.only, given.jobs)
    for name, tally in found.items():
        for crash, numbers in tally.crashes.items():
            print(f"--- {name}: {crash}: {len(numbers)} inputs, first {numbers[:3]}\n{tally.stories[crash]}")
    print(table(found))
    minutes = (time.monotonic() - started) / 60
    print(f"\n{minutes:.1f} minutes")
    if given.table:
        given.table.write_text(page(found, given.inputs, given.seed, minutes), encoding="utf-8")
    return int(any(tally.crashes for tally in found.values()))


def page(found: dict[str, Tally], inputs: int, seed: int, minutes: float) -> str:
    command = f"python tests/tools/fuzz.py --inputs {inputs} --seed {seed}"
    when = f"{date.today()}, commit {git_commit()[:12]}, {minutes:.0f} minutes on two CPU cores that others used too"
    return f"""# Malformed inputs

`{command}` (`make fuzz` does the same), {when}. [../security.md](../security.md) says what the checks are for.

Each input starts as a valid file, setting or folder and gets one to three faults: bytes that are flipped, lost, doubled
or foreign; lines, cells, keys and values that are lost, renamed, exchanged or of another type; tensors of another
name, shape or type; files that are cut, empty, gone or another kind of file.

- *Used, and right*: the fault changed nothing that matters, or made data that nobody can tell from data. What came out
  was checked: records against what encoding and metrics rely on, scores against 0 to 100, checkpoints, token rows and
  exported phases bit for bit against what was written. A damaged checkpoint that is passed over for the one before it
  and a cache that is made again count here.
- *Refused*: an error that names the file, line or key and says what to do, without control characters.
- *Crashes*: any other exception, a damaged file that was believed, an error that names nothing, more than
  {SECONDS:.0f} seconds, or more than {MEMORY >> 30} GiB of memory.

{table(found)}
"""


if __name__ == "__main__":
    sys.exit(main())
