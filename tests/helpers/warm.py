"""Start `stilts run` without the seconds of its imports: launcher and ranks are forked from this process.

They are processes as always, with the same parent, session, signals, environment and files. What differs: the modules
are loaded already, and the process leaves without tearing down the interpreter.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import ranks
import toy_worlds
from stilts_launcher.imports import heavy_imports

from stilts_ds.families import registry

MODULES = (
    "deepspeed",
    "deepspeed.comm.torch",
    "deepspeed.module_inject.auto_ep_layer",
    "tensorboard",
    "torch.utils.serialization",
    "torch.utils.tensorboard",
    "transformers",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
    "stilts_ds.phases",
    "stilts_ds.report.write",
    "stilts_kernels",
    "stilts_launcher.rank",
    "stilts_launcher.cli",
    "stilts_launcher.start",
)
HANDLERS = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGUSR1: signal.SIG_DFL,
    signal.SIGUSR2: signal.SIG_DFL,
}


def load() -> None:
    """Import what a run needs; once, before the first start."""
    os.environ.update(ranks.environment())  # some of it counts when torch and DeepSpeed are imported
    with heavy_imports():
        for name in MODULES:
            importlib.import_module(name)
        for family in registry.FAMILIES.values():
            if family.head is not None:
                importlib.import_module(family.head.module)
    measure_peak()
    toy_worlds.copied()


def measure_peak() -> None:
    """How fast this machine multiplies: measured once here, where each rank would measure it again."""
    import torch

    from stilts_ds.engine.stopwatch import matmul_rate

    for dtype in (torch.float32, torch.bfloat16):
        matmul_rate(torch.device("cpu"), dtype)


class Forked:
    """A forked process that runs `work` and ends with what it returns; what `subprocess.Popen` offers of it."""

    def __init__(self, work: Callable[[], int], environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, environment)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(code) if pid else None
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _live(work: Callable[[], int], environment: Mapping[str, str]) -> None:
    code = 1
    try:
        for number, handler in HANDLERS.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        code = work()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(folder: Path, arguments: Sequence[str], log: int, environment: Mapping[str, str]) -> Forked:
    """`stilts ARGUMENTS` in `folder`, in a session of its own, with its output in the file descriptor `log`."""

    def launch() -> int:
        os.setsid()
        os.chdir(folder)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        return run_here(arguments)

    made = Forked(launch, environment)
    while made.poll() is None and os.getsid(made.pid) != made.pid:
        time.sleep(0.001)
    return made


def run_here(arguments: Sequence[str]) -> int:
    """`stilts ARGUMENTS` in this forked process, whose output is in its file descriptors; returns the status."""
    from stilts_launcher import cli, local, worlds

    # By lines: what stood in a buffer would be printed once more by each forked rank.
    sys.stdout, sys.stderr = (open(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))  # noqa: SIM115
    forking = SimpleNamespace(Popen=_program, DEVNULL=subprocess.DEVNULL)
    local.subprocess = worlds.subprocess = forking  # type: ignore[assignment]
    return cli.main(list(arguments))


def _program(command: Sequence[str], env: Mapping[str, str], stdin: int) -> Forked:
    """The launcher's `Popen` of a rank or world (`python -m MODULE ARGUMENTS`), forked. They read nothing: `stdin` is
    the null device."""
    program = importlib.import_module(command[2])
    assert stdin == subprocess.DEVNULL

    def work() -> int:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for name in os.listdir("/proc/self/fd"):  # what a new program would not inherit, such as the run's lock
            with suppress(OSError):
                if fcntl.fcntl(int(name), fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
                    os.close(int(name))
        return int(program.main(list(command[3:])))

    return Forked(work, env)
