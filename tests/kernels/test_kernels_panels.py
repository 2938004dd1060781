"""Panels of the fused search: equal to those that torch makes, bounds that hold at the extremes of float16, and floors
that splits share. Interpreted, in processes of their own: Triton reads TRITON_INTERPRET when imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import ranks
import torch
from kernel_cases import anisotropic, gaussian
from stilts_kernels.common.rows import Rows

pytest.importorskip("triton")

EQUAL = """
import torch
from kernel_cases import anisotropic, gaussian
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.bounds import PanelMaker
from stilts_kernels.topk.panels import KernelPanelMaker

def agree(data, centre, opposite, unit=False, start=0, stop=None):
    rows = Rows(data, "rows", unit).measured()
    stop, dim = stop or rows.count, rows.dim
    theirs = PanelMaker(rows, centre, opposite, 0, torch.float16)(start, stop)
    ours = KernelPanelMaker(rows, centre, opposite, torch.float16)(start, stop)
    assert torch.equal(ours.rows[:, :dim], theirs.rows[:, :dim]), "stored values are rounded once, so they are equal"
    assert ours.rows.shape[1] % 8 == 0 and bool((ours.rows[:, dim:] == 0).all())
    sums = dim * 2.0**-24  # of norms and shifts, which are added up in another order
    assert torch.allclose(ours.norm, theirs.norm, rtol=2 * sums, atol=1e-12)
    assert torch.allclose(ours.error, theirs.error, rtol=4 * sums + 1e-3, atol=1e-12)
    limit = 2 * sums * float(opposite.norm()) * theirs.norm
    assert bool(((ours.shift - theirs.shift).abs() <= limit + 1e-12).all())
    assert ours.start == theirs.start and ours.terms == theirs.terms and ours.centre_norm == theirs.centre_norm

for dim in (1, 7, 8, 33, 515, 1029):
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        data = anisotropic(37, max(dim, 4), 1)[:, :dim].to(kind)
        data = data.float() if kind == torch.bfloat16 else data  # its bits are misread by the interpreter
        agree(data, data.float().mean(0), gaussian(1, dim, 2)[0])
        agree(data, data.float().mean(0), gaussian(1, dim, 2)[0], start=5, stop=31)
data = gaussian(9, 21, 3)
agree(data, torch.zeros(21), torch.ones(21), unit=True)
agree(gaussian(40, 9, 1).T[::2], torch.ones(40), torch.ones(40))
print("panels agree")
"""

FLOORS = """
import torch
from kernel_cases import gaussian
from stilts_kernels import last_report
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk import kernel
from stilts_kernels.topk.configs import INTERPRETER
from stilts_kernels.topk.cuda import Search

take, inserted = kernel.take_best, []

def counted(keys, top, best, where, floor, tile, K):
    inserted.append(int((top.handle.data > floor.handle.data).sum()))
    return take(keys, top, best, where, floor, tile, K)

kernel.take_best = counted
together = torch.cat([gaussian(576, 8, 4) * 0.01, gaussian(192, 8, 5)])  # all neighbours in one split: some unproven
ties = gaussian(64, 8, 3).repeat(12, 1)
for queries, bank, k, backward in ((gaussian(70, 24, 1), gaussian(3000, 24, 2), 4, 3),
                                   (gaussian(20, 8, 1), together, 7, 0), (gaussian(20, 8, 1), ties, 6, 0)):
    turns, answers, proven = [], [], []
    for shared in (0, 1):
        inserted.clear()
        config = {**INTERPRETER, "SHARED_FLOOR": shared}
        search = Search(Rows(queries, "queries"), Rows(bank, "bank"), k, backward, config=config, splits=4)
        answers.append([part for side in search.run() for part in side])
        turns.append(sum(inserted))
        proven.append(~search.failed_rows)
    assert all(torch.equal(*pair) for pair in zip(*answers)), k
    assert turns[1] < turns[0], turns
    assert bool((proven[0] <= proven[1]).all()), "what is proven without is proven with"
    print("insertions", *turns)
print("floors agree")
"""

EXTREMES = """
import torch
from hypothesis import given, settings, strategies as st
from kernel_cases import check_topk, gaussian
from stilts_kernels import last_report
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.bounds import SAFETY, score_error
from stilts_kernels.topk.cuda import Search
from stilts_kernels.topk.panels import BankPanels

WILD = st.tuples(st.integers(1, 40), st.integers(1, 60), st.integers(-20, 8), st.floats(0, 12), st.floats(0, 6),
                 st.integers(0, 2**20), st.booleans(), st.booleans())

