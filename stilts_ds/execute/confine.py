"""How one side of a verdict is confined: namespaces, limits, capabilities, system calls. Runs inside the sandbox.

Order matters: namespaces and mounts need CAP_SYS_ADMIN (of the worker's user namespace, never of the machine), which is
given up before the filter is installed and long before a line of a program runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import struct
from typing import Any

from stilts_ds.execute import seccomp

CLONE_NEWNS, CLONE_NEWPID = 0x00020000, 0x20000000
MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 32, 4096, 16384, 1 << 18
MS_RDONLY = 1
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 1, 4, 24, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
CAP_SETPCAP, CAP_SYS_ADMIN = 8, 21
_CAPABILITY_VERSION = 0x20080522
SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
CACHE = b"/cache"  # what a warm-up leaves for later samples: a precompiled header, Go's packages

libc = ctypes.CDLL(None, use_errno=True)
# Made once, before any fork: a forked side would pay for each new object with a page of its own.
_NO_CAPABILITIES = (
    ctypes.create_string_buffer(struct.pack("<II", _CAPABILITY_VERSION, 0)),
    ctypes.create_string_buffer(bytes(24)),
)


def _check(result: int, operation: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{operation}: {os.strerror(number)}")


def mount(source: bytes, target: bytes, kind: bytes, flags: int, options: bytes = b"") -> None:
    _check(libc.mount(source, target, kind, flags, options), f"mount {target.decode()}")


def enter_own_namespace() -> int:
    """Fork into a process namespace of this worker's own, and return its descriptor, to which `fork_as_first` returns.

    bubblewrap's own belongs to the user namespace around the worker's, so that nobody here could return to it.
    """
    _check(libc.unshare(CLONE_NEWPID | CLONE_NEWNS), "unshare")
    pid = os.fork()
    if pid != 0:
        # The pipes are the child's. This process stays, because the sandbox ends with it.
        os.close(0)
        os.close(1)
        os.waitpid(pid, 0)
        os._exit(0)
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
    mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV)
    return os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)


def fork_as_first(own_namespace: int) -> int:
    """Fork a child that is the first process of a new process namespace; 0 in the child, as `os.fork` has it.

    This process then returns to its own namespace, so that it can do the same again. That saves the process
    in between, of which each side would need one otherwise: a fork of a warm Python is what takes the time.
    """
    _check(libc.unshare(CLONE_NEWPID), "unshare")
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            _check(libc.setns(own_namespace, CLONE_NEWPID), "setns")
    return pid


def mount_for_one_side(scratch_mb: int, cache_writable: bool) -> None:
    """As the first process: a mount namespace of its own, with an empty /tmp of this size.

    The IPC namespace is the worker's: a new one for each sample takes long, and the filter refuses what it holds.
    """
    _check(libc.unshare(CLONE_NEWNS), "unshare")
    mount(b"none", b"/", b"", MS_REC | MS_PRIVATE)
    mount(b"tmpfs", b"/tmp", b"tmpfs", MS_NOSUID | MS_NODEV, b"size=%dm,nr_inodes=8192,mode=755" % scratch_mb)
    if not cache_writable:
        mount(b"none", CACHE, b"", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def mount_own_proc() -> None:
    """As the first process of the new namespace: a /proc that shows this side's processes only."""
    mount(b"proc", b"/proc", b"proc", MS_NOSUID | MS_NODEV)


def set_limits(limits: dict[str, Any], cpu: int) -> None:
    """Hard limits of this process and its descendants: nobody may raise them again without capabilities."""
    megabyte = 1 << 20
    wanted = {
        # The first process of a namespace ignores SIGXCPU, so that the hard limit, which kills, is the same.
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_NPROC: limits["processes"],
        resource.RLIMIT_NOFILE: limits["files"],
        resource.RLIMIT_FSIZE: limits["file_mb"] * megabyte,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if limits["memory_kind"] == "address":
        wanted[resource.RLIMIT_AS] = limits["memory_mb"] * megabyte
    else:  # what reserves far more address space than it uses is held by its writable memory
        wanted[resource.RLIMIT_DATA] = limits["memory_mb"] * megabyte
    for name, value in wanted.items():
        _, hard = resource.getrlimit(name)
        # Who started the worker may have set a lower one, which cannot be raised.
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (bounded, bounded))


def drop_capabilities() -> None:
    """No capability now, and none to be gained by executing a file."""
    for number in (CAP_SETPCAP, CAP_SYS_ADMIN):  # all that bubblewrap has left to the worker
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    number = SYS_CAPSET[os.uname().machine]
    _check(libc.syscall(number, *_NO_CAPABILITIES), "capset")


def confine(limits: dict[str, Any], cpu: int, filter_program: bytes) -> None:
    """Everything that holds from here on: own session, limits, no capability, the filter."""
    os.setsid()
    libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0)
    set_limits(limits, cpu)
    drop_capabilities()
    seccomp.install(filter_program)


def keep_descriptors(kept: dict[int, int]) -> None:
    """Move each descriptor to its number (old -> new), point 0, 1, 2 to /dev/null where none is given, close the rest.

    A pipe of the worker that stays open in a program is a pipe that the program may write to.
    """
    # Duplicate above every target first, so that no move overwrites a descriptor that is still to be moved.
    high = {}
    for old, new in kept.items():
        high[new] = _above(old, 100)
    null = _above(os.open("/dev/null", os.O_RDWR), 100)
    for new in (0, 1, 2):
        high.setdefault(new, null)
    for new, old in high.items():
        os.dup2(old, new, inheritable=True)
    last = 0
    for new in sorted(high):
        if last < new:  # Python takes an empty range at 0 for all descriptors
            os.closerange(last, new)
        last = new + 1
    os.closerange(last, 4096)


def _above(descriptor: int, minimum: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD, minimum)


def hide_from_descendants() -> None:
    """Nobody of the same user may open this process's memory or descriptors."""
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def prefer_for_oom() -> None:
    """Where the machine runs out of memory, let the kernel take sandboxed programs first."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
