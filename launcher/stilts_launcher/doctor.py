"""`stilts doctor`: what this machine has and whether a run can work on it. Exit status 1 when something cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from stilts_ds.config import Recipe
from stilts_ds.run_dir import git_commit, untested_versions, versions
from stilts_launcher.execute import languages_state, sandbox_state
from stilts_launcher.rank_place import OWN_CODE_ONLY, free_port

# Importing torch and DeepSpeed from a cold network drive takes most of it.
PROBE_SECONDS = 120
# A program of its own, since a process can be only one rank. On CPUs DeepSpeed would compile a shared-memory operator
# for a minute (engine/world.py). Ranks add up 1 .. n, whose sum n (n + 1) / 2 none of them could have by itself.
PROBE = """
import os, sys, torch, deepspeed
backend = "nccl" if torch.cuda.is_available() else "gloo"
sys.modules["deepspeed.comm.torch"].build_shm_op = lambda: None
deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
value = torch.full((1,), float(os.environ["RANK"]) + 1, device=device)
torch.distributed.all_reduce(value)
size = torch.distributed.get_world_size()
torch.distributed.destroy_process_group()
assert value.item() == size * (size + 1) / 2, value
"""


def examine(recipe: Recipe | None = None, trial: bool = False) -> int:
    """Run all checks and print a line for each; with a recipe, also which stage and batch fit here."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("versions", _versions),
        ("devices", _devices),
        ("memory", _memory),
        ("disk", _disk),
        ("two ranks", _two_ranks),
        ("triton", _triton),
        ("search", _search),
        ("mpi", _mpi),
    ]
    if recipe is not None:
        # Last, since with --trial it trains.
        checks.append((recipe.name, lambda: _advice(recipe, trial)))
    failed = 0
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}")
        except Exception as problem:  # a check that fails is a finding, whatever it raises
            failed += 1
            # The last line: subprocess and torch put the cause behind their tracebacks.
            lines = str(problem).splitlines() or [type(problem).__name__]
            print(f"FAIL  {name}: {lines[-1]}")
    _show_execution()
    return 1 if failed else 0


def _show_execution() -> None:
    """Training needs no sandbox: where it cannot be had, that is said and is no failure."""
    for name, state in (("sandbox", sandbox_state), ("languages", languages_state)):
        try:
            print(f"ok    {name}: {state()}")
        except Exception as problem:
            print(f"none  {name}: {problem}")


def _versions() -> str:
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    untested = untested_versions()
    return f"{installed}; commit {git_commit()[:12]}" + (f"; {untested}" if untested else "")


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"no GPU; {os.cpu_count()} CPU cores, ranks use gloo"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


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
    ranks = recipe.launch.nproc if recipe.launch.nproc != "auto" else max(1, len(sizes))
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    space = min(sizes) / 2**30 - 1 if sizes else host / 2**30 / ranks
    return show_advice(recipe, ranks, round(space, 1), trial, cpu=not sizes)


def _disk() -> str:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    if free < 1:
        raise OSError(f"{free:.1f} GiB free here; a checkpoint of XLM-R Large takes 9 GB")
    return f"{free:.0f} GiB free in {Path.cwd()}"


def _two_ranks() -> str:
    # One number for all: ranks that chose for themselves would never meet.
    port = str(free_port())
    with tempfile.TemporaryDirectory() as folder:  # of its own: a program imports from the folder where it lies
        program = Path(folder) / "probe.py"
        program.write_text(PROBE, encoding="utf-8")
        ranks = [
            subprocess.Popen(
                [sys.executable, str(program)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={
                    **os.environ,
                    **OWN_CODE_ONLY,
                    "RANK": str(r),
                    "LOCAL_RANK": str(r),
                    "WORLD_SIZE": str(_size()),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                },
            )
            for r in range(_size())
        ]
        try:
            outputs = [rank.communicate(timeout=PROBE_SECONDS)[0] for rank in ranks]
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the ranks did not end within {PROBE_SECONDS} s; they hang in NCCL or gloo") from None
        finally:  # also those that hang: they would keep their GPUs
            for rank in ranks:
                rank.kill()
                rank.wait()
    # A negative status, of a rank that a signal ended, is a failure too.
    failed = [(number, output) for number, (rank, output) in enumerate(zip(ranks, outputs)) if rank.returncode]
    if failed:
        number, output = failed[0]
        raise RuntimeError(f"all-reduce failed on rank {number}: {output.strip()[-300:]}")
    return f"all-reduce over {_size()} ranks is right"


def _size() -> int:
    import torch

    # Two on CPUs, the fewest that talk to each other; on GPUs one each, as a run starts them.
    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 2


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
