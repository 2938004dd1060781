"""The worker inside the sandbox: a warm Python that forks the two sides of each verdict and never runs either.

It reads a small header for each sample. The program and the tests are read by the side that needs them, straight from
the pipe: this process's memory, which every later side inherits, has never held a test.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from stilts_ds.execute import command_sides, confine, probe, python_sides, seccomp
from stilts_ds.execute.wire import WireError, load, read_frame, write_frame

MAX_BLOB = 64 << 20
WATCH_AFTER, WATCH_EVERY = 0.25, 0.05  # seconds: when memory is looked at first, and how often
READY = b"r"

# Modules that programs and tests use most: imported once here, inherited by every fork.
WARM = [
    "math",
    "re",
    "collections",
    "itertools",
    "functools",
    "heapq",
    "string",
    "random",
    "typing",
    "datetime",
    "copy",
    "bisect",
    "operator",
    "hashlib",
    "statistics",
    "fractions",
    "decimal",
    "dataclasses",
    "enum",
    "queue",
]

Header = dict[str, Any]


class ConfinedProcess:
    """A confined process. `ended` is readable when it has ended; `cpu` are the seconds that it may use."""

    def __init__(self, pid: int, cpu: float):
        self.pid = pid
        self.ended = os.pidfd_open(pid)
        self.cpu = cpu
        self.report: dict[str, Any] | None = None


def start_side(
    header: Header, body: Callable[[int], None], ends: list[int], own_namespace: int | None
) -> ConfinedProcess:
    """Fork a side, as the first process of new namespaces; where `own_namespace` is None, in those of this process.

    `body` gets the descriptor on which it says that it has read what it was given. `ends` are the descriptors that
    only the side may keep. Raises EOFError where the side could not be confined.
    """
    ready_read, ready_write = os.pipe()
    try:
        # Python's tests side may share the worker's namespaces: it runs no line of the program.
        pid = os.fork() if own_namespace is None else confine.fork_as_first(own_namespace)
    except OSError as problem:
        raise EOFError(str(problem)) from None
    if pid == 0:
        run_body(header, body, ready_write, own_namespace is not None)
    os.close(ready_write)
    # Held open here, they would keep a side that waits for the end of its pipe waiting for ever.
    for end in ends:
        os.close(end)
    answer = os.read(ready_read, 300)
    os.close(ready_read)
    if answer[:1] != READY:
        raise EOFError(answer[1:].decode("utf-8", "replace") or "the side ended while it was set up")
    return ConfinedProcess(pid, header.get("program_cpu") or header["cpu"])


def run_body(header: Header, body: Callable[[int], None], ready: int, first: bool) -> None:
    """In the child: set up, then the body, which never returns once a program may have run."""
    try:
        if first:
            confine.mount_for_one_side(header["limits"]["scratch_mb"], header["mode"] == "warm")
            confine.mount_own_proc()
        body(ready)
    except BaseException as problem:
        os.write(ready, b"x" + str(problem)[:200].encode())
    finally:
        os._exit(1)


def ending(status: int, used: resource.struct_rusage) -> dict[str, Any]:
    return {"status": status, "seconds": used.ru_utime + used.ru_stime}


def confine_side(header: Header, filter_program: bytes, kept: dict[int, int], ready: int) -> None:
    """Keep these descriptors (old -> new), confine this process for ever, and say on `ready` that it is."""
    confine.keep_descriptors({**kept, ready: 90})
    try:
        confine.confine(header["limits"], header["cpu"], filter_program)
    except BaseException as problem:
        os.write(90, b"x" + str(problem)[:200].encode())
        os._exit(1)
    os.write(90, READY)
    os.close(90)


# --- a sample --------------------------------------------------------------------------------------------------------


def run_sample(header: Header, filter_program: bytes, own_namespace: int) -> dict[str, Any]:
    """Start the sides, wait for the verdict or the deadline, kill both namespaces, return what happened."""
    started = time.monotonic()
    verdict_read, verdict_write = os.pipe()
    sides = _start(header, filter_program, own_namespace, verdict_write)
    try:
        outcome = _wait(header, sides, verdict_read, started + header["wall"])
    finally:
        os.close(verdict_read)
        for side in sides:
            _stop(side)
            os.close(side.ended)
        kill_everything()
    program = sides[0]
    if program.report is not None:
        outcome["seconds"] = round(program.report["seconds"], 4)
        outcome["status"] = program.report["status"]
    outcome["wall"] = round(time.monotonic() - started, 4)
    return outcome


def _start(header: Header, filter_program: bytes, own_namespace: int, verdict: int) -> list[ConfinedProcess]:
    mode, entry, nonce = header["mode"], header.get("entry", ""), header.get("nonce", "")

    def confined(kept: dict[int, int], ready: int) -> None:
        confine_side(header, filter_program, kept, ready)

    if mode in ("calls", "command-calls"):
        calls_read, calls_write = os.pipe()
        replies_read, replies_write = os.pipe()

        def program(ready: int) -> None:
            source = read_frame(0, MAX_BLOB)
            confined({calls_read: 3, replies_write: 4}, ready)
            if mode == "calls":
                last_act(lambda: python_sides.answer_calls(source.decode(), entry, 3, 4))
            last_act(lambda: command_sides.run_program_side(json.loads(source)))

        def tests(ready: int) -> None:
            given = json.loads(read_frame(0, MAX_BLOB))
            confined({calls_write: 3, replies_read: 4, verdict: 5}, ready)
            if mode == "command-calls":
                last_act(lambda: command_sides.run_tests_side(given, 5))
            candidate = python_sides.ProgramSide(3, 4)
            last_act(lambda: say(python_sides.run_tests(given["helpers"], given["tests"], entry, candidate)))

        # The program's side first: the pipe holds its source before the tests.
        first = start_side(header, program, [calls_read, replies_write], own_namespace)
        # Python tests write no files, and the program sees neither their process nor its namespace.
        namespace_of_tests = None if mode == "calls" else own_namespace
        return [first, start_side(header, tests, [calls_write, replies_read, verdict], namespace_of_tests)]

    def alone(ready: int) -> None:
        given = json.loads(read_frame(0, MAX_BLOB))
        confined({verdict: 5}, ready)
        if mode == "together":
            last_act(lambda: say(python_sides.run_together(given["program"], given["tests"], nonce)))
        if mode == "probe":
            last_act(lambda: say({"verdict": "probed", "reason": "", "layers": probe.examine(given["shown"])}))
        if mode == "warm":
            last_act(lambda: say(command_sides.warm_up(given)))
        last_act(lambda: say(command_sides.run_alone(given, nonce, header.get("by_status", False))))

    return [start_side(header, alone, [verdict], own_namespace)]


def become_server(header: Header, filter_program: bytes, own_namespace: int) -> None:
    """Give the worker's own pipes to a server, confined as a program is, and end with it."""

    def server(ready: int) -> None:
        given = json.loads(read_frame(0, MAX_BLOB))
        confine_side(header, filter_program, {0: 0, 1: 1}, ready)
        last_act(lambda: command_sides.become_server(given))

    side = start_side(header, server, [0, 1], own_namespace)
    os.waitpid(side.pid, 0)


