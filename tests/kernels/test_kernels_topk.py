"""Exact top-k on the CPU against float64, on awkward shapes, ties, anisotropic data and bad input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import anisotropic, check_tie_rule, check_topk, gaussian, poison_allocator
from stilts_kernels import Index, last_report, mean_pool_packed, normalize, topk
from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.ranking import falling_order
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk import reference
from stilts_kernels.topk.bounds import EXTRA_COLUMNS, PanelMaker, score_error
from stilts_kernels.topk.cpu import topk_cpu
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.shortlist import Shortlist
from torch import Tensor

SCREENS = ("bfloat16", "float32", "int8") if library.instruction_sets() else ("bfloat16", "float32")
SHAPES = [
    (1, 1, 1, 1),
    (1, 2, 1, 2),
    (3, 4097, 1, 4),
    (7, 257, 31, 257),
    (33, 1009, 17, 5),
    (1031, 67, 64, 3),
    (2, 4096, 8, 64),
    (5, 8193, 40, 16),
    (1024, 33, 7, 33),
    (4, 300, 4096, 4),
]


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("queries, rows, dim, k", SHAPES)
def test_values_equal_float64(queries: int, rows: int, dim: int, k: int, screen: str) -> None:
    left, right = gaussian(queries, dim, 1), gaussian(rows, dim, 2)
    for metric in ("inner", "cosine"):
        poison_allocator()
        check_topk(left, right, k, metric, *topk_cpu(left, right, k, metric, screen))


@pytest.mark.parametrize("screen", SCREENS)
def test_equal_rows_keep_the_lower_index(screen: str) -> None:
    bank = gaussian(40, 12, 3).repeat(20, 1)
    found = topk_cpu(gaussian(9, 12, 4), bank, 45, screen=screen)
    check_topk(gaussian(9, 12, 4), bank, 45, "inner", *found)
    check_tie_rule(bank, found.indices)


@pytest.mark.parametrize("screen", SCREENS)
def test_more_ties_than_any_cap_still_exact(screen: str) -> None:
    """All rows equal: every bound fails, rows are searched pair by pair, and the lowest indices win."""
    found = topk_cpu(gaussian(3, 5, 1), torch.ones(5000, 5), 4, screen=screen)
    assert torch.equal(found.indices, torch.arange(4).expand(3, 4))
    report = last_report()
    assert report is not None and report.certified == 0


def test_zero_rows_score_zero() -> None:
    bank = torch.zeros(50, 6)
    bank[20:] = -gaussian(30, 6, 2).abs()
    found = topk(torch.ones(2, 6), bank, 20)
    assert torch.equal(found.indices[0], torch.arange(20)) and bool((found.values == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_read_exactly(dtype: torch.dtype) -> None:
    left, right = gaussian(20, 33, 1).to(dtype), gaussian(600, 33, 2).to(dtype)
    check_topk(left, right, 7, "cosine", *topk(left, right, 7, "cosine"))


def test_strided_inputs() -> None:
    left, right = gaussian(33, 40, 1).T, gaussian(33, 900, 2).T[::3]
    check_topk(left, right, 5, "inner", *topk(left, right, 5))


@pytest.mark.parametrize("screen", SCREENS)
def test_anisotropic_vectors_are_certified(screen: str) -> None:
    """XLM-R's shared mean ruins plain bfloat16 ranking; centred screening proves every row."""
    bank, queries = anisotropic(6000, 256, 1), anisotropic(100, 256, 2)
    cosines = queries @ bank.T
    assert 0.95 < float(cosines.mean()) < 0.962
    plain = (queries.bfloat16() @ bank.bfloat16().T).float().topk(4).indices
    exact = reference.topk(queries, bank, 4)[1]
    assert (plain.sort().values == exact.sort().values).float().mean() < 0.9
    found = topk_cpu(queries, bank, 4, screen=screen)
    check_topk(queries, bank, 4, "inner", *found)
    report = last_report()
    assert report is not None and report.certified == report.rows and report.survivors_per_row <= 16


