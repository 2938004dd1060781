"""A worker as the parent sees it: bubblewrap around a zygote, two pipes, and a deadline that needs no goodwill."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stilts_ds.execute import policy
from stilts_ds.execute.policy import Cache, Refused, SandboxLimits
from stilts_ds.execute.probe import LAYERS

PACKAGE = Path(__file__).parent
INSIDE = ("wire", "seccomp", "confine", "python_sides", "command_sides", "probe", "zygote")  # in order of import
GRACE = 15.0  # seconds above a sample's own deadline, after which the whole worker is killed

# The modules travel through the pipe: the unprivileged user may not be able to read the folder they are installed in.
BOOTSTRAP = """
import json, os, sys, types
def read(size):
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk: sys.exit(1)
        data += chunk
    return data
modules = json.loads(read(int.from_bytes(read(4), "little")))
for name in ("stilts_ds", "stilts_ds.execute"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
for name, source in modules:
    module = sys.modules["stilts_ds.execute." + name] = types.ModuleType("stilts_ds.execute." + name)
    setattr(sys.modules["stilts_ds.execute"], name, module)
    exec(compile(source, "<" + name + ">", "exec"), module.__dict__)
sys.modules["stilts_ds.execute.zygote"].main()
"""


class WorkerLost(Exception):
    """The worker ended or did not answer in time; its namespace is killed."""


def _request(header: dict[str, Any], limits: SandboxLimits, *blobs: bytes | Mapping[str, Any]) -> bytes:
    # The header by itself: the zygote reads that, and leaves the rest in the pipe to the sides.
    contents = [json.dumps({**header, "limits": asdict(limits)}).encode()]
    for blob in blobs:
        contents.append(blob if isinstance(blob, bytes) else json.dumps(blob).encode())
    return b"".join(map(frame, contents))


def frame(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


class Worker:
    """One sandbox that executes one sample at a time.

    Raises Refused where a layer is missing: the first thing a new worker does is to try what a program could do.
    """

    def __init__(self, readable: tuple[str, ...] = (), cache: Cache | None = None):
        policy.check_architecture()
        bwrap = policy.for_every_user(policy.find_bwrap())
        python, base = policy.find_python()
        shown = (*readable, base) if base else readable
        self.claim = policy.claim_uid()
        self.uid = self.claim[0] if self.claim else None
        if cache is not None and cache.writable and self.uid is not None:
            # Only the worker that fills the cache may write there.
            os.chown(cache.folder, self.uid, self.uid)
        command = policy.sandbox_command(bwrap, python, shown, BOOTSTRAP, cache)
        identity: dict[str, Any] = {}
        if self.uid is not None:
            identity = {"user": self.uid, "group": self.uid, "extra_groups": []}
        # Nothing of this process goes along: no environment (a token), no working folder, no descriptor.
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"},
                cwd="/",
                start_new_session=True,
                bufsize=0,
                **identity,
            )
        except PermissionError as problem:
            raise Refused("user", f"root may not become another user here ({problem.strerror})") from None
        try:
            self._send(frame(_modules()))
            self.layers = self._examine(shown)
        except WorkerLost:
            # bubblewrap's own words say which layer it could not set up.
            said = self.close()
            raise policy.explain_start(said) from None
        except BaseException:
            self.close()
            raise

    def _examine(self, shown: Sequence[str]) -> dict[str, str]:
        result = self.ask({"mode": "probe", "cpu": 5, "wall": 20.0}, SandboxLimits(), {"shown": list(shown)})
        if result["verdict"] != "probed":
            raise policy.explain_start(f"{result['reason']}")
        layers = {name: str(result["layers"].get(name, "was not examined")) for name in LAYERS}
        for name, problem in layers.items():
            if problem:
                raise Refused(name, problem)
        return layers

    def ask(self, header: dict[str, Any], limits: SandboxLimits, *blobs: bytes | Mapping[str, Any]) -> dict[str, Any]:
        """Execute one sample. Raises WorkerLost where no answer comes within its deadline and GRACE seconds."""
        deadline = time.monotonic() + header["wall"] + GRACE
        self._send(_request(header, limits, *blobs), deadline)
        (size,) = struct.unpack("<I", self._read(4, deadline))
        # A verdict is a few hundred bytes; a length from a broken worker must not be believed.
        if size > 1 << 20:
            raise WorkerLost("answer too long")
        answer: dict[str, Any] = json.loads(self._read(size, deadline))
        return answer

    def serve(self, header: dict[str, Any], limits: SandboxLimits, given: Mapping[str, Any]) -> None:
        """Turn the sandbox into a server that reads and writes the worker's pipes itself; `exchange` speaks with it."""
        self._send(_request(header, limits, given))

    def exchange(self, request: bytes, seconds: float, most: int) -> bytes:
        """Send bytes to a server and return the content of the frame that it answers with, at most `most` bytes.

        Raises WorkerLost where it has ended, says too much, or takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        self._send(request, deadline)
        size = int.from_bytes(self._read(4, deadline), "big")
        if size > most:
            raise WorkerLost("gave an answer that is too long")
        return self._read(size, deadline)

    def _send(self, data: bytes, deadline: float | None = None) -> None:
        assert self.process.stdin is not None
        descriptor = self.process.stdin.fileno()
        # A worker that stopped reading would otherwise hold this process for ever.
        os.set_blocking(descriptor, False)
        limit = deadline or time.monotonic() + 30
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [descriptor], [], max(0.0, limit - time.monotonic()))
            if not ready:
                raise WorkerLost("does not read")
            try:
                view = view[os.write(descriptor, view) :]
            except BrokenPipeError:
                raise WorkerLost("ended") from None

    def _read(self, size: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        data = bytearray()
        while len(data) < size:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise WorkerLost("does not answer")
            chunk = os.read(descriptor, size - len(data))
            if not chunk:
                raise WorkerLost("ended")
            data += chunk
        return bytes(data)

    def close(self) -> str:
        """Kill the sandbox, with all that is in it, and return what bubblewrap said."""
        with suppress(ProcessLookupError):
            # SIGKILL at once: nothing inside has anything to save.
            os.killpg(self.process.pid, signal.SIGKILL)
        # bubblewrap dies with its parent's signal, and its namespace with it (--die-with-parent).
        _, problem = self.process.communicate()
        self._wait_until_gone()
        if self.claim:
            self.claim[1].close()
        return problem.decode("utf-8", "replace").strip()

    def _wait_until_gone(self) -> None:
        """As root the worker's user id is its alone: wait until the machine has no process of it."""
        if self.uid is None:
            return
        deadline = time.monotonic() + 5
        while processes_of(self.uid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of user {self.uid} are still there: {processes_of(self.uid)}")
            time.sleep(0.005)


def processes_of(uid: int) -> list[int]:
    """Process ids of the machine that belong to the user, zombies left out."""
    processes = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid:
                # The name in brackets may hold spaces and brackets, so fields are counted from its end.
                state = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    processes.append(int(name))
    return processes


def _modules() -> bytes:
    sources = [(name, (PACKAGE / f"{name}.py").read_text(encoding="utf-8")) for name in INSIDE]
    return json.dumps(sources).encode()