def say(outcome: dict[str, Any]) -> None:
    """Write the verdict, from a side that may."""
    write_frame(5, json.dumps(outcome).encode())


def last_act(act: Callable[[], None]) -> None:
    """Do this and end, whatever happens: nothing of the worker's own code may run after a program has."""
    try:
        act()
    finally:
        os._exit(0)


def _wait(header: Header, sides: list[ConfinedProcess], verdict: int, deadline: float) -> dict[str, Any]:
    """Read the verdict; end with a timeout at the deadline, and with an error where a side is gone without one."""
    poll = select.poll()
    poll.register(verdict, select.POLLIN)
    for side in sides:
        poll.register(side.ended, select.POLLIN)
    patience = WATCH_AFTER
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return {"verdict": "timeout", "reason": f"no verdict after {header['wall']:.0f} s"}
        ready = dict(poll.poll(1000 * min(left, patience)))
        if verdict in ready:
            return _read_verdict(verdict, sides)
        for side in sides:
            if side.ended in ready:
                side.report = _report(side)
                # Readable for ever from now on, so that every later poll would return at once.
                poll.unregister(side.ended)
        if sides[-1].report is not None:  # the side that would write the verdict; its pipe is read above, if it did
            return ended_without_verdict(sides)
        if not ready:
            patience = WATCH_EVERY
            seconds, memory = usage()
            if memory > header["limits"]["total_mb"] << 20:
                return {"verdict": "memory", "reason": "its processes together hold too much memory"}
            # The kernel's limit is for each process; many of them could use many times as much.
            if seconds > header["cpu"] * len(sides) + 1:
                return {"verdict": "timeout", "reason": "its processes together used their CPU seconds up"}


