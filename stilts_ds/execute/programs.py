"""Programs to execute and what came out: the two files of `stilts execute`, read, checked and written."""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, counted, did_you_mean, printable
from stilts_ds.execute import golang
from stilts_ds.execute.commands import RUST_TEST
from stilts_ds.execute.languages import ALIASES, LANGUAGES

MAX_PROGRAM = 1 << 20  # characters; a program that a model wrote has a few thousand
ENTRY = re.compile(r"[^\W\d][\w$]*[?!]?|\$[\w$]+")  # a function's name; in Ruby it may end so, in JavaScript begin so
VERDICT_TYPES: dict[str, tuple[type, ...]] = {
    "sample": (int,),
    "reason": (str,),
    "weak": (bool,),
    "seconds": (float, int),
    "limit": (float, int),
    "alone": (bool,),
    "natural_language": (str,),
}
VERDICTS = ("passed", "failed", "error", "wrong-type", "timeout", "memory", "compile-error", "bad-tests", "withheld")


@dataclass(frozen=True)
class Program:
    """One sample of one problem, with all that is needed to execute it.

    `tests` call `entry` and end without an exception where the program is right. `helpers` are what the tests' own
    process defines first (definitions of the prompt that tests call). `canonical` is a solution known to be right,
    whose time on this machine sets the limit of slow problems.
    """

    id: str
    program: str
    tests: str
    language: str = "python"
    entry: str = ""
    sample: int = 0
    helpers: str = ""
    canonical: str = ""
    natural_language: str = ""

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample


@dataclass(frozen=True)
class Verdict:
    """What executing one program gave. `weak`: program and tests shared a process. `seconds` are of the CPU."""

    id: str
    sample: int
    language: str
    verdict: str
    reason: str = ""
    weak: bool = False
    seconds: float = 0.0
    limit: float = 0.0
    alone: bool = False  # executed once more with nothing beside it, after it had run out of time
    natural_language: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "passed"

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.sample


@dataclass
class Faults:
    """Rows that cannot be executed: told all at once, or left out where the rest is to be run anyway."""

    lines: list[str] = field(default_factory=list)

    def raise_if_any(self) -> None:
        if self.lines:
            shown = "\n  ".join(self.lines[:20])
            # Twenty lines fit a terminal, and show what kind of fault it is.
            more = f"\n  and {len(self.lines) - 20} more" if len(self.lines) > 20 else ""
            raise UserError(f"{shown}{more}\nmend them, or add --skip-bad to execute the rest")


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, JSON value or UserError) of a .jsonl or .jsonl.gz file; blank lines are none."""
    import gzip

    with open(path, "rb") as plain:
        # By its first bytes, not its name: files are renamed when they are unpacked.
        packed = plain.read(2) == b"\x1f\x8b"
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        try:
            for number, raw in enumerate(file, 1):
                # Bad rows come out as errors in their place, so that the caller may leave them out and go on.
                where = f"{path}:{number}"
                if raw.strip():
                    yield where, _parse(raw, where, "utf-8-sig" if number == 1 else "utf-8")
        except (EOFError, gzip.BadGzipFile, OSError) as problem:
            raise UserError(f"{path}: the compressed file is damaged ({problem}); fetch it again") from None


def _parse(raw: bytes, where: str, encoding: str) -> Any:
    try:
        value = json.loads(raw.decode(encoding))
    except UnicodeDecodeError:
        return UserError(f"{where}: not UTF-8 text; write programs as JSON lines in UTF-8")
    except (ValueError, RecursionError) as problem:
        return UserError(f"{where}: not JSON ({problem}); write one JSON object a line")
    if not isinstance(value, dict):
        return UserError(f"{where}: not a JSON object; write one object a line")
    return value


def read_programs(path: Path, skip_bad: bool = False) -> tuple[list[Program], list[str]]:
    """All programs of a file, and the faults of rows left out. Raises UserError unless told to skip."""
    programs: list[Program] = []
    faults = Faults()
    seen: dict[tuple[str, int], str] = {}
    for where, row in read_rows(path):
        try:
            program = program_of_row(row, where)
            # Two rows of one key would count as one sample, whichever of them comes last.
            if program.key in seen:
                raise UserError(
                    f"{where}: id {program.id!r}, sample {program.sample} stands in {seen[program.key]} already; "
                    "give every sample of a problem a number of its own"
                )
        except UserError as problem:
            faults.lines.append(printable(str(problem)))
            continue
        seen[program.key] = where
        programs.append(program)
    if not skip_bad:
        faults.raise_if_any()
    if not programs:
        raise UserError(f"{path}: no program to execute in it; write one JSON object a line (docs/execute.md)")
    return programs, faults.lines


def text_of(row: dict[str, Any], key: str, where: str, default: str | None = None) -> str:
    """A text of a row. Raises UserError where it is missing or no text."""
    value = row.get(key, default)
    if value is None:
        raise UserError(f"{where}: has no {key!r}; add it (docs/execute.md)")
    if not isinstance(value, str):
        raise UserError(f"{where}: {key!r} is {json.dumps(value)[:60]}, and a text is needed; mend the row")
    return value


def program_of_row(row: Any, where: str) -> Program:
    """A row that holds all of a sample itself. Raises UserError, which names the line and the remedy."""
    if isinstance(row, UserError):
        raise row
    known = set(Program.__dataclass_fields__)
    for key in row:
        if key not in known:
            raise UserError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")
    identity = row.get("id")
    # MBPP numbers its problems; True and False are numbers to Python.
    if not isinstance(identity, (str, int)) or isinstance(identity, bool) or identity == "":
        raise UserError(f"{where}: has no 'id'; give the problem's name, such as HumanEval/0")
    sample = row.get("sample", 0)
    if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
        raise UserError(f"{where}: 'sample' is {json.dumps(sample)[:60]}; number samples 0, 1, 2, ...")
    texts = {key: text_of(row, key, where) for key in ("program", "tests")}
    for key in ("entry", "helpers", "canonical", "natural_language"):
        texts[key] = text_of(row, key, where, "")
    language = language_name(text_of(row, "language", where, "python"), where)
    made = Program(id=str(identity), sample=sample, language=language, **texts)
    check_program(made, where)
    return made


def language_name(name: str, where: str) -> str:
    """The language's one name. Raises UserError for one that is not known."""
    known = ALIASES.get(name.lower())
    if known is None:
        raise UserError(f"{where}: unknown language {name!r}{did_you_mean(name.lower(), ALIASES)}")
    return known


