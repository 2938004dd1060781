"""What a confined process can do: tried, not assumed. Every new worker runs this where a program would run.

Each layer maps to "" where it holds, or to what was possible. Runs inside the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
from collections.abc import Sequence

from stilts_ds.execute import seccomp
from stilts_ds.execute.confine import CACHE, libc

ENVIRONMENT = {"PATH", "HOME", "LANG", "TZ", "PYTHONHASHSEED", "PERL_HASH_SEED", "GOMAXPROCS", "PWD"}
LAYERS = ("user", "capabilities", "system calls", "processes", "network", "files", "environment", "limits")


def examine(shown: Sequence[str] = ()) -> dict[str, str]:
    """Layer -> what is wrong with it. `shown` are folders that somebody has asked to show."""

    def files() -> str:
        return _files(shown)

    checks = (_user, _capabilities, _system_calls, _processes, _network, files, _environment, _limits)
    problems = {}
    for layer, check in zip(LAYERS, checks):
        try:
            problems[layer] = check()
        except Exception as problem:  # what cannot be tried does not count as holding
            problems[layer] = f"could not be examined: {problem}"
    return problems


def _status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def _user() -> str:
    return "runs as root" if os.getuid() == 0 or os.geteuid() == 0 else ""


def _capabilities() -> str:
    status = _status()
    # All five sets: a capability in any of them may become effective later.
    kept = [name for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(status[name], 16)]
    if kept:
        return f"has {' '.join(kept)}"
    return "" if status["NoNewPrivs"] == "1" else "may gain privileges by executing a file"


def _refused(number: int, *arguments: int) -> bool:
    ctypes.set_errno(0)
    result = libc.syscall(number, *(ctypes.c_long(value) for value in arguments))
    # Another error would mean that the kernel looked at the arguments: the filter let the call through.
    return result == -1 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS)


def _system_calls() -> str:
    if _status()["Seccomp"] != "2":
        return "no filter"
    allowed = [name for name, number in seccomp.forbidden_calls().items() if not _refused(number, 0, 0, 0, 0, 0)]
    special = seccomp.special_calls()
    # With a new user namespace: where it is allowed this forks, and the child must go at once.
    flags = 0x10000000 | signal.SIGCHLD
    result = libc.syscall(special["clone"], ctypes.c_long(flags), None, None, None, None)
    if result == 0:
        os._exit(0)
    if result > 0:
        allowed.append("clone with a new user namespace")
    if not _refused(special["clone3"], 0, 0):
        allowed.append("clone3")
    if not _refused(special["socketpair"], 2, 1, 0, 0):
        # Family 2 is AF_INET: packets need no other process than the program itself.
        allowed.append("socketpair beyond AF_UNIX")
    if not _refused(special["ioctl"], 0, 0x5412, 0):
        # 0x5412: it types into the terminal that started the command.
        allowed.append("TIOCSTI")
    return f"allowed: {', '.join(allowed)}" if allowed else ""


def _processes() -> str:
    seen = [name for name in os.listdir("/proc") if name.isdigit()]
    # A program is the first of its namespace: no process of others, no parent, can be seen or signalled.
    if os.getpid() != 1 or os.getppid() != 0 or seen != ["1"]:
        return f"sees processes {' '.join(seen)}"
    return ""


def _network() -> str:
    with open("/proc/net/dev") as file:
        devices = {line.split(":")[0].strip() for line in file if ":" in line}
    # lo alone: a network namespace of its own, with nothing behind it.
    return "" if devices <= {"lo"} else f"devices {' '.join(sorted(devices))}"


ROOT = {"bin", "sbin", "lib", "lib64", "lib32", "libx32", "usr", "etc", "proc", "dev", "tmp", "cache"}


def _beside_shown(shown: Sequence[str]) -> set[str]:
    """What is there beside the usual folders and the way down to those that are shown."""
    names: dict[str, set[str]] = {"/": set(ROOT)}
    for folder in shown:
        parts = folder.strip("/").split("/")
        if parts[0] in ROOT:
            names["/"].add(parts[0])
            continue
        # On the way down to a shown folder, only the next folder of the way may be seen.
        for depth, name in enumerate(parts):
            names.setdefault("/" + "/".join(parts[:depth]), set()).add(name)
    strange = set()
    for folder, expected in names.items():
        if folder not in shown:
            strange |= {os.path.join(folder, name) for name in set(os.listdir(folder)) - expected}
    return strange


def _files(shown: Sequence[str]) -> str:
    strange = _beside_shown(shown)
    if strange:
        return f"sees {' '.join(sorted(strange))}"
    for folder in ("/", "/usr", "/etc", "/dev", "/dev/shm", CACHE.decode()):
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(folder, "probe"), os.O_CREAT | os.O_WRONLY))
            return f"may write to {folder}"
    # /etc is shown for the linker's sake; what names users and the machine is not.
    private = [name for name in ("/etc/passwd", "/etc/shadow", "/etc/hostname") if os.path.exists(name)]
    return f"sees {' '.join(private)}" if private else ""


def _environment() -> str:
    strange = set(os.environ) - ENVIRONMENT
    return f"holds {' '.join(sorted(strange))}" if strange else ""


def _limits() -> str:
    names = ("RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE")
    unlimited = [name for name in names if resource.getrlimit(getattr(resource, name))[1] == resource.RLIM_INFINITY]
    memory = (resource.getrlimit(resource.RLIMIT_AS)[1], resource.getrlimit(resource.RLIMIT_DATA)[1])
    if resource.RLIM_INFINITY == memory[0] == memory[1]:
        # One of the two is enough: languages that reserve address space without using it are limited by their data.
        unlimited.append("memory")
    if unlimited:
        return f"none on {' '.join(unlimited)}"
    return _may_fork()


def _may_fork() -> str:
    """Linux before 5.14 counts all of a user's processes, not those of the namespace: node could start no thread."""
    try:
        pid = os.fork()
    except OSError as problem:
        return f"a program may start no process at all ({problem.strerror}): the user has too many"
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return ""