def _read_verdict(verdict: int, sides: list[ConfinedProcess]) -> dict[str, Any]:
    try:
        outcome = load(read_frame(verdict))
    except EOFError:
        for side in sides:
            if side.report is None:
                side.report = _report(side, patience=1.0)
        return ended_without_verdict(sides)
    except WireError:
        outcome = None
    if type(outcome) is not dict or type(outcome.get("verdict")) is not str:
        return {"verdict": "error", "reason": "no verdict could be read"}
    if outcome["verdict"] != "ended":
        return outcome
    # The tests say that the program is gone; its ending says why.
    if sides[0].report is None:
        sides[0].report = _report(sides[0], patience=2.0)
    return cut_off(sides[0]) or {**outcome, "verdict": "error"}


def ended_without_verdict(sides: list[ConfinedProcess]) -> dict[str, Any]:
    for side in sides:
        limited = cut_off(side)
        if limited:
            return limited
    status = (sides[-1].report or {}).get("status", 0)
    how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit status {os.WEXITSTATUS(status)}"
    return {"verdict": "error", "reason": f"ended before the tests did ({how})"}


def cut_off(side: ConfinedProcess) -> dict[str, Any] | None:
    """The verdict of a side that the kernel killed. Nobody inside can: it is the first process of its namespace."""
    if side.report is None:
        return None
    status = side.report["status"]
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGKILL, signal.SIGXCPU):
        return None
    # For the limit the kernel counts whole ticks, also where a process had a core for a part of one. On a busy machine
    # that is a quarter more, and may be more yet, than what it reports.
    if side.report["seconds"] > 0.5 * side.cpu:
        return {"verdict": "timeout", "reason": "used its CPU seconds up"}
    return {"verdict": "memory", "reason": "killed by the kernel, which had no memory left"}


def _report(side: ConfinedProcess, patience: float = 0.5) -> dict[str, Any] | None:
    """How the side ended, or None where it has not after so many seconds."""
    if not select.select([side.ended], [], [], patience)[0]:
        return None
    _, status, used = os.wait4(side.pid, 0)
    return ending(status, used)


def _stop(side: ConfinedProcess) -> None:
    """Kill the side. It is the first process of its namespace: the kernel takes all others with it."""
    if side.report is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(side.pid, signal.SIGKILL)
        side.report = _report(side, patience=2.0)


def kill_everything() -> None:
    """Kill whatever else this worker still has, and wait until nothing is left. Ends the worker if something is."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    left = {name for name in os.listdir("/proc") if name.isdigit()} - {"1", str(os.getpid())}
    if left:
        os._exit(3)  # the parent kills the worker's namespace and starts a new one


def usage() -> tuple[float, int]:
    """CPU seconds that the sample's living processes and their ended children used, and bytes that they hold."""
    ticks, pages = 0, 0
    for name in os.listdir("/proc"):
        if not name.isdigit() or name in ("1", str(os.getpid())):
            continue  # bubblewrap's and this one: all others belong to the sample
        try:
            with open(f"/proc/{name}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        # Ended children count with their parent: a program that forks and waits hides nothing.
        ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
        pages += int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * resource.getpagesize()


def main() -> None:
    """Serve samples from descriptor 0 to descriptor 1 until the parent closes the pipe."""
    try:
        own_namespace = confine.enter_own_namespace()
    except OSError as problem:
        sys.exit(f"no process namespace: {problem}")
    confine.prefer_for_oom()
    confine.hide_from_descendants()
    for name in WARM:
        importlib.import_module(name)
    filter_program = seccomp.filter_program()
    # What is there now stays: a collection would touch, and so copy, every page that a fork shares.
    gc.collect()
    gc.freeze()
    while True:
        try:
            header = json.loads(read_frame(0))
        except EOFError:
            return
        try:
            if header["mode"] == "server":
                return become_server(header, filter_program, own_namespace)
            result = run_sample(header, filter_program, own_namespace)
        except EOFError as problem:
            result = {"verdict": "refused", "reason": str(problem)}
            kill_everything()
        write_frame(1, json.dumps(result).encode())
        if result["verdict"] == "refused":
            return  # what the parent still has in the pipe belongs to no header