def check_program(program: Program, where: str) -> None:
    """Raise UserError for what no language can execute."""
    if len(program.program) > MAX_PROGRAM:
        size = counted(len(program.program), "character")
        raise UserError(
            f"{where}: the program has {size}, more than {MAX_PROGRAM:,}; cut it where the model should stop"
        )
    if "\0" in program.program:
        raise UserError(f"{where}: the program holds a null character, so it is no source text; take the row out")
    # pass@1 of 100 % from a file without tests is the worst kind of wrong score.
    if not program.tests.strip():
        raise UserError(f"{where}: 'tests' are empty, and every program would pass; give the problem's tests")
    if program.language == "python":
        named = program.entry.isidentifier() and not keyword.iskeyword(program.entry)
    elif LANGUAGES[program.language].driver:
        named = ENTRY.fullmatch(program.entry) is not None
    else:
        named = True  # program and tests are compiled together: nothing calls the function by its name
    if not named:
        raise UserError(f"{where}: 'entry' is {program.entry!r}; name the function that the tests call")
    if program.language == "python":
        check_python_tests(program, where)
    if program.language == "rust" and not RUST_TEST.search(program.tests):
        raise UserError(f"{where}: the tests mark no function with #[test], so that none would run; mark one")
    problem = golang.tests_problem(program.tests) if program.language == "go" else None
    if problem:
        raise UserError(f"{where}: {problem}")


def check_python_tests(program: Program, where: str) -> None:
    """Raise UserError for tests that do not parse: every program would fail them."""
    try:
        ast.parse(program.tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise UserError(f"{where}: the tests are no Python ({problem}); mend the problem's file") from None


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """One JSON object a line, in ASCII, so that nothing a program said steers a terminal. Whole or not at all."""
    # In the same folder, since a file is renamed within one file system only.
    temporary = path.with_name(f".{path.name}.writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(temporary, "w", encoding="ascii") as file:
        for verdict in verdicts:
            file.write(json.dumps(asdict(verdict)) + "\n")
    temporary.replace(path)


def read_verdicts(path: Path) -> list[Verdict]:
    """The verdicts of a file. Raises UserError with file and line."""
    verdicts: dict[tuple[str, int], Verdict] = {}
    known = set(Verdict.__dataclass_fields__)
    for where, row in read_rows(path):
        if isinstance(row, UserError):
            raise row
        strange = set(row) - known
        if strange:
            raise UserError(f"{where}: unknown key {min(strange)!r}; give a file that `stilts execute` wrote")
        for key in ("id", "language", "verdict"):
            text_of(row, key, where)
        if row["verdict"] not in VERDICTS:
            raise UserError(f"{where}: unknown verdict {row['verdict']!r}{did_you_mean(row['verdict'], VERDICTS)}")
        for key, kinds in VERDICT_TYPES.items():
            if type(row.get(key, kinds[0]())) not in kinds:
                raise UserError(
                    f"{where}: {key!r} is {json.dumps(row[key])[:60]}; give a file that `stilts execute` wrote"
                )
        if "sample" not in row:
            raise UserError(f"{where}: has no 'sample'; give a file that `stilts execute` wrote")
        verdict = Verdict(**row)
        if verdict.key in verdicts:
            raise UserError(f"{where}: id {verdict.id!r}, sample {verdict.sample} stands there twice; take one out")
        verdicts[verdict.key] = verdict
    if not verdicts:
        raise UserError(f"{path}: holds no verdict; give a file that `stilts execute` wrote")
    return list(verdicts.values())