@settings(max_examples=40, deadline=None, derandomize=True)
@given(WILD)
def holds(case):
    dim, count, size, spread, mean, seed, unit, two_way = case
    generator = torch.Generator().manual_seed(seed)
    sides = []
    for rows in (count, 17):
        lengths = 10.0 ** (spread * torch.rand(rows, dim, generator=generator) - spread)
        sides.append(((torch.randn(rows, dim, generator=generator) * lengths + mean) * 10.0**size).float())
    sides[0][:1] *= 3e4  # far outside of what the sample's scale leaves room for, where one row is not sampled
    bank, queries = Rows(sides[0], "bank", unit).measured(), Rows(sides[1], "queries", unit).measured()
    panels = BankPanels(bank, queries)
    panels.maker.scale *= 2.0**9  # numbers are cut
    right, left = panels.maker(0, count), panels.queries_maker(queries, two_way)(0, 17)
    for rows, panel, centre in ((bank, right, panels.centre), (queries, left, panels.query_centre)):
        centred = (rows.block(0, rows.count).double() - centre.double()) * panel.scale
        lost = (panel.rows[:, :dim].double() - centred).norm(dim=1)
        assert bool((panel.error.double() * SAFETY >= lost).all())
        assert bool((panel.norm.double() * SAFETY >= panel.rows.double().norm(dim=1)).all())
    scale = left.scale * right.scale
    exact = queries.block(0, 17).double() @ bank.block(0, count).double().T
    exact -= queries.block(0, 17).double() @ panels.centre.double()[:, None]
    score = left.rows.double() @ right.rows.double().T + (right.shift * left.scale).double()
    if two_way:
        exact += (queries.block(0, 17).double() - panels.query_centre.double()) @ panels.centre.double()[:, None]
        score += (left.shift * right.scale).double()[:, None]
    # Of the whole bound, since the product here is float64's: what storing and shifting lose.
    assert bool(((score - exact * scale).abs() <= score_error(left, right).double()[:, None]).all())

holds()

def search(queries, bank, k=4, unit=False):
    ahead, _ = Search(Rows(queries, "queries", unit), Rows(bank, "bank", unit), k).run()
    check_topk(queries, bank, k, "cosine" if unit else "inner", ahead[0].float(), ahead[1])
    return last_report().certified

queries, bank = gaussian(20, 24, 1), gaussian(900, 24, 2)
for left, right in ((1e-18, 1e-18), (1e-18, 1e13), (1e13, 1e13), (1e9, 1e-9)):
    assert search(queries * left, bank * right) == 20
lengths = torch.logspace(-6, 6, 900)[torch.randperm(900, generator=torch.Generator().manual_seed(1))]
search(queries, bank * lengths[:, None])
outlier = bank.clone()
outlier[777] *= 1e6  # no sampled row: it is cut, and the others are found without its proof
search(queries, outlier)
assert search(queries, torch.full_like(bank, 3.0)) <= 20 and "float16 screen" in str(last_report())
print("bounds hold")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    ("program", "last"),
    [(EQUAL, "panels agree"), (FLOORS, "floors agree"), (EXTREMES, "bounds hold")],
    ids=["equal to torch's", "shared floors", "extremes"],
)
def test_interpreted(program: str, last: str) -> None:
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run([sys.executable, "-c", program], env=environment, text=True, capture_output=True, timeout=500)
    assert done.returncode == 0 and last in done.stdout, done.stderr[-3000:]


def test_rows_as_they_are_need_no_copy() -> None:
    """Contiguous, rows of a multiple of 16 bytes from such an address on: descriptors read nothing else."""
    from stilts_kernels.topk.panel_kernel import is_aligned

    rows = gaussian(9, 24, 1).half()
    assert is_aligned(rows) and is_aligned(rows[3:])
    assert not is_aligned(rows[:, :16]) and not is_aligned(rows.T) and not is_aligned(gaussian(9, 12, 1).half())
    assert not is_aligned(torch.zeros(1 + 9 * 24, dtype=torch.float16)[1:].view(9, 24))


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_scale_leaves_room_above_and_below(size: float) -> None:
    from stilts_kernels.topk.panels import scale_of

    centred = gaussian(50, 24, 1) * size
    scale = scale_of(centred, centred[0] * 0, torch.float16)
    assert 2.0**8 <= float(centred.abs().max()) * scale < 2.0**9
    assert scale_of(centred, centred[0], torch.bfloat16) == 1.0 == scale_of(centred * 0, centred[0] * 0, torch.float16)


def test_float16_loses_an_eighth_of_what_bfloat16_loses() -> None:
    """The reason for the screen that is taken."""
    from stilts_kernels.topk.bounds import centre_of
    from stilts_kernels.topk.panels import scale_of

    for rows in (gaussian(300, 256, 1), anisotropic(300, 256, 2)):
        centred = rows - centre_of(Rows(rows, "rows"))
        lost = []
        for dtype in (torch.float16, torch.bfloat16):
            scale = scale_of(centred, centred[0], dtype)
            lost.append(float(((centred * scale).to(dtype).float() / scale - centred).norm() / centred.norm()))
        assert lost[0] < 0.0003 and 7 < lost[1] / lost[0] < 9, lost


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_panels_equal_those_of_torch(dtype: torch.dtype) -> None:
    from stilts_kernels.topk.bounds import PanelMaker
    from stilts_kernels.topk.panels import KernelPanelMaker

    rows = Rows(anisotropic(1000, 1022, 1).cuda(), "rows", True).measured()
    centre, opposite = anisotropic(2, 1022, 2).cuda()
    theirs, ours = PanelMaker(rows, centre, opposite, 0, dtype), KernelPanelMaker(rows, centre, opposite, dtype)
    assert torch.equal(ours(3, 900).rows[:, :1022], theirs(3, 900).rows[:, :1022])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_results_do_not_depend_on_when_splits_meet() -> None:
    from stilts_kernels.topk.configs import choose_config
    from stilts_kernels.topk.cuda import Search

    queries, bank = gaussian(512, 384, 1).cuda(), gaussian(100_003, 384, 2).cuda()
    config = choose_config(queries.device, torch.float16, 384, 8, False)
    found = [
        Search(Rows(queries, "queries"), Rows(bank, "bank"), 4, config={**config, "SHARED_FLOOR": shared}).run()[0]
        for shared in (0, 1, 1)
    ]
    for values, indices in found[1:]:
        assert torch.equal(values, found[0][0]) and torch.equal(indices, found[0][1])
