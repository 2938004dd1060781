"""The benchmarks as data: how each one's files become problems, whose programs can be executed.

Nothing is downloaded here and no benchmark is shipped: the readers take the files as their authors give them, plain or
gzipped. docs/execute.md says where each comes from.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.execute.programs import Program, check_program, language_name, read_rows, text_of


@dataclass(frozen=True)
class Problem:
    """One problem. A program is `prompt` and what a model wrote after it; `canonical` is the benchmark's own solution,
    written after the same prompt. `split` is of the benchmark's own division."""

    id: str
    language: str
    prompt: str
    entry: str
    tests: str
    helpers: str = ""
    canonical: str = ""
    natural_language: str = ""
    split: str = "test"

    def program(self, completion: str, sample: int = 0) -> Program:
        return Program(
            id=self.id,
            program=self.prompt + completion,
            tests=self.tests,
            language=self.language,
            entry=self.entry,
            sample=sample,
            helpers=self.helpers,
            canonical=self.prompt + self.canonical if self.canonical else "",
            natural_language=self.natural_language,
        )


Reader = Callable[[dict[str, Any], str, int], Problem]


# --- HumanEval and what follows its form -----------------------------------------------------------------------------


def python_helpers(prompt: str, entry: str) -> str:
    """What stands before the entry point in the prompt: imports, and functions that the tests of some problems call."""
    starts = [match.start() for match in re.finditer(rf"^(async )?def {re.escape(entry)}\b", prompt, re.MULTILINE)]
    # The last definition: prompts of some problems define helper functions before it.
    helpers = prompt[: starts[-1]] if starts else ""
    try:
        tree = ast.parse(helpers)
    except SyntaxError:
        return ""  # perturbed prompts (ReCode) may begin with pieces; tests that need them get the weak verdict
    # `return` outside a function parses and does not compile.
    return "" if any(isinstance(node, ast.Return) for node in tree.body) else helpers


def _check_call(tests: str, entry: str) -> str:
    """The tests with the call that runs them. Where the entry point is called `check` itself, theirs is renamed."""
    harness = "check"
    if entry == "check":
        harness = "check_entry"
        tests = re.sub(r"^def check\(", f"def {harness}(", tests, flags=re.MULTILINE)
    return f"{tests}\n{harness}({entry})\n"


def _entry_of(prompt: str, where: str) -> str:
    """The last function that a Python prompt begins. Raises UserError where there is none."""
    names = re.findall(r"^def (\w+)", prompt, re.MULTILINE)
    if not names:
        raise UserError(f"{where}: no entry point: the prompt begins no function; add 'entry_point'")
    return str(names[-1])


def _prompt_of(row: dict[str, Any], where: str) -> str:
    """What a program begins with. Raises UserError where it is missing or blank."""
    prompt = text_of(row, "prompt", where)
    if not prompt.strip():
        raise UserError(f"{where}: 'prompt' is blank, and every program begins with it; mend the row")
    return prompt


def _humaneval(row: dict[str, Any], where: str, number: int) -> Problem:
    """task_id, prompt, entry_point, canonical_solution, test: HumanEval and ReCode's perturbed files.

    ReCode's `partial` prompts hold half of the solution; what they begin is kept in `prompt` as the file has it.
    """
    prompt = _prompt_of(row, where)
    entry = text_of(row, "entry_point", where)
    return Problem(
        id=text_of(row, "task_id", where),
        language="python",
        prompt=prompt,
        entry=entry,
        tests=_check_call(text_of(row, "test", where), entry),
        helpers=python_helpers(prompt, entry),
        canonical=text_of(row, "canonical_solution", where, ""),
    )


def _mhumaneval(row: dict[str, Any], where: str, number: int) -> Problem:
    """mHumanEval: HumanEval's rows without an entry point; row 0's solution has lost its indentation."""
    prompt = text_of(row, "prompt", where)
    solution = text_of(row, "canonical_solution", where, "")
    first = solution.lstrip("\n")
    if first and not first[0].isspace():
        # Row 0 alone begins at the margin; a body must be indented to stand after its head.
        # Not textwrap.indent, which would also begin a line at a form feed.
        lines = []
        for line in solution.split("\n"):
            lines.append(f"    {line}" if line.strip() else line)
        solution = "\n".join(lines)
    entry = _entry_of(prompt, where)
    return Problem(
        id=str(row.get("task_id", f"mHumanEval/{number}")),
        language="python",
        prompt=prompt,
        entry=entry,
        tests=_check_call(text_of(row, "test", where), entry),
        helpers=python_helpers(prompt, entry),
        canonical=solution,
    )