def test_scale_and_offset_do_not_matter() -> None:
    for scale, offset in ((1e-6, 0.0), (1e6, 0.0), (1.0, 100.0)):
        left, right = gaussian(11, 20, 1) * scale + offset, gaussian(700, 20, 2) * scale - offset
        check_topk(left, right, 6, "inner", *topk(left, right, 6))


def test_prepared_index_equals_one_shot() -> None:
    bank, queries = anisotropic(5000, 32, 1), anisotropic(70, 32, 2)
    for metric in ("inner", "cosine"):
        index, whole = Index(bank, metric), topk(queries, bank, 4, metric)
        again = topk(queries, index, 4)
        assert torch.equal(again.values, whole.values) and torch.equal(again.indices, whole.indices)


def test_inputs_that_require_gradients() -> None:
    left, right = gaussian(3, 5, 1).requires_grad_(), gaussian(30, 5, 2).requires_grad_()
    for bank in (right, Index(right)):
        check_topk(left.detach(), right.detach(), 2, "inner", *topk(left, bank, 2))


def test_result_does_not_depend_on_memory_or_screen() -> None:
    left, right = gaussian(3000, 16, 1), gaussian(500, 16, 2)
    whole = topk(left, right, 3)
    for screen, memory in (("bfloat16", 19 << 20), ("float32", 19 << 20), ("float32", 1 << 30)):
        other = topk_cpu(left, right, 3, screen=screen, memory=memory)
        assert torch.equal(whole.values, other.values) and torch.equal(whole.indices, other.indices)


def test_canonical_score_of_a_pair_stands_alone() -> None:
    left, right = gaussian(30, 65, 1), gaussian(40, 65, 2)
    query = torch.arange(30).repeat_interleave(40)
    row = torch.arange(40).repeat(30)
    order = torch.argsort(row, stable=True)
    together = canonical_scores(Rows(left, "l"), Rows(right, "r"), query[order], row[order])
    for pair in range(0, len(order), 37):
        i, j = query[order][pair], row[order][pair]
        zero = torch.zeros(1, dtype=torch.int64)
        alone = canonical_scores(Rows(left[i : i + 1], "l"), Rows(right[j : j + 1], "r"), zero, zero)
        assert alone[0] == together[pair]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(1, 40), st.data())
def test_any_shape_with_ties(queries: int, rows: int, dim: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, rows))
    seed = data.draw(st.integers(0, 1000))
    screen = data.draw(st.sampled_from(SCREENS))
    left = gaussian(queries, dim, seed).mul(2).round()  # small integers: exact scores, many ties
    right = gaussian(rows, dim, seed + 1).mul(2).round()
    values, indices = topk_cpu(left, right, k, screen=screen)
    expected = reference.topk(left, right, k)
    assert torch.equal(values.double(), expected[0]) and torch.equal(indices, expected[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 30), st.sampled_from([torch.bfloat16, torch.float16, torch.float32]))
def test_bound_holds(seed: int, offset: float, dtype: torch.dtype) -> None:
    """The distance between screened and exact centred scores never exceeds the bound, in both directions."""
    left, right = Rows(gaussian(20, 48, seed) + offset, "l"), Rows(gaussian(30, 48, seed + 1) - offset, "r")
    centres = left.data.mean(0), right.data.mean(0)
    queries = PanelMaker(left, centres[0], centres[1], 2, dtype)(0, 20)
    bank = PanelMaker(right, centres[1], centres[0], 0, dtype)(0, 30)
    assert queries.rows.shape[1] == 48 + EXTRA_COLUMNS
    screened = queries.rows.double() @ bank.rows.double().T
    exact = left.data.double() @ right.data.double().T - centres[0].double() @ centres[1].double()
    error = (screened - exact).abs()
    assert (error <= score_error(queries, bank)[:, None]).all() and (error <= score_error(bank, queries)).all()


def spoiled(value: float) -> Tensor:
    rows = gaussian(9, 4, 1)
    rows[5, 1] = value
    return rows


