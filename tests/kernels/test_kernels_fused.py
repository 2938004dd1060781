"""The Triton kernel: exact under the interpreter, within the static gate ahead of time, right on a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ranks
import torch
from kernel_cases import anisotropic, check_topk, gaussian

pytest.importorskip("triton")

COMMON = """
import logging
import torch
from kernel_cases import anisotropic, check_tie_rule, check_topk, gaussian, poison_allocator
from stilts_kernels import last_report
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.cuda import ScratchLimits, Search

def check(queries, bank, k, backward=0, unit=False, **options):
    poison_allocator()
    search = Search(Rows(queries, "queries", unit), Rows(bank, "bank", unit), k, backward, **options)
    ahead, back = search.run()
    if unit:  # this path divides by lengths that are summed in an order of its own; the products are what is tried
        queries, bank = (Rows(rows, "rows", True).measured().block(0, len(rows)) for rows in (queries, bank))
    check_topk(queries, bank, k, "inner", ahead[0].float(), ahead[1])
    if backward:
        check_topk(bank, queries, backward, "inner", back[0].float(), back[1])
    return ahead[1], back[1]
"""

ONE_WAY = (
    COMMON
    + """
for queries, rows, dim, k, splits in ((20, 300, 40, 4, 3), (1, 64, 8, 1, 8), (17, 517, 33, 16, 2), (5, 40, 8, 3, 1),
                                      (4, 257, 16, 64, 2), (3, 64, 7, 64, 1), (1, 1, 1, 1, 0), (67, 2, 3, 2, 0)):
    for dtype in (torch.float16, torch.float32):
        check(gaussian(queries, dim, 1).to(dtype), gaussian(rows, dim, 2).to(dtype), k, splits=splits)
check(anisotropic(20, 64, 1), anisotropic(500, 64, 2), 4)
assert last_report().certified == 20, last_report()
check(gaussian(6, 9, 1), gaussian(200, 9, 2), 4, unit=True)
check(gaussian(40, 9, 1).T[::2], gaussian(40, 90, 2).T, 4)  # rows that are not contiguous
ties = gaussian(64, 8, 3).half().repeat(4, 1)
check_tie_rule(ties, check(gaussian(9, 8, 1).half(), ties, 6)[0])
zeros = torch.zeros(130, 8).half()
assert check(torch.ones(2, 8).half(), zeros, 3)[0].tolist() == [[0, 1, 2]] * 2
together = torch.cat([gaussian(576, 8, 4) * 0.01, gaussian(192, 8, 5)])  # every neighbour in one split
check(gaussian(5, 8, 1), together, 16, splits=4, kept=8)
assert last_report().certified < 5 and last_report().rows == 5, last_report()
check(gaussian(7, 16, 1), gaussian(1500, 16, 2), 100)  # k above what one list holds
assert last_report().certified == 7, last_report()
check(gaussian(2, 4, 1), gaussian(90, 4, 2), 90)
check(gaussian(150, 16, 1), gaussian(300, 16, 2), 4, limits=ScratchLimits(bank_rows=100, pairs=1 << 13))
print("interpreter agrees")
"""
)

INDEX = (
    COMMON
    + """
from stilts_kernels.topk.cuda import prepared_bank
from stilts_kernels.topk.panels import BankPanels, KernelPanelMaker

limits = ScratchLimits(bank_rows=100, pairs=1 << 13)
made, make_panel = [], KernelPanelMaker.__call__

def noted(maker, start, stop):
    made.append(maker.rows.name)
    return make_panel(maker, start, stop)

