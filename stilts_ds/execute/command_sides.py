"""Programs of languages that are run by a command: compile, run, read the verdict. Runs inside the sandbox.

This process is the first of its namespace and stays out of reach of what it starts (it cannot be opened, traced or
signalled), so that what it reports about an exit status is true.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import resource
import select
import signal
import time
from typing import Any

from stilts_ds.execute.python_sides import short
from stilts_ds.execute.wire import dump, write_frame

# A path inside the sandbox: on the /tmp of one side, which is empty when the side starts and gone when it ends.
WORK = "/tmp/work"
CAPTURED = 1 << 20  # bytes of output that are looked at; the rest is read and thrown away
TAIL = 4096

Given = dict[str, Any]


def prepare(given: Given) -> None:
    """Write the files of a sample into its empty folder."""
    os.makedirs(WORK, exist_ok=True)
    os.chdir(WORK)
    for name, text in given["files"].items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    for name, content in given.get("binary", {}).items():
        os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        with open(name, "wb") as binary:
            binary.write(base64.b64decode(content))


def execute_step(step: Given, env: dict[str, str]) -> None:
    """Become the command of a step. Its CPU limit holds for it alone, the compiler's being another."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (min(step["cpu"], hard), min(step["cpu"] + 1, hard)))
    os.execvpe(step["argv"][0], step["argv"], env)


def run_step(step: Given, env: dict[str, str]) -> tuple[int, str, str]:
    """Run a step to its end or to its limit; return its wait status, and the ends of its output and of its errors."""
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(out_write, 1)
            os.dup2(err_write, 2)
            os.closerange(3, 100)  # the verdict's pipe above all
            execute_step(step, env)
        finally:
            os._exit(127)
    os.close(out_write)
    os.close(err_write)
    texts = _drain(pid, {out_read: b"", err_read: b""}, time.monotonic() + step["wall"])
    _, status = os.waitpid(pid, 0)
    os.close(out_read)
    os.close(err_read)
    return status, texts[out_read], texts[err_read]


def _drain(pid: int, tails: dict[int, bytes], deadline: float) -> dict[int, str]:
    """Read until the process has ended; a grandchild that keeps the pipe open does not hold the verdict up.

    At the deadline all other processes of the namespace are killed, this one among them.
    """
    ended = os.pidfd_open(pid)
    poll = select.poll()
    # The process itself is waited for, not the end of its output.
    poll.register(ended, select.POLLIN)
    for descriptor in tails:
        os.set_blocking(descriptor, False)
        poll.register(descriptor, select.POLLIN)
    running = True
    while running:
        ready = [descriptor for descriptor, _ in poll.poll(max(0.0, 1000 * (deadline - time.monotonic())))]
        if time.monotonic() >= deadline:
            os.kill(-1, signal.SIGKILL)
        running = ended not in ready
        for descriptor in tails:
            tails[descriptor] = _read_available(descriptor, tails[descriptor], poll)
    os.close(ended)
    return {descriptor: tail.decode("utf-8", "replace") for descriptor, tail in tails.items()}


def _read_available(descriptor: int, tail: bytes, poll: Any) -> bytes:
    for _ in range(CAPTURED >> 16):  # then look whether the process has ended: it may write for ever
        try:
            chunk = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return tail
        if not chunk:
            with contextlib.suppress(KeyError):
                poll.unregister(descriptor)
            return tail
        tail = (tail + chunk)[-TAIL:]
    return tail


def _reason(status: int, errors: str, output: str) -> str:
    # Go begins with a line `# command-line-arguments`, which says nothing.
    messages = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith("# ")]
    messages = messages or output.splitlines()
    # Mono says on the next line what was not handled.
    if len(messages) > 1 and messages[0].endswith(":"):
        messages = [f"{messages[0]} {messages[1]}"]
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    return f"{how}: {short(messages[0])}" if messages else how


def compile_steps(given: Given) -> Given | None:
    """Run all steps but the last; return what is wrong, if something is."""
    for step in given["steps"][:-1]:
        status, output, errors = run_step(step, given["env"])
        if status:
            timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL)
            verdict = "timeout" if timed_out else "compile-error"
            return {"verdict": verdict, "reason": _reason(status, errors, output)}
    return None


def run_alone(given: Given, nonce: str, by_status: bool) -> Given:
    """The weak way: program and tests in one process. A pass is exit status 0 and, last on its output, the nonce that
    the tests print when they are through; or, if that is asked for, exit status 0 alone."""
    prepare(given)
    problem = compile_steps(given)
    if problem:
        return problem
    status, output, errors = run_step(given["steps"][-1], given["env"])
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return {"verdict": "timeout", "reason": "used its CPU seconds up"}
    if status:
        return {"verdict": "failed", "reason": _reason(status, errors, output)}
    lines = output.rstrip("\n").split("\n")
    if not by_status and (not nonce or lines[-1] != nonce):
        return {"verdict": "error", "reason": "ended before the tests did (exit status 0)"}
    return {"verdict": "passed", "reason": "", "nonce": nonce}


def warm_up(given: Given) -> Given:
    """Compile once what later samples of this worker find in /cache."""
    prepare(given)
    return compile_steps({**given, "steps": [*given["steps"], {}]}) or {"verdict": "passed", "reason": ""}


def become_server(given: Given) -> None:
    """Become a server that reads requests from descriptor 0 and answers on 1: the parent's pipes."""
    prepare(given)
    execute_step(given["steps"][-1], given["env"])


def run_program_side(given: Given) -> None:
    """Compile, then become the program with its two pipes."""
    prepare(given)
    problem = compile_steps(given)
    if problem:
        write_frame(4, dump({"raised": ["CompileError", problem["reason"]]}))
        return
    _share({3, 4})
    execute_step(given["steps"][-1], given["env"])


def run_tests_side(given: Given, verdict: int) -> None:
    """Compile, then become the tests, which hold both pipes and write the verdict."""
    prepare(given)
    problem = compile_steps(given)
    if problem:
        outcome = {"verdict": "bad-tests", "reason": f"the tests do not load: {problem['reason']}"}
        write_frame(verdict, json.dumps(outcome).encode())
        return
    _share({3, 4, verdict})
    execute_step(given["steps"][-1], given["env"])


def _share(descriptors: set[int]) -> None:
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)