def _mxeval(row: dict[str, Any], where: str, number: int) -> Problem:
    """MBXP, MathQA-X, multilingual HumanEval and HumanEval-XL: one form for all programming languages."""
    prompt = _prompt_of(row, where)
    entry = text_of(row, "entry_point", where)
    language = language_name(text_of(row, "language", where), where)
    tests = text_of(row, "test", where)
    identity = text_of(row, "task_id", where)
    python = language == "python"
    solution = row.get("canonical_solution")
    # null, and NaN in HumanEval-XL's Chinese files, stand for a solution that is not there.
    is_missing = solution is None or solution != solution
    solution = "" if is_missing else text_of(row, "canonical_solution", where)
    return Problem(
        id=identity,
        language=language,
        prompt=prompt,
        entry=entry,
        tests=_check_call(tests, entry) if python else tests,
        helpers=python_helpers(prompt, entry) if python else "",
        canonical=solution,
        natural_language=text_of(row, "natural_language", where, ""),
        split=mbpp_split(identity, where) if identity.startswith("MB") else "test",
    )


HUMANEVAL_X = {
    "python": "python",
    "cpp": "cpp",
    "java": "java",
    "javascript": "javascript",
    "js": "javascript",
    "rust": "rust",
    "go": "go",
}
_DECLARED = {  # what the entry point's name looks like in a declaration; elsewhere it stands before a bracket
    "python": r"def (\w+)\(",
    "javascript": r"(?:const|function|let|var) (\w+)",
    "rust": r"fn (\w+)",
    "go": r"func (\w+)\(",
}


def _humaneval_x(row: dict[str, Any], where: str, number: int) -> Problem:
    """HumanEval-X of CodeGeeX: the language stands in the id, the entry point in the declaration."""
    identity = text_of(row, "task_id", where)
    language = HUMANEVAL_X.get(identity.split("/")[0].lower())
    if language is None:
        raise UserError(f"{where}: {identity}: HumanEval-X is read for {', '.join(sorted(set(HUMANEVAL_X.values())))}")
    prompt = text_of(row, "prompt", where)
    declaration = text_of(row, "declaration", where)
    names = re.findall(_DECLARED.get(language, r"(\w+)\s*\("), declaration)
    if not names:
        raise UserError(f"{where}: {identity}: no entry point in its 'declaration'; mend the row")
    if language == "rust":
        prompt = _rust_declaration(declaration) + prompt
    return Problem(
        id=identity,
        language=language,
        prompt=prompt,
        entry=names[-1],
        # Go's rows keep what the tests import apart.
        tests=text_of(row, "test_setup", where, "") + text_of(row, "test", where),
        helpers=python_helpers(prompt, names[-1]) if language == "python" else "",
        canonical=text_of(row, "canonical_solution", where, ""),
    )


def _rust_declaration(declaration: str) -> str:
    """Rust's prompts are a comment, which the benchmark puts after the declaration. Its crates are left out: a compiler
    without cargo has none, and but six problems (`errata`) name them without using them."""
    return re.sub(r"^use (?:rand::Rng|regex::Regex|md5);\n", "", declaration, flags=re.MULTILINE)


# --- MBPP ------------------------------------------------------------------------------------------------------------


MBPP_EXERCISES = 974


def mbpp_split(identity: str, where: str) -> str:
    """prompt 1-10, test 11-510, dev 511-600, train 601-974: Austin et al. 2021 (arXiv 2108.07732), section 2.

    Raises UserError for an id that ends in no such number: nobody would know whether its exercise was trained on.
    """
    ends_in = re.search(r"[0-9]{1,9}$", identity)
    number = int(ends_in[0]) if ends_in else 0
    if not 1 <= number <= MBPP_EXERCISES:
        raise UserError(
            f"{where}: 'task_id' {identity[:40]!r} ends in no number from 1 to {MBPP_EXERCISES}; mend the row"
        )
    for last, split in ((10, "prompt"), (510, "test"), (600, "dev")):
        if number <= last:
            return split
    return "train"


def mbpp_entry(code: str, tests: list[str]) -> str | None:
    """The function that the first test calls: one that the solution defines, else the first that Python has not."""
    called = re.findall(r"\b(\w+)\s*\(", tests[0]) if tests else []
    defined = set(re.findall(r"^def +(\w+)", code, re.MULTILINE))
    of_solution = [name for name in called if name in defined]
    # Tests wrap calls in set(), sorted() and the like, which are no entry points.
    unknown = [name for name in called if name not in dir(builtins) and name not in ("assert", "not")]
    return (of_solution or unknown or [None])[0]


