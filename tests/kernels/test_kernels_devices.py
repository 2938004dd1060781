"""Everything a search makes lies where its inputs lie, in the format that the proof counts on. Shown without a GPU:
with the inputs on the CPU and torch's default device elsewhere, a tensor made without a device cannot be used together
with the others; with another default dtype, one made without a dtype loses digits or does not fit."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from kernel_cases import anisotropic, gaussian
from stilts_kernels import Index, mean_pool_packed, mine, topk
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.files import topk_files
from stilts_kernels.mining.ranks import mine_ranks, topk_ranks
from stilts_kernels.mining.two_way import two_way
from stilts_kernels.topk.cpu import topk_cpu

PACKAGE = ranks.ROOT / "kernels/stilts_kernels"
FACTORIES = {
    "arange",
    "empty",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "sparse_csr_tensor",
    "tensor",
    "zeros",
}
TAKES_DTYPE = {"sparse_csr_tensor": {"dtype"}}  # from its values
QUERIES, BANK = anisotropic(70, 32, 1), anisotropic(900, 32, 2)
FEW, EQUAL = gaussian(3, 5, 1), torch.ones(5000, 5)
TIES = gaussian(60, 12, 3).repeat(20, 1)
BOUNDS = torch.tensor([0, 3, 900])
SEARCHES = {
    "topk": lambda: topk(QUERIES, BANK, 4, "cosine"),
    "topk bfloat16": lambda: topk_cpu(QUERIES, BANK, 4, screen="bfloat16"),
    "topk float32": lambda: topk_cpu(QUERIES, BANK, 4, screen="float32"),
    "index": lambda: topk(QUERIES, Index(BANK), 4),
    "searched again": lambda: topk_cpu(FEW, EQUAL, 4, screen="bfloat16"),
    "ties": lambda: topk_cpu(TIES[:9], TIES, 45, screen="float32"),
    "mine": lambda: mine(QUERIES, BANK, 4),
    "two ways": lambda: sum(two_way(Rows(QUERIES, "source"), Rows(BANK, "target"), 4, 6, "bfloat16"), ()),
    "pooling": lambda: (mean_pool_packed(BANK, BOUNDS),),
    "ranks": lambda: topk_ranks(QUERIES, BANK, 4, None),
    "mining ranks": lambda: mine_ranks(QUERIES, BANK, 4, None),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_stays_on_the_device_of_its_inputs(name: str) -> None:
    expected = SEARCHES[name]()
    with torch.device("meta"):
        found = SEARCHES[name]()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float64], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_default_dtype(request.param)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("default_dtype")
def test_a_search_does_not_depend_on_the_default_dtype() -> None:
    found = {name: search() for name, search in SEARCHES.items()}
    torch.set_default_dtype(torch.float32)
    for name, search in SEARCHES.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(found[name], search(), strict=True)), name


def test_files_are_searched_in_cpu_memory(tmp_path: Path) -> None:
    """Also a file without rows, and parts that are read again."""
    paths = [tmp_path / f"bank-{i}.npy" for i in range(3)]
    for path, rows in zip(paths, (BANK[:500], BANK[:0], BANK[500:])):
        np.save(path, rows.numpy())
    expected = topk(QUERIES, BANK, 4)
    for _ in range(2):
        with torch.device("meta"):
            found = topk_files(QUERIES, paths, 4, tmp_path / "out")
        assert torch.equal(found.values, expected.values) and torch.equal(found.indices, expected.indices)


INTERPRETED = """
import torch
from kernel_cases import anisotropic, gaussian
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import pairs_from
from stilts_kernels.topk.cuda import topk_cuda, two_way_cuda

queries, bank = anisotropic(20, 64, 1), anisotropic(300, 64, 2)
same = gaussian(1, 8, 1).repeat(400, 1)  # no list proves such rows: they are searched again, then pair by pair

def searches():
    yield from topk_cuda(Rows(queries, "queries", True), Rows(bank, "bank", True), 4)
    yield from topk_cuda(Rows(same[:3], "queries"), Rows(same, "bank"), 70)
    found = two_way_cuda(Rows(queries, "source"), Rows(bank, "target"), 4, 3)
    for side in found:
        yield from side
    yield from pairs_from(*(Neighbours(*side) for side in found), "ratio", "max")

expected = list(searches())
with torch.device("meta"):
    found = list(searches())
assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
torch.set_default_dtype(torch.float64)
found = list(searches())
assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
print("the same", len(found))
"""


def test_the_fused_search_stays_on_the_device_of_its_inputs() -> None:
    pytest.importorskip("triton")
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0 and done.stdout == "the same 11\n", done.stderr[-3000:]


def without_device(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of torch's factory functions that leave the device, or a dtype other than theirs, to torch's default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FACTORIES:
            of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
            names = {keyword.arg for keyword in node.keywords}
            if of_torch and not names >= {"device", "dtype"} - TAKES_DTYPE.get(node.func.attr, set()):
                yield node


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_every_new_tensor_names_its_device_and_dtype(path: Path) -> None:
    """Lines that the searches above do not reach."""
    calls = [f"{path.name}:{node.lineno}" for node in without_device(ast.parse(path.read_text(encoding="utf-8")))]
    assert not calls


def test_a_tensor_without_a_device_would_be_found() -> None:
    lines = [
        "torch.arange(3)",
        "torch.full((2,), 1, dtype=torch.int64, device=rows.device)",
        "rows.new_zeros(2)",
        "x.torch.ones(2)",
        "torch.zeros(2, device=rows.device)",
    ]
    assert [node.lineno for node in without_device(ast.parse("\n".join(lines)))] == [1, 5]
