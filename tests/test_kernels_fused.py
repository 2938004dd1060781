"""The Triton kernel: exact under the interpreter, within the static gate ahead of time, right on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ranks
import torch
from kernel_cases import anisotropic, check_topk, gaussian

pytest.importorskip("triton")

INTERPRETED = """
import torch
from kernel_cases import anisotropic, check_tie_rule, check_topk, gaussian, poison_allocator
from stilts_kernels import last_report
from stilts_kernels.fused import fused_topk
from stilts_kernels.rows import Rows

def check(queries, bank, k, splits, unit=False):
    poison_allocator()
    values, indices = fused_topk(Rows(queries, "queries", unit), Rows(bank, "bank", unit), k, splits)
    check_topk(queries, bank, k, "cosine" if unit else "inner", values.float(), indices)
    return indices

for queries, rows, dim, k, splits in ((20, 300, 40, 4, 3), (1, 64, 8, 1, 8), (17, 517, 33, 16, 2), (5, 40, 8, 3, 1),
                                      (4, 257, 16, 64, 2), (3, 64, 7, 64, 1)):
    for dtype in (torch.float16, torch.float32):
        check(gaussian(queries, dim, 1).to(dtype), gaussian(rows, dim, 2).to(dtype), k, splits)
check(anisotropic(20, 64, 1), anisotropic(500, 64, 2), 4, 4)
assert last_report().certified >= 18, last_report()
check(gaussian(6, 9, 1), gaussian(200, 9, 2), 4, 2, unit=True)
ties = gaussian(64, 8, 3).half().repeat(4, 1)
check_tie_rule(ties, check(gaussian(9, 8, 1).half(), ties, 6, 2))
zeros = torch.zeros(130, 8).half()
assert check(torch.ones(2, 8).half(), zeros, 3, 2).tolist() == [[0, 1, 2]] * 2
print("interpreter agrees")
"""


def test_interpreter_is_exact() -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when imported. bfloat16 is broken there."""
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests'}"
    done = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, text=True, capture_output=True,
                          timeout=240)
    assert done.returncode == 0 and "interpreter agrees" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize("k", [4, 16, 64])
def test_static_gate(capability: int, k: int) -> None:
    from stilts_kernels.compile_check import compile_kernel

    compiled = compile_kernel(capability, k)
    assert not compiled.fails(), compiled
    assert compiled.tensor_instructions > 0 and compiled.spills == 0


def test_group_columns_inverts_the_reshape() -> None:
    """Every column of a tile belongs to exactly the group the kernel's reshape puts it in."""
    from stilts_kernels.fused import group_columns

    for columns in (64, 128, 256):
        groups = columns // 16
        shape = (groups // 4, columns // (2 * groups), 4, 2)
        inside = torch.arange(columns).view(shape).permute(0, 2, 1, 3).reshape(groups, 16)
        found = group_columns(torch.arange(groups) | 256, torch.full((groups,), 3), columns)
        assert torch.equal(found.sort(dim=1).values, inside.sort(dim=1).values + 3 * columns)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 4, 16, 64])
def test_gpu_is_exact(k: int, dtype: torch.dtype) -> None:
    from stilts_kernels import topk

    for make, metric in ((gaussian, "inner"), (anisotropic, "cosine")):
        queries, bank = make(300, 384, 1).to(dtype), make(20011, 384, 2).to(dtype)
        found = topk(queries.cuda(), bank.cuda(), k, metric)
        check_topk(queries, bank, k, metric, found.values.cpu(), found.indices.cpu())
