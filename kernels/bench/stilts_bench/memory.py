"""Memory figures: a method's extra peak, and the large search over a memory-mapped bank in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stilts_kernels import last_report
from stilts_kernels.common.npy import open_npy, raw_bytes
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.cpu import topk_float64

STATUS = Path("/proc/self/status")
QUERIES, ROWS, DIM, K = 10_000, 1_000_000, 1024, 16
SCRATCH = 32 << 20
# glibc keeps freed blocks of up to 32 MB in its heap, where they add up differently from run to run; blocks above this
# size go straight back to the system. A setting of the process, for any program with a tight budget.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}
WRITE_ROWS = 10_000
GATE_QUERIES = 8


def resident(field: str) -> int:
    """Bytes in VmRSS (now) or VmHWM (highest since the last reset), mapped files included."""
    match = re.search(rf"{field}:\s+(\d+) kB", STATUS.read_text())
    assert match is not None, f"{STATUS} has no {field}"
    return int(match[1]) * 1024


def peak_extra_bytes(method: Callable[[], Any]) -> int | None:
    """Highest resident memory during method() above what was resident before; None off Linux."""
    try:
        # Garbage of earlier work must not be freed in the middle of the measurement.
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    except OSError:
        return None
    before = resident("VmRSS")
    method()
    return max(0, resident("VmHWM") - before)


def write_bank(path: Path, rows: int, dim: int) -> None:
    """A float16 .npy file of Gaussian rows, written in blocks."""
    header = repr({"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    # In blocks: the whole bank would not fit beside what is measured.
    generator = torch.Generator().manual_seed(3)
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        for start in range(0, rows, WRITE_ROWS):
            block = torch.randn(min(WRITE_ROWS, rows - start), dim, generator=generator).mul_(dim**-0.5).half()
            file.write(raw_bytes(block))


def search_bank(path: str) -> dict[str, Any]:
    """Searches the bank and measures; the caller runs it in a fresh process, on one thread."""
    torch.set_num_threads(1)
    bank, release = open_npy(path)
    # Rows of length about 1, as sentence vectors have.
    queries = torch.randn(QUERIES, DIM, generator=torch.Generator().manual_seed(4)).mul_(DIM**-0.5)
    rows = Rows(bank, "bank", release=release)
    topk_float64(Rows(queries[:64], "queries"), Rows(bank[:4096], "bank"), K)  # libraries loaded, kernels built
    release()
    start = time.process_time()
    results: list[Any] = []
    extra = peak_extra_bytes(lambda: results.append(topk_float64(Rows(queries, "queries"), rows, K, memory=SCRATCH)))
    seconds = time.process_time() - start
    report = last_report()
    return {
        "queries": QUERIES,
        "rows": ROWS,
        "dim": DIM,
        "k": K,
        "bank": "float16 .npy, memory-mapped",
        "extra_peak_mb": None if extra is None else extra / 1e6,
        "cpu_s": seconds,
        "gflops": 2e-9 * QUERIES * ROWS * DIM / seconds,
        "report": str(report),
        "scratch_mb": SCRATCH / 1e6,
        "malloc": MALLOC,
        "recall_of_sample": sample_recall(queries, bank, results[0][1]),
    }


def sample_recall(queries: torch.Tensor, bank: torch.Tensor, indices: torch.Tensor) -> float:
    """Recall of a few evenly spaced queries against float64."""
    which = torch.arange(0, len(queries), len(queries) // GATE_QUERIES)
    scores = torch.cat(
        [
            queries[which].double() @ bank[start : start + WRITE_ROWS].double().T
            for start in range(0, len(bank), WRITE_ROWS)
        ],
        dim=1,
    )
    least = scores.topk(K, dim=1).values[:, -1:]
    return float((scores.gather(1, indices[which]) >= least - 1e-15).double().mean())


def measure_memory() -> dict[str, Any]:
    """10,000 queries against 1,000,000 float16 rows of a 2 GB file in the temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.npy"
        write_bank(path, ROWS, DIM)
        program = (
            "import json, sys; from stilts_bench.memory import search_bank; print(json.dumps(search_bank(sys.argv[1])))"
        )
        environment = {**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, env=environment
        )
    if done.returncode:
        raise ValueError(f"the search in a process of its own failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])