KernelPanelMaker.__call__ = noted
for dtype, unit in ((torch.float32, False), (torch.float32, True), (torch.float16, False)):
    bank = Rows(anisotropic(260, 24, 2).to(dtype), "bank", unit)
    questions = [anisotropic(30, 24, seed).to(kind) for seed, kind in ((1, dtype), (3, torch.float32))]
    expected = [Search(Rows(queries, "queries", unit), bank, 4).run()[0][1] for queries in questions]
    made.clear()
    kept = BankPanels(bank).keep(limits.rows_of_bank(24))
    for queries, indices in zip(questions, expected):  # float32 queries of a 16-bit bank are rounded, and measured
        assert torch.equal(check(queries, bank.data, 4, unit=unit, limits=limits, prepared=kept)[0], indices)
        assert last_report().certified == 30, last_report()
    assert made.count("bank") == 3, made  # three blocks, once for both searches
same = Rows(torch.ones(300, 8), "bank")  # without proof: searched again, by panels of its own
found = Search(Rows(torch.ones(2, 8), "queries"), same, 3, prepared=prepared_bank(same)).run()[0][1]
assert found.tolist() == [[0, 1, 2]] * 2
try:
    prepared_bank(Rows(bank.data * float("inf"), "bank"))
    raise AssertionError("an infinite row")
except ValueError as error:
    assert "bank: row 0" in str(error), error
print("interpreter agrees")
"""
)

TWO_WAY = (
    COMMON
    + """
from stilts_kernels import mine
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import pairs_from
from stilts_kernels.topk.configs import candidates

for queries, rows, dim, forward, backward in ((1, 1, 1, 1, 1), (1, 67, 5, 3, 1), (67, 1, 5, 1, 3), (131, 257, 17, 4, 4),
                                              (64, 128, 16, 8, 8), (197, 61, 9, 61, 70), (3, 97, 8, 2, 3)):
    for dtype in (torch.float16, torch.float32):
        check(gaussian(queries, dim, 1).to(dtype), gaussian(rows, dim, 2).to(dtype), forward, backward)
for config in candidates(0, 8, True):  # one and two runs of 16 rows in a group
    check(gaussian(150, 16, 1), gaussian(200, 16, 2), 4, 4, config=config)
    assert last_report().certified == 350, last_report()
below = -gaussian(70, 9, 1).abs().half(), gaussian(67, 9, 2).abs().half()  # rows beyond the edge would score more
check(*below, 4, 2)
many = gaussian(900, 8, 1)  # so many blocks that most are left out
check(many, gaussian(67, 8, 2), 4, 3)
many[:64] *= 3
check(many, gaussian(67, 8, 2), 4, 9)
small = ScratchLimits(bank_rows=70, pairs=1 << 13, column_bytes=1 << 11)
check(gaussian(150, 16, 1), gaussian(200, 16, 2), 4, 5, limits=small)  # several blocks of each side
check(anisotropic(80, 64, 1), anisotropic(300, 64, 2), 4, 4, unit=True)
assert last_report().certified == 380, last_report()
ties = gaussian(30, 8, 3).repeat(4, 1)
ahead, back = check(ties, ties[:100], 6, 6)
check_tie_rule(ties[:100], ahead)
check_tie_rule(ties, back)
sorted_rows = gaussian(160, 8, 5) * torch.arange(160)[:, None] / 160  # the best rows of every column in one block
check(sorted_rows, gaussian(70, 8, 6), 3, 10)
same = torch.ones(4400, 3)  # more equal rows than a column's candidates may hold
ahead, back = Search(Rows(same, "queries"), Rows(same[:3], "bank"), 2, 4).run()
assert back[1].tolist() == [[0, 1, 2, 3]] * 3 and ahead[1].unique(dim=0).tolist() == [[0, 1]]
assert last_report().certified <= 4400, last_report()
source, target = gaussian(61, 24, 1) + 0.5, gaussian(130, 24, 2) + 0.5
source[:30] = target[100:130] + 0.3 * source[:30]
found = Search(Rows(source, "source", True), Rows(target, "target", True), 4, 4).run()
for retrieval in ("max", "forward", "backward", "intersect"):
    ours = pairs_from(*(Neighbours(*side) for side in found), "ratio", retrieval)
    theirs = mine(source, target, 4, "ratio", retrieval)
    assert torch.equal(ours.source, theirs.source) and torch.equal(ours.target, theirs.target)
    assert torch.allclose(ours.score, theirs.score, rtol=1e-6)
