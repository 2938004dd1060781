"""The system-call filter of a program: a BPF program made here, and the calls that it refuses.

Runs inside the sandbox, so it stands on the standard library alone. `forbidden_calls` is what the probe of every new
worker really calls: a table that does not fit the machine's kernel is found there and refused, not believed.
Source of the numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.
"""

from __future__ import annotations

import ctypes
import platform
import struct

# Refused on both architectures: (x86_64, aarch64). A number of None means that the architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "personality": (135, 92),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "inotify_init1": (294, 26),
    "inotify_init": (253, None),
    "fanotify_init": (300, 262),
    "ioperm": (173, None),
    "iopl": (172, None),
    "memfd_secret": (447, 447),
}
_SPECIAL = {"clone": (56, 220), "clone3": (435, 435), "socketpair": (53, 199), "ioctl": (16, 29)}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # machine -> column, AUDIT_ARCH

_NEW_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag but time's, which clone does not take
_AF_UNIX = 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # put characters into a terminal's input

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def architecture() -> str | None:
    """This machine's name where the filter knows its system calls, else None."""
    machine = platform.machine()
    return machine if machine in _ARCHITECTURES else None


def forbidden_calls() -> dict[str, int]:
    """Name and number of every call that the filter refuses whatever its arguments are."""
    column, _ = _ARCHITECTURES[platform.machine()]
    numbers = {name: row[column] for name, row in _REFUSED.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def special_calls() -> dict[str, int]:
    """Name and number of the calls that are refused with some arguments only."""
    column, _ = _ARCHITECTURES[platform.machine()]
    return {name: row[column] for name, row in _SPECIAL.items()}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _argument(index: int) -> int:
    """Offset of the low 32 bits of an argument; both architectures are little-endian."""
    return _ARGUMENTS + 8 * index


def _refuse_if(number: int, test: list[bytes]) -> list[bytes]:
    """For one call: run `test`, whose last instruction falls through to the refusal, or jumps over it."""
    body = [*test, _instruction(_RETURN, _ERRNO | _EPERM), _instruction(_RETURN, _ALLOW)]
    return [_instruction(_JUMP_EQUAL, number, 0, len(body)), *body]


def filter_program() -> bytes:
    """The BPF program: what is refused fails with EPERM, a foreign architecture kills the process."""
    _, audit = _ARCHITECTURES[platform.machine()]
    special = special_calls()
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, audit, 1, 0),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        # The x32 interface has numbers of its own for the same calls.
        _instruction(_JUMP_AT_LEAST, 0x40000000, 0, 1),
        _instruction(_RETURN, _KILL),
    ]
    for number in forbidden_calls().values():
        program += [_instruction(_JUMP_EQUAL, number, 0, 1), _instruction(_RETURN, _ERRNO | _EPERM)]
    # A filter cannot read clone3's flags, which lie in memory; without it the C library falls back to clone.
    program += [_instruction(_JUMP_EQUAL, special["clone3"], 0, 1), _instruction(_RETURN, _ERRNO | _ENOSYS)]
    flags = [_instruction(_LOAD, _argument(0)), _instruction(_JUMP_SET, _NEW_NAMESPACES, 0, 1)]
    program += _refuse_if(special["clone"], flags)
    domain = [_instruction(_LOAD, _argument(0)), _instruction(_JUMP_EQUAL, _AF_UNIX, 1, 0)]
    program += _refuse_if(special["socketpair"], domain)
    request = [
        _instruction(_LOAD, _argument(1)),
        _instruction(_JUMP_EQUAL, _TIOCSTI, 1, 0),
        _instruction(_JUMP_EQUAL, _TIOCLINUX, 0, 1),
    ]
    program += _refuse_if(special["ioctl"], request)
    program.append(_instruction(_RETURN, _ALLOW))
    return b"".join(program)


class _Filter(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


_libc = ctypes.CDLL(None, use_errno=True)  # opened before any fork


def install(program: bytes) -> None:
    """Put this process and all its descendants under the filter, for ever. Raises OSError."""
    given = _Filter(len(program) // 8, program)
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(given), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp filter")
