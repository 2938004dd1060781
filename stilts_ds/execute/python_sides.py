"""The two Python processes of a verdict: one runs the program and answers calls, the other runs the tests.

Only plain values cross (`wire`). The tests' process never executes a line of the program, and the program's process
never holds a line of the tests. Runs inside the sandbox, on the standard library alone.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
import types
from typing import Any

from stilts_ds.execute.wire import MAX_DEPTH, WireError, decode, dump, encode, load, read_frame, write_frame

Outcome = dict[str, Any]


class Broken(BaseException):
    """The program's process is gone or speaks nonsense. No `except Exception` of a test may swallow it."""


class NeedsObjects(BaseException):
    """The tests want to hand over what is not a plain value, or use names that only the program defines."""


class ProgramError(Exception):
    """The program raised something that is no built-in exception."""


def short(text: str, length: int = 200) -> str:
    """One line, whose escapes reach no terminal: the parent writes it as JSON in ASCII."""
    line = (text.strip().splitlines() or [""])[0]
    return line[:length]


# --- the program's side ----------------------------------------------------------------------------------------------


def load_program(source: str) -> types.ModuleType:
    """Execute the program as a module. What stands under `if __name__ == "__main__"` is not what tests ask for."""
    module = types.ModuleType("program")
    sys.modules["program"] = module  # dataclasses and pickle look a class's module up
    # The name stands in the messages of syntax errors.
    exec(compile(source, "program.py", "exec"), module.__dict__)
    return module


def answer_calls(source: str, entry: str, calls: int, replies: int) -> None:
    """Run the program, say whether it loaded, and answer each call of its entry point until the pipe ends."""
    try:
        module = load_program(source)
        if entry not in module.__dict__:
            raise NameError(f"the program does not define {entry}")
        write_frame(replies, dump({"loaded": True}))
    except BaseException as problem:  # SystemExit too: a program that ends early is no pass
        write_frame(replies, dump({"raised": [type(problem).__name__, short(str(problem))]}))
        os._exit(0)
    while True:
        positional, named = decode(load(read_frame(calls)))
        try:
            value = module.__dict__[entry](*positional, **named)
            answer = {"value": encode(value)}
        except WireError as problem:
            answer = {"wrong": short(str(problem))}
        except BaseException as problem:
            answer = {"raised": [type(problem).__name__, short(str(problem))]}
        raw = dump(answer)
        write_frame(replies, raw)


# --- the tests' side -------------------------------------------------------------------------------------------------


class ProgramSide:
    """The program's entry point, as its tests see it."""

    def __init__(self, calls: int, replies: int):
        self.calls, self.replies = calls, replies
        self.called = 0
        self.failure: Outcome | None = None  # what broke, even if a test swallows the exception

    def start(self) -> None:
        self._value(self._read())

    def __call__(self, *positional: Any, **named: Any) -> Any:
        self.called += 1
        try:
            # As deep again as an answer: what the program returned can be handed back, and is no object of the tests.
            request = encode([list(positional), named], -MAX_DEPTH)
        except WireError as problem:
            raise NeedsObjects(f"an argument is no plain value: {problem}") from None
        try:
            write_frame(self.calls, dump(request))
        except BrokenPipeError:
            self._break("ended", "the program ended before it was called")
        return self._value(self._read())

    def _read(self) -> Any:
        try:
            answer = load(read_frame(self.replies))
        except EOFError:
            self._break("ended", "the program ended before it answered")
        except WireError as problem:
            self._break("wrong-type", f"answer is {problem}")
        if type(answer) is not dict or len(answer) != 1:
            self._break("wrong-type", "answer is not a message")
        return answer

    def _value(self, answer: dict[str, Any]) -> Any:
        [(kind, content)] = answer.items()
        if kind == "raised":
            self._raise(content)
        if kind == "wrong":
            self._break("wrong-type", short(str(content)))
        if kind == "loaded":
            return None
        if kind != "value":
            self._break("wrong-type", "answer is not a message")
        try:
            return decode(content)
        except (WireError, RecursionError, TypeError, ValueError) as problem:
            self._break("wrong-type", f"answer is {problem}")

    def _raise(self, content: Any) -> None:
        """Raise again what the program raised, so that tests which expect a ValueError get one."""
        name, text = content if type(content) is list and len(content) == 2 else ("", "")
        kind = getattr(builtins, str(name), None)
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in (AssertionError,):
            try:
                problem = kind(f"program: {short(str(text))}")
            except TypeError:  # UnicodeDecodeError wants five arguments
                problem = ProgramError(f"{short(str(name), 60)}: {short(str(text))}")
            raise problem
        if name == "AssertionError":
            raise ProgramError(f"AssertionError: {short(str(text))}")
        if isinstance(kind, type) and issubclass(kind, BaseException) and not issubclass(kind, Exception):
            self._break("error", f"the program raised {name}")
        raise ProgramError(f"{short(str(name), 60)}: {short(str(text))}")

    def _break(self, verdict: str, reason: str) -> Any:
        self.failure = {"verdict": verdict, "reason": short(reason)}
        raise Broken(reason)


def free_names(source: str, known: set[str]) -> set[str]:
    """Names that the source reads and neither it, `known` nor Python defines. Raises SyntaxError."""
    read: set[str] = set()
    bound = set(known) | set(dir(builtins))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    return read - bound - {"__name__", "__file__"}


def run_tests(helpers: str, tests: str, entry: str, candidate: ProgramSide) -> Outcome:
    """Run the tests against the candidate and return what came out; never raises."""
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        exec(compile(helpers, "helpers.py", "exec"), names)
        # After the helpers, which may define a stub of the same name.
        names[entry] = candidate
        missing = free_names(tests, set(names))
        code = compile(tests, "tests.py", "exec")
    except BaseException as problem:
        return {"verdict": "bad-tests", "reason": f"the tests do not load: {type(problem).__name__}: {problem}"[:200]}
    if missing:
        return {"verdict": "objects", "reason": f"the tests need the program's {', '.join(sorted(missing))}"[:200]}
    try:
        candidate.start()
        exec(code, names)
        outcome: Outcome = {"verdict": "passed", "reason": ""}
    except NeedsObjects as problem:
        return {"verdict": "objects", "reason": short(str(problem))}
    except AssertionError as problem:
        outcome = {"verdict": "failed", "reason": short(f"assertion {problem}")}
    except BaseException as problem:
        outcome = {"verdict": "error", "reason": short(f"{type(problem).__name__}: {problem}")}
        # An import of the tests. What a program raises is raised again here without the name of a module.
        if isinstance(problem, ModuleNotFoundError) and problem.name:
            outcome = {"verdict": "withheld", "reason": short(f"the tests need {problem.name}")}
    # They would pass whatever the program is.
    if outcome["verdict"] == "passed" and not candidate.called:
        return {"verdict": "bad-tests", "reason": f"the tests never call {entry}"}
    # A test that catches everything must not turn a broken program into a pass.
    return candidate.failure or outcome


def run_together(program: str, tests: str, nonce: str) -> Outcome:
    """The weak way: program and tests in one interpreter; the nonce comes after the tests."""
    try:
        module = load_program(program)
        exec(compile(tests, "tests.py", "exec"), module.__dict__)
    except AssertionError as problem:
        return {"verdict": "failed", "reason": short(f"assertion {problem}")}
    except BaseException as problem:
        return {"verdict": "error", "reason": short(f"{type(problem).__name__}: {problem}")}
    return {"verdict": "passed", "reason": "", "nonce": nonce}