for bad, text in (((ties, ties[:, :3], 2, 2), "D = 8"), ((ties, ties[:3], 4, 1), "k = 4 is outside 1..3"),
                  ((ties[:3], ties, 1, 4), "k = 4 is outside 1..3"), ((ties, ties * float("nan"), 2, 2), "holds NaN")):
    try:
        check(*bad)
        raise AssertionError(bad)
    except ValueError as error:
        assert text in str(error), error
print("interpreter agrees")
"""
)


MEMORY = (
    COMMON
    + """
from stilts_kernels.topk import cuda
from stilts_kernels.topk.panels import KernelPanelMaker

score_pairs, scored = cuda.pair_scores, []

def counted(queries, bank, query, row):
    scored.append(len(query))
    return score_pairs(queries, bank, query, row)

cuda.pair_scores = counted
same = torch.ones(256, 8).half()  # every group of every row may matter
limits = ScratchLimits(pairs=4096)
for forward, backward in ((4, 0), (4, 4)):
    ahead, back = check(same[:40], same, forward, backward, limits=limits)
    assert ahead.tolist() == [[0, 1, 2, 3]] * 40
    assert len(scored) > 2 and max(scored) <= 4096, scored
made, make_panel = [], KernelPanelMaker.__call__

def noted(maker, start, stop):
    made.append((maker.rows.name, start))
    return make_panel(maker, start, stop)

KernelPanelMaker.__call__ = noted
small = ScratchLimits(bank_rows=100, pairs=1 << 13, column_bytes=1 << 11)
check(gaussian(150, 8, 1), gaussian(200, 8, 2), 4, 4, limits=small)
blocks = [start for name, start in made if name == "bank"]
assert len(blocks) == len(set(blocks)) > 1 and len(made) > 2 * len(blocks), made  # each made once
print("interpreter agrees")
"""
)


@pytest.mark.parametrize(
    "program", [ONE_WAY, INDEX, TWO_WAY, MEMORY], ids=["one way", "index", "two way", "bounded scratch"]
)
def test_interpreter_is_exact(program: str) -> None:
    """In a process of its own: Triton reads TRITON_INTERPRET when imported. bfloat16 is broken there."""
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0 and "interpreter agrees" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("capability", [*(pytest.param(new, marks=pytest.mark.slow) for new in (120, 100)), 90, 80])
@pytest.mark.parametrize("k", [4, 16, 64])
@pytest.mark.parametrize("two_way", [False, True], ids=["one way", "two way"])
def test_static_gate(capability: int, k: int, two_way: bool) -> None:
    """Every configuration that may run, the tuner's candidates with the default."""
    from stilts_bench.compile_check import compile_search
    from stilts_kernels.topk.configs import candidates
    from stilts_kernels.topk.kernel import kept_groups

    for config in candidates(capability, kept_groups(k), two_way):
        compiled = compile_search(capability, k, two_way, config)
        assert not compiled.fails(), compiled
        assert compiled.tensor_instructions > 0 and compiled.spills == 0


@pytest.mark.parametrize("dim", [384, 4096])
def test_static_gate_at_other_widths(dim: int) -> None:
    from stilts_bench.compile_check import compile_search

    for two_way in (False, True):
        compiled = compile_search(90, 16, two_way, dim=dim)
        assert not compiled.fails(), compiled


@pytest.mark.parametrize("capability", [90, 80])
def test_exact_scorer_and_maker_of_panels_do_not_spill(capability: int) -> None:
    from stilts_bench.compile_check import compile_pairs, compile_panel

    for unit in (False, True):
        assert not compile_pairs(capability, unit).fails()
        assert not compile_panel(capability, unit).fails()