def _mbpp(row: dict[str, Any], where: str, number: int) -> Problem:
    """Official and sanitised MBPP. A completion is a whole program; the set-up code runs after it, for it uses it."""
    code = text_of(row, "code", where, "")
    tests = _texts_of(row, "test_list", where)
    if not tests:
        raise UserError(f"{where}: 'test_list' has no test, and every program would pass; mend the row")
    entry = mbpp_entry(code, tests)
    if entry is None:
        raise UserError(f"{where}: no entry point: no test calls a function; mend 'test_list'")
    imports = _texts_of(row, "test_imports", where)
    setup = text_of(row, "test_setup_code", where, "")
    identity = f"MBPP/{row.get('task_id')}"
    return Problem(
        id=identity,
        language="python",
        prompt="",
        entry=entry,
        tests="\n".join([*imports, setup, *tests, ""]),
        canonical=code,
        split=mbpp_split(identity, where),
    )


def _texts_of(row: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of texts of a row; empty where the row has none. Raises UserError where it is something else."""
    values = row.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{where}: {key!r} is no list of texts; mend the row")
    return values


def _mbpp_challenge(row: dict[str, Any], where: str, number: int) -> Problem | None:
    """MBPP's harder tests, which eleven rows have."""
    if not row.get("challenge_test_list"):
        return None
    return _mbpp({**row, "test_list": row["challenge_test_list"]}, where, number)


# --- all of them -----------------------------------------------------------------------------------------------------

READERS: dict[str, Callable[[dict[str, Any], str, int], Problem | None]] = {
    "humaneval": _humaneval,
    "recode": _humaneval,
    "mhumaneval": _mhumaneval,
    "mbpp": _mbpp,
    "mbpp_sanitized": _mbpp,
    "mbpp_challenge": _mbpp_challenge,
    "mbxp": _mxeval,
    "multi_humaneval": _mxeval,
    "humaneval_xl": _mxeval,
    "humaneval_x": _humaneval_x,
}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Rows of JSON lines, or of one JSON list, as sanitised MBPP and mHumanEval are shipped."""
    if not path.name.removesuffix(".gz").endswith(".json"):
        yield from read_rows(path)
        return
    import gzip

    raw = path.read_bytes()
    try:
        rows = json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except (ValueError, EOFError, OSError, RecursionError) as problem:
        raise UserError(f"{path}: not JSON ({problem}); fetch the file again") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of problems; give the benchmark's file")
    for number, row in enumerate(rows, 1):
        where = f"{path}: row {number}"
        yield where, row if isinstance(row, dict) else UserError(f"{where}: not an object; fetch the file again")


def read_problems(benchmark: str, path: Path, split: str | None = None) -> dict[str, Problem]:
    """Problems of a benchmark's file by id, all or those of a split. Raises UserError with file, line and remedy."""
    return {problem.id: problem for _, _, problem in problem_rows(benchmark, path, split)}


def _unix_lines(value: Any) -> Any:
    """A row, or a value in it, whose texts' lines end in a line feed alone: lines of all but two of MBPP's programs end
    in CR LF, those of four in CR, and a model would learn to write them so."""
    if isinstance(value, str):
        return re.sub("\r\n?", "\n", value)
    if isinstance(value, list):
        return [_unix_lines(element) for element in value]
    if isinstance(value, dict):
        return {key: _unix_lines(element) for key, element in value.items()}
    return value


# What a row is called in messages (file and line), the row, and the problem in it.
ProblemRow = tuple[str, dict[str, Any], Problem]


def problem_rows(benchmark: str, path: Path, split: str | None = None) -> list[ProblemRow]:
    """Each row of a benchmark's file with the problem in it; see `read_problems`."""
    return problems_of(benchmark, _rows(path), str(path), split)


def problems_of(
    benchmark: str, rows: Iterable[tuple[str, Any]], name: str, split: str | None = None
) -> list[ProblemRow]:
    """Rows, each behind what it is called, with the problems in them; `name` is what they are called together."""
    if benchmark not in READERS:  # a caller from Python may give any name
        raise UserError(f"unknown benchmark {benchmark!r}{did_you_mean(benchmark, READERS)}")
    problems: dict[str, ProblemRow] = {}
    for number, (where, row) in enumerate(rows):
        if isinstance(row, UserError):
            raise row
        row = _unix_lines(row)
        problem = READERS[benchmark](row, where, number)
        if problem is None or (split is not None and problem.split != split):
            continue
        check_program(problem.program(""), where)  # the problem is checked, before any sample is read
        if problem.id in problems:
            raise UserError(f"{where}: problem {problem.id!r} stands there twice; take one out")
        problems[problem.id] = where, row, problem
    if not problems:
        kind = f" of split {split!r}" if split else ""
        raise UserError(f"{name}: no problem{kind} in it; is it a file of {benchmark}?")
    return list(problems.values())