GOOD = gaussian(9, 4, 1)
BAD_CALLS = [
    ((spoiled(float("nan")), GOOD, 2), "queries: row 5 holds NaN"),
    ((GOOD, spoiled(float("inf")), 2), "bank: row 5"),
    ((GOOD, spoiled(-float("inf")), 2), "bank: row 5"),
    ((GOOD, spoiled(3e38), 2), "norm is 1e"),
    ((GOOD, GOOD, 10), "k = 10 is outside 1..9"),
    ((GOOD, GOOD, 0), "k = 0"),
    ((GOOD, GOOD[:, :3], 2), "D = 4"),
    ((GOOD[:0], GOOD, 2), "queries is empty"),
    ((GOOD, GOOD[:0], 2), "bank is empty"),
    ((GOOD[0], GOOD, 2), "shape"),
    ((GOOD.double(), GOOD, 2), "dtype torch.float64"),
    ((GOOD, GOOD.tolist(), 2), "expected a torch tensor"),
    ((GOOD, GOOD.to_sparse(), 2), "dense"),
    ((GOOD, GOOD.to("meta"), 2), "on meta"),
    ((GOOD, GOOD, 2, "l2"), "metric"),
    ((torch.zeros(2, 4), GOOD, 2, "cosine"), "queries: row 0 is a zero vector"),
    ((GOOD, torch.cat([GOOD, torch.zeros(1, 4)]), 2, "cosine"), "bank: row 9 is a zero vector"),
    ((torch.ones(2, 8193), torch.ones(3, 8193), 1), "outside 1..8192"),
]


@pytest.mark.parametrize("arguments, text", BAD_CALLS, ids=[text for _, text in BAD_CALLS])
def test_bad_input_is_refused(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text.replace(".", r"\.")):
        topk(*arguments)


def test_falling_order_is_that_of_a_stable_sort() -> None:
    value = torch.cat([gaussian(50, 1, 1)[:, 0].double().repeat(3), torch.tensor([0.0, -0.0, 1e-320, -1e300, -0.0])])
    value[::7] = 0.25
    assert torch.equal(falling_order(value), torch.argsort(value, descending=True, stable=True))


def test_bad_row_of_a_later_pass_is_named() -> None:
    """28 MiB serve some thousand queries a pass."""
    queries = gaussian(30_000, 4, 1)
    queries[25_000, 2] = float("nan")
    with pytest.raises(ValueError, match="queries: row 25000 holds NaN"):
        topk(queries, GOOD, 2, memory=28 << 20)


def test_index_of_a_bank_elsewhere_is_refused() -> None:
    with pytest.raises(ValueError, match="bank is on meta; rows are searched on a CPU or a CUDA device"):
        Index(GOOD.to("meta"))


def test_normalize_and_mean_pool() -> None:
    rows = gaussian(5, 7, 1)
    assert torch.allclose(normalize(rows).norm(dim=1), torch.ones(5))
    with pytest.raises(ValueError, match="row 0 is a zero vector"):
        normalize(torch.zeros(1, 3))
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    tokens = gaussian(12, 6, 2).view(3, 4, 6)
    packed = mean_pool_packed(tokens[mask.bool()], torch.tensor([0, 3, 4, 8]))
    assert torch.equal(packed, reference.mean_pool(tokens, mask).float())
    for bounds in ([0, 3, 3, 8], [0, 3, 9], [1, 8], [0]):
        with pytest.raises(ValueError, match="rise strictly"):
            mean_pool_packed(torch.ones(8, 2), torch.tensor(bounds))


def test_many_small_blocks_that_bring_few_candidates_each_give_no_row_up() -> None:
    """Together they bring more than the cap, of which few reach the k-th best of all."""
    rows, k, block, blocks = 1000, 4, 256, 400
    scores = torch.rand(block * blocks, rows, generator=torch.Generator().manual_seed(1))
    shortlist = Shortlist(rows, k, 64, scores.device)
    for start in range(0, len(scores), block):
        shortlist.collect(scores[start : start + block], torch.zeros(rows), 2.0**-24, 0, start)
    row, column = shortlist.finish()
    assert not shortlist.failed.any()
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[column, row] = True
    assert kept.gather(0, scores.topk(k, dim=0).indices).all() and int(kept.sum()) <= 2 * k * rows
