"""`stilts doctor`: what this machine has and whether a run can work on it. Exit status 1 when something cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stilts_ds.config import Recipe
from stilts_ds.run_dir import git_commit
from stilts_ds.versions import untested_versions, versions
from stilts_launcher.execute import languages_state, sandbox_state
from stilts_launcher.rank_place import OWN_CODE_ONLY, free_port

# Importing torch and DeepSpeed from a cold network drive takes most of it.
PROBE_SECONDS = 120
PROBE = [sys.executable, "-m", "stilts_ds.engine.probe"]  # a program of its own: a process can be only one rank


@dataclass(frozen=True)
class Check:
    """One line of what was looked at. `state`: ok, FAIL, or none for what training does without."""

    name: str
    state: str
    text: str


def examine(recipe: Recipe | None = None, trial: bool = False, as_json: bool = False) -> int:
    """Run all checks and print a line for each, or all as JSON; with a recipe, also which stage and batch fit here."""
    checks: list[tuple[str, str, Callable[[], str]]] = [
        ("versions", "FAIL", _versions),
        ("devices", "FAIL", _devices),
        ("memory", "FAIL", _memory),
        ("disk", "FAIL", _disk),
        ("two ranks", "FAIL", _two_ranks),
        ("triton", "FAIL", _triton),
        ("search", "FAIL", _search),
        ("mpi", "FAIL", _mpi),
    ]
    if recipe is not None:
        # Last but for what needs no rank, since with --trial it trains.
        checks.append((recipe.name, "FAIL", lambda: _advice(recipe, trial)))
    # Training needs no sandbox: where it cannot be had, that is said and is no failure.
    checks += [("sandbox", "none", sandbox_state), ("languages", "none", languages_state)]
    results = []
    for name, failure, check in checks:
        results.append(_checked(name, failure, check))
        if not as_json:
            print(f"{results[-1].state:<5} {name}: {results[-1].text}", flush=True)
    failed = any(result.state == "FAIL" for result in results)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(result) for result in results]}, indent=1))
    return 1 if failed else 0


def _checked(name: str, failure: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except Exception as problem:  # a check that fails is a finding, whatever it raises
        # The last line: subprocess and torch put the cause behind their tracebacks.
        lines = str(problem).splitlines() or [type(problem).__name__]
        return Check(name, failure, lines[-1])


def _versions() -> str:
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    untested = untested_versions()
    return f"{installed}; commit {git_commit()[:12]}" + (f"; {untested}" if untested else "")


def _devices() -> str:
    names = probe()["devices"]
    return ", ".join(names) if names else f"no GPU; {os.cpu_count()} CPU cores, ranks use gloo"


def _memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * size / 2**30
    return f"{free:.1f} of {pages * size / 2**30:.1f} GiB free"


def _advice(recipe: Recipe, trial: bool) -> str:
    """On one rank for each GPU, less 1 GiB for its CUDA context; without GPUs on the recipe's ranks, which share the
    host's memory."""
    import torch

    from stilts_launcher.show.plan import show_advice

    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    of_world = recipe.launch.world_ranks
    ranks = of_world if of_world != "auto" else max(1, len(sizes))
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    space = min(sizes) / 2**30 - 1 if sizes else host / 2**30 / ranks
    return show_advice(recipe, ranks, round(space, 1), trial, cpu=not sizes)


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < 1:
        raise OSError(f"{free:.1f} GiB free here; a checkpoint of XLM-R Large takes 9 GB")
    return f"{free:.0f} GiB free in {Path.cwd()}"


def _two_ranks() -> str:
    return f"all-reduce over {probe()['ranks']} ranks is right"


@cache
def probe() -> dict[str, Any]:
    """What the program of stilts_ds.engine.probe tells: names of `devices`, number of `ranks` that added up right.

    Raises RuntimeError where they fail or hang.
    """
    environment = {**os.environ, **OWN_CODE_ONLY, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    # A session of its own, so that its ranks end with it: those that hang would keep their GPUs.
    program = subprocess.Popen(
        PROBE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        output, errors = program.communicate(timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"the ranks did not end within {PROBE_SECONDS} s; they hang in NCCL or gloo") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()
    if program.returncode:
        raise RuntimeError(errors.strip()[-300:] or f"the ranks ended with status {program.returncode}")
    measured: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return measured


def _triton() -> str:
    import triton

    return f"{triton.__version__}"


def _search() -> str:
    """Which arithmetic retrieval takes on this CPU; without the extension it is slower, and right all the same."""
    from stilts_kernels.topk.int8 import library

    return library.describe()


def _mpi() -> str:
    import mpi4py

    program = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    return (
        f"mpi4py {mpi4py.__version__}, mpiexec at {program}" if program else f"mpi4py {mpi4py.__version__}, no mpiexec"
    )