def test_gate_refuses_what_spills() -> None:
    """Four warps cannot hold such a tile and 64 groups a row."""
    from stilts_bench.compile_check import compile_search
    from stilts_kernels.topk.configs import HOPPER

    assert "spill" in compile_search(90, 64, True, {**HOPPER, "num_warps": 4, "ROW_GROUPS": 4}).fails()


def test_gate_refuses_what_triton_leaves_out() -> None:
    """Asked for warps that only load or multiply, it makes none for Hopper, and says nothing."""
    from stilts_bench.compile_check import compile_search
    from stilts_kernels.topk.configs import SPECIALIZED, candidates

    config = {**candidates(90, 8, False)[0], **SPECIALIZED}
    assert "no warps of their own" in compile_search(90, 4, False, config).fails()
    assert compile_search(100, 4, False, {**candidates(100, 8, False)[0], **SPECIALIZED}).partitions > 0


def test_gate_refuses_products_made_number_by_number() -> None:
    from stilts_bench.compile_check import CompiledKernel

    counts = {"limit": 255, "registers": 100, "spills": 0, "shared_bytes": 1024}
    assert "UTC" in CompiledKernel("search", 100, **counts, tensor_instructions=0).fails()
    assert not CompiledKernel("pairs", 100, **counts, tensor_instructions=0, multiplies=False).fails()


def test_spans_hold_at_most_what_fits() -> None:
    from stilts_kernels.topk.candidates import fitting_spans

    counts = torch.tensor([3, 0, 4, 9, 1, 1, 5, 0])
    assert list(fitting_spans(counts, 7)) == [(0, 3), (3, 4), (4, 8)]
    assert list(fitting_spans(counts, 1)) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)]
    assert list(fitting_spans(torch.zeros(3, dtype=torch.int64), 1)) == [(0, 3)]


def test_group_columns_inverts_the_reshape() -> None:
    """Every column of a tile belongs to exactly the group the kernel's reshape puts it in."""
    from stilts_kernels.topk.kernel import group_columns

    for columns in (64, 128, 256):
        groups = columns // 16
        shape = (groups // 4, columns // (2 * groups), 4, 2)
        inside = torch.arange(columns).view(shape).permute(0, 2, 1, 3).reshape(groups, 16)
        found = group_columns(torch.arange(groups) | 256, torch.full((groups,), 3), columns)
        assert torch.equal(found.sort(dim=1).values, inside.sort(dim=1).values + 3 * columns)


def test_group_rows_inverts_the_reshape() -> None:
    from stilts_kernels.topk.candidates import group_rows

    for rows, groups in ((128, 8), (128, 4), (64, 4), (64, 2)):
        inside = torch.arange(rows).view(rows // (16 * groups), groups, 16).transpose(0, 1).reshape(groups, -1)
        found = group_rows(torch.arange(groups, dtype=torch.int32) | 48, {"BM": rows, "ROW_GROUPS": groups})
        assert torch.equal(found, inside)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [1, 4, 16, 64, 100])
def test_gpu_is_exact(k: int, dtype: torch.dtype) -> None:
    from stilts_kernels import topk

    for make, metric in ((gaussian, "inner"), (anisotropic, "cosine")):
        queries, bank = make(300, 384, 1).to(dtype), make(20011, 384, 2).to(dtype)
        found = topk(queries.cuda(), bank.cuda(), k, metric)
        check_topk(queries, bank, k, metric, found.values.cpu(), found.indices.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_mining_is_exact() -> None:
    from stilts_kernels.common.rows import Rows
    from stilts_kernels.topk.cuda import two_way_cuda

    source, target = anisotropic(5003, 384, 1), anisotropic(20011, 384, 2)
    for dtype in (torch.float32, torch.bfloat16):
        left, right = source.to(dtype), target.to(dtype)
        ahead, back = two_way_cuda(Rows(left.cuda(), "source"), Rows(right.cuda(), "target"), 4, 16)
        check_topk(left, right, 4, "inner", ahead[0].float().cpu(), ahead[1].cpu())
        check_topk(right, left, 16, "inner", back[0].float().cpu(), back[1].cpu())
