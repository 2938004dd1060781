"""What once passed as proven and was wrong: settings that shorten products, lengths that underflow, wrong lengths."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import ranks
import torch
from kernel_cases import anisotropic, check_topk, gaussian
from stilts_kernels import Index, last_report, mine, normalize, topk
from stilts_kernels.common import precision, products
from stilts_kernels.common.precision import exact_float32
from stilts_kernels.common.rows import Rows, fixed_order_lengths
from stilts_kernels.mining.layout import warn_of_unlike_processors
from stilts_kernels.topk import bounds, cpu
from stilts_kernels.topk.bounds import PanelMaker, score_error
from stilts_kernels.topk.cpu import topk_cpu
from stilts_kernels.topk.int8.library import instruction_sets

CPU = torch.device("cpu")


@pytest.fixture
def short_products() -> Iterator[None]:
    """The stock line of training scripts; where the processor has no bfloat16, torch keeps float32 all the same."""
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("short_products")
@pytest.mark.parametrize("screen", ["float32", "bfloat16"])
def test_a_setting_that_shortens_products_shortens_none_of_a_search(screen: str) -> None:
    """Neighbours so near each other that bfloat16 cannot tell them apart: 65 of these 256 rows once came out wrong."""
    bank = torch.ones(4000, 64) + 1e-3 * gaussian(4000, 64, 1)
    queries = torch.ones(256, 64) + 1e-3 * gaussian(256, 64, 2)
    check_topk(queries, bank, 4, "inner", *topk_cpu(queries, bank, 4, screen=screen))
    check_topk(queries, bank, 4, "inner", *topk_cpu(queries, Index(bank, screen=screen), 4))
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16", "the setting is as it was before"


def test_autocast_shortens_no_product_of_a_search() -> None:
    queries, bank = gaussian(70, 128, 1), gaussian(500, 128, 2)
    expected, pairs = topk(queries, bank, 4), mine(queries, bank, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, mined = topk(queries, bank, 4), mine(queries, bank, 4)
    assert torch.equal(found.values, expected.values) and torch.equal(found.indices, expected.indices)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(mined, pairs))


def test_products_that_stay_short_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a variable of oneDNN that no setting of torch overrules."""
    exact_product = torch.mm

    def short_product(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        return out.copy_(exact_product(left.bfloat16().float(), right.bfloat16().float()))

    monkeypatch.setattr(precision.torch, "mm", short_product)
    with pytest.raises(ValueError, match="DNNL_DEFAULT_FPMATH_MODE"):
        topk_cpu(gaussian(5, 8, 1), gaussian(50, 8, 2), 4, screen="float32")
    with pytest.raises(ValueError, match="rounded to fewer bits"), exact_float32(8, CPU):
        raise AssertionError("nothing runs on short products")


def test_packed_products_that_stay_short_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary goes the way of the search: a product of oneDNN is not vouched for by one of the BLAS."""
    if not products.can_pack():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "packing_pays", lambda: True)
    queries, bank = gaussian(70, 100, 1), gaussian(700, 100, 2)
    expected = topk_cpu(queries, bank, 4, screen="float32")
    exact_product = products.multiply

    def short_when_packed(rows: torch.Tensor, side: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return exact_product(rows.bfloat16().float() if side.is_mkldnn else rows, side, out)

    for module in (precision, cpu):
        monkeypatch.setattr(module, "multiply", short_when_packed)
    with pytest.raises(ValueError, match="rounded to fewer bits"):
        topk_cpu(queries, bank, 4, screen="float32")
    monkeypatch.setattr(products, "packing_pays", lambda: False)
    found = topk_cpu(queries, bank, 4, screen="float32")
    assert torch.equal(found.values, expected.values) and torch.equal(found.indices, expected.indices)


@pytest.mark.parametrize("screen", ["float32", "bfloat16"])
@pytest.mark.parametrize("scale", [1e-18, 1e-20, 1e-22, 1e-24, 1e-30])
def test_rows_whose_squares_underflow_are_searched_right(scale: float, screen: str) -> None:
    """The float64 scores of such rows are far from underflow; only float32 norms were not."""
    queries, bank = gaussian(30, 64, 1), gaussian(300, 64, 2) * scale
    _, indices = topk_cpu(queries, bank, 4, screen=screen)
    scores = queries.double() @ bank.double().T
    assert torch.equal(scores.gather(1, indices), scores.topk(4).values)
    both = topk_cpu(queries * scale, bank, 4, screen=screen).indices
    scores = (queries * scale).double() @ bank.double().T
    assert torch.equal(scores.gather(1, both), scores.topk(4).values)


@pytest.mark.parametrize("scale", [1e-12, 1e-20, 1e-22, 1e-24, 1e-36])
def test_short_rows_have_their_direction(scale: float) -> None:
    rows = gaussian(20, 64, 1)
    assert torch.allclose(normalize(rows * scale), normalize(rows), rtol=1e-5, atol=1e-7)
    found, expected = topk(rows * scale, rows[:9] * scale, 2, "cosine"), topk(rows, rows[:9], 2, "cosine")
    assert torch.equal(found.indices, expected.indices)
    assert torch.allclose(fixed_order_lengths(rows * scale), rows.norm(dim=1) * scale, rtol=1e-5)


def test_rows_whose_products_are_flushed_keep_their_neighbours() -> None:
    """An index multiplies unscaled rows: of these 64 queries the int8 screen once gave 18 wrong neighbours."""
    queries, bank = gaussian(64, 256, 1), gaussian(3000, 256, 2) * 1e-36
    screens = ["int8", "bfloat16", "float32"] if instruction_sets() else ["bfloat16", "float32"]
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor flushes nothing")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # each thread flushes or not: lengths of rows would be summed in two ways
    try:
        expected = topk_cpu(queries, bank, 4, "cosine", "float32")
        for screen in screens:
            found = topk_cpu(queries, Index(bank, "cosine", screen), 4)
            assert torch.equal(found.indices, expected.indices) and torch.equal(found.values, expected.values)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def test_ranks_that_sum_with_other_instructions_are_warned(caplog: pytest.LogCaptureFixture) -> None:
    """Equal rows on two kinds of processors tie by noise, not by index."""
    with caplog.at_level(logging.WARNING):
        warn_of_unlike_processors(["AVX512", "AVX512"])
        assert not caplog.messages
        warn_of_unlike_processors(["AVX512", "AVX512", "AVX2"])
    assert caplog.messages[0].startswith("torch sums with AVX512 on rank 0 and with AVX2 on rank 2")


def test_rows_too_short_for_a_direction_are_refused() -> None:
    rows = gaussian(5, 8, 1)
    rows[3] = 1e-42
    with pytest.raises(ValueError, match="rows: row 3 is so short .* scale the rows up"):
        normalize(rows)


@pytest.mark.parametrize("scale", [1e-21, 1e-24, 1e-30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bound_holds_where_norms_underflow(scale: float, dtype: torch.dtype) -> None:
    left, right = Rows(gaussian(20, 48, 1), "l"), Rows(gaussian(30, 48, 2) * scale, "r")
    zero = torch.zeros(48)
    queries, bank = PanelMaker(left, zero, zero, 2, dtype)(0, 20), PanelMaker(right, zero, zero, 0, dtype)(0, 30)
    error = (queries.rows.double() @ bank.rows.double().T - left.data.double() @ right.data.double().T).abs()
    assert (error <= score_error(queries, bank)[:, None]).all() and (error <= score_error(bank, queries)).all()


@pytest.mark.parametrize("dim", [1, 3, 384, 1022, 1024])
def test_lengths_do_not_depend_on_the_number_of_rows(dim: int) -> None:
    rows = gaussian(70, dim, 1)
    together = fixed_order_lengths(rows)
    assert torch.equal(torch.cat([fixed_order_lengths(row) for row in rows.split(1)]), together)
    assert torch.equal(together, rows.double().norm(dim=1).float())
    measured = Rows(rows, "rows", unit=True).measured()
    assert torch.equal(measured.part(3, 9).block(0, 6), measured.block(3, 9))
    assert torch.equal(measured.select(torch.tensor([8, 3])).block(0, 2), measured.take(torch.tensor([8, 3])))


def test_sums_of_an_unmeasured_architecture_get_the_widest_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 covers any block of at least 4 products cut to 23 bits; what is measured for sm_80 and sm_90 lies within 2."""
    expected = {(8, 0): 2.0, (9, 0): 2.0, (8, 6): 3.0, (10, 0): 3.0, (12, 0): 3.0}
    for number, (capability, roundings) in enumerate(expected.items()):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, at=capability: at)
        assert bounds.accumulation_roundings(torch.device("cuda", number)) == roundings
    assert bounds.accumulation_roundings(CPU) == 2.0
    for terms, extra_bits in ((4, 0), (8, 0), (8, 1), (16, 0), (16, 2), (64, 0)):
        lost_a_product = ((terms + 1) * 2.0**-extra_bits + 1) * 2 / terms  # in units of 2^-24
        limit = 2.0 if extra_bits else 3.0
        assert lost_a_product <= limit


