"""Canonical scores and rankings by the extension: the bits and the order of torch's."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import gaussian
from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.ranking import rank_within_rows
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk.int8 import exact, library

SETS = library.instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason=library.problem() or "no int8 screen")


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 40), st.integers(1, 60), st.integers(0, 9000), st.booleans())
def test_exact_scores_are_canonical_to_the_bit(dim: int, queries: int, rows: int, pairs: int, strided: bool) -> None:
    """Of any pairs in any order; rows of all sizes, so that another order of a sum has other bits."""
    left, right = (gaussian(count, dim + 3, count).pow(3) for count in (queries, rows))
    left, right = (side[:, 3:] if strided else side[:, 3:].contiguous() for side in (left, right))
    generator = torch.Generator().manual_seed(pairs)
    each = torch.randint(0, queries * rows, (pairs,), generator=generator).unique()
    each = each[torch.randperm(len(each), generator=generator)]
    sides_of_pairs = Rows(left, "l"), Rows(right, "r"), each // rows, each % rows
    assert torch.equal(exact.exact_scores(*sides_of_pairs), canonical_scores(*sides_of_pairs))


@pytest.mark.parametrize("isa", SETS)
@pytest.mark.parametrize("width", exact.WIDTHS)
@pytest.mark.parametrize("dim", [1, 7, 8, 33, 384])
def test_sums_are_added_side_by_side_and_then_one_after_the_other(dim: int, width: int, isa: int) -> None:
    """The order itself, whatever this machine's torch has: a column of sums by rows of `width` products."""
    left, right = (gaussian(9, dim, seed).pow(3) for seed in (1, 2))
    each = torch.arange(9)
    products = torch.nn.functional.pad(left.double() * right.double(), (0, -dim % width)).view(9, -1, width)
    lanes = products[:, 0]
    for row in products.unbind(1)[1:]:
        lanes = lanes + row
    expected = lanes[:, 0]
    for lane in lanes.unbind(1)[1:]:
        expected = expected + lane
    assert torch.equal(exact.dots(left, right, each, each, width, isa), expected)


def test_scores_of_an_unknown_order_are_left_to_torch_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left, right, each = gaussian(9, 100, 1), gaussian(9, 100, 2), torch.arange(9)
    expected = canonical_scores(Rows(left, "l"), Rows(right, "r"), each, each)
    monkeypatch.setattr(exact, "sampled_dots", lambda a, counts, b, column: (a * b[column]).flip(1).cumsum(1)[:, -1])
    exact.torch_width.cache_clear()
    with caplog.at_level(logging.INFO):
        assert exact.torch_width(100, SETS[-1]) == 0
    assert "torch adds up 100 products in an order that the extension does not know" in caplog.text
    monkeypatch.setattr(exact, "dots", None)  # would fail if it were called
    assert torch.equal(exact.exact_scores(Rows(left, "l"), Rows(right, "r"), each, each), expected)
    exact.torch_width.cache_clear()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 200), st.integers(0, 1000))
def test_ranked_pairs_equal_those_of_torch(rows: int, k: int, pairs: int, seed: int) -> None:
    """With ties, zeros of both signs, and rows of fewer than k pairs."""
    generator = torch.Generator().manual_seed(seed)
    each = torch.randint(0, rows * 40, (pairs,), generator=generator).unique()
    row, column = each // 40, each % 40
    score = torch.randint(-2, 3, (len(each),), generator=generator).double() * (1 - 2 * (column % 2))
    order, position = rank_within_rows(row, score)
    order, position = order[position < k], position[position < k]
    values, indices = torch.full((2, rows, k), -torch.inf, dtype=torch.float64)[0], torch.full((rows, k), -1)
    expected = values.clone(), indices.clone()
    expected[0][row[order], position], expected[1][row[order], position] = score[order], column[order]
    shuffled = torch.randperm(len(each), generator=generator)
    exact.rank_pairs(row[shuffled], column[shuffled], score[shuffled], values, indices)
    assert torch.equal(values, expected[0]) and torch.equal(indices, expected[1])
