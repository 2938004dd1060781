"""Sharded search on 1 to 3 real ranks, over MPI and gloo, is bit-equal to one process; errors reach every rank."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import ranks
import torch
from mpi import ON_ANY_MACHINE, mpiexec
from stilts_kernels import mine, topk

pytestmark = pytest.mark.processes

PROGRAM = ranks.PROGRAMS / "kernel_ranks.py"
SPEC = importlib.util.spec_from_file_location("kernel_ranks", PROGRAM)
assert SPEC is not None and SPEC.loader is not None
PIECES = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(PIECES)


def write_files(folder: Path) -> None:
    for i, rows in enumerate(PIECES.data()[1].split(150)):
        np.save(folder / f"bank-{i}.npy", rows.numpy())


def run(kind: str, case: str, count: int, folder: Path) -> list[dict[str, Any]]:
    out = folder / f"{kind}-{case}-{count}.pt"
    if kind == "gloo":
        ranks.run(PROGRAM, kind, case, out, ranks=count, start=forked.start)
    else:
        python = [sys.executable, "-m", "mpi4py", str(PROGRAM)]
        command = [mpiexec(), *ON_ANY_MACHINE, "-n", str(count), *python, kind, case, str(out)]
        done = subprocess.run(
            command, env=ranks.environment(), text=True, timeout=400, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert done.returncode == 0, done.stdout[-4000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    "kind, count", [("mpi", 1), ("mpi", 2), ("mpi", 3), ("mpi", 4), ("gloo", 2), ("gloo", 3), ("gloo", 4)]
)
def test_ranks_are_bit_equal_to_one_process(kind: str, count: int, tmp_path: Path) -> None:
    write_files(tmp_path)
    results = run(kind, "search", count, tmp_path)
    queries, bank = PIECES.data()
    whole = topk(queries, bank, 5, "cosine")
    assert torch.equal(torch.cat([part["values"] for part in results]), whole.values)
    assert torch.equal(torch.cat([part["indices"] for part in results]), whole.indices)
    assert torch.equal(torch.cat([part["half"] for part in results]), topk(queries.half(), bank.half(), 5).values)
    for part in results:
        assert part["items"] == [PIECES.item(rank) for rank in range(count)]
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(part["files"], topk(queries, bank, 5)))
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(part["pairs"], mine(queries, bank, 4)))


@pytest.mark.parametrize("kind", ["mpi", "gloo"])
def test_error_on_one_rank_raises_on_all(kind: str, tmp_path: Path) -> None:
    write_files(tmp_path)
    for raised in run(kind, "broken", 2, tmp_path):
        assert raised["missing"] == "rank 1: the shard of bank is missing"
        assert raised["nan"].startswith("rank 1: bank: row 1 holds NaN")
        assert raised["k"] == "ranks differ in k: [5, 6]"
        assert raised["file"].startswith("rank 1: bank shard") and raised["file"].endswith("gone.npy is missing")
        assert raised["queries"].startswith("ranks 0 and 1 search for different queries")


@pytest.mark.long
@pytest.mark.parametrize(
    "call, dim, mebibytes, merged",
    [
        ("topk_ranks(queries, bank, 4, None, memory=memory)", 64, 64, 0),
        ("mine_ranks(queries[:9000], queries[9000:], 16, None, memory=memory)", 64, 64, 5 * 16 * 16 * 70_000 / 2**20),
        ("topk_float64(Rows(queries, 'queries'), Rows(bank, 'bank'), 4, memory=memory)", 1024, 256, 0),
        ("topk_float64(Rows(queries, 'queries'), Rows(bank, 'bank'), 4, 'float32', memory)", 1024, 256, 0),
    ],
    ids=["topk_ranks", "mine_ranks", "topk", "topk float32"],
)
def test_scratch_memory_stays_within_the_budget(call: str, dim: int, mebibytes: int, merged: float) -> None:
    """A fresh process: resident memory grows by the budget and the results, whatever the number of queries.

    `merged`: mining holds up to five copies of its k values and indices a row while it merges them.
    """
    program = f"""
import torch
from stilts_bench.memory import peak_extra_bytes
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.ranks import mine_ranks, topk_ranks
from stilts_kernels.topk.cpu import topk_float64
torch.set_num_threads(1)
bank, queries, memory = torch.randn(6000, {dim}), torch.randn(70000, {dim}), {mebibytes} << 20
topk_ranks(queries[:64], bank[:512], 4, None)  # libraries loaded, kernels built
found = []
extra = peak_extra_bytes(lambda: found.append({call}))
print(extra / 2**20, sum(part.nbytes for part in found[0]) / 2**20)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=ranks.environment(), text=True, capture_output=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    extra, results = map(float, done.stdout.split())
    assert extra <= mebibytes + merged + results + 4, f"{extra} MB beyond what was there, results {results} MB"