SAME_DIRECTION = """
import torch
from kernel_cases import gaussian
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.cuda import Search

def check(queries, bank, k, ranking):
    unit_queries, unit_bank = (torch.nn.functional.normalize(side.double(), dim=1) for side in (queries, bank))
    cosines = unit_queries @ unit_bank.T
    assert torch.allclose(ranking[0], cosines.topk(k).values, rtol=0, atol=1e-6), ranking[0]
    assert torch.allclose(cosines.gather(1, ranking[1]), ranking[0], rtol=0, atol=1e-6)

source = torch.cat([torch.ones(4300, 3) * torch.linspace(1, 3, 4300)[:, None], gaussian(40, 3, 1)])
target = gaussian(8, 3, 2) + 1  # every column has more candidates than a list holds: pair by pair
ahead, back = Search(Rows(source, "source", True), Rows(target, "target", True), 2, 4).run()
check(source, target, 2, ahead)
check(target, source, 4, back)
rows = torch.ones(300, 5) * torch.linspace(1, 3, 300)[:, None]
search = Search(Rows(rows[:4], "queries", True), Rows(rows, "bank", True), 70)
check(rows[:4], rows, 70, search.run()[0])
print("cosines are right")
"""


@pytest.mark.processes
def test_the_last_resort_divides_every_row_by_its_own_length() -> None:
    pytest.importorskip("triton")
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    command = [sys.executable, "-c", SAME_DIRECTION]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "cosines are right\n", done.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_row_alone_scores_as_in_a_batch_on_a_gpu() -> None:
    queries, bank = anisotropic(300, 1022, 1).cuda(), anisotropic(32_768, 1022, 2).cuda()
    bank = torch.cat([bank, bank[:1].repeat(3, 1)])  # copies in the last, short block
    whole, alone = topk(queries, bank, 4, "cosine"), topk(queries[:1], bank, 4, "cosine")
    assert torch.equal(alone.values[0], whole.values[0]) and torch.equal(alone.indices[0], whole.indices[0])
    assert topk(bank[:1], bank, 4, "cosine").indices[0].tolist() == [0, 32_768, 32_769, 32_770]
    assert last_report() is not None
