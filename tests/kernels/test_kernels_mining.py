"""Two-way mining against a float64 reference that follows LASER's definitions one pair at a time."""

from __future__ import annotations

import math

import pytest
import torch
from kernel_cases import anisotropic, check_topk, gaussian, poison_allocator
from stilts_kernels import last_report, mine
from stilts_kernels.common.ranking import Ranked, merge_in_any_order, numbered_from
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining import two_way as two_way_module
from stilts_kernels.mining.match import RETRIEVALS, MinedPairs, one_to_one
from stilts_kernels.mining.two_way import TwoWaySearch, two_way
from stilts_kernels.topk import reference
from stilts_kernels.topk.cpu import DEFAULT_MEMORY
from stilts_kernels.topk.int8 import library
from torch import Tensor

Pair = tuple[int, int, float]


def margin_of(a: float, b: float, margin: str) -> float:
    return {"ratio": a / b if b else -math.inf, "distance": a - b, "absolute": a}[margin]


def mine_slowly(source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str) -> list[Pair]:
    """LASER's mine_bitexts.py, written out as loops over float64 scores."""
    scores = reference.scores(source, target, metric)
    ahead, back = reference.topk_of(scores, k), reference.topk_of(scores.T, k)
    own, other = ahead[0].mean(1).tolist(), back[0].mean(1).tolist()

    def score(i: int, j: int) -> float:
        return margin_of(float(scores[i, j]), (own[i] + other[j]) / 2, margin)

    best_ahead = [max((score(i, j), -j) for j in ahead[1][i].tolist()) for i in range(len(source))]
    best_back = [max((score(i, j), -i) for i in back[1][j].tolist()) for j in range(len(target))]
    forward = [(i, -j, s) for i, (s, j) in enumerate(best_ahead)]
    backward = [(-i, j, s) for j, (s, i) in enumerate(best_back)]
    if retrieval == "intersect":
        return rank([pair for pair in forward if backward[pair[1]][0] == pair[0]])
    if retrieval != "max":
        return rank(forward if retrieval == "forward" else backward)
    taken: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for i, j, s in rank(forward + backward):
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            pairs.append((i, j, s))
    return pairs


def rank(pairs: list[Pair]) -> list[Pair]:
    return sorted(pairs, key=lambda pair: (-pair[2], pair[0], pair[1]))


def check_mined(source: Tensor, target: Tensor, k: int, margin: str, retrieval: str, metric: str = "cosine") -> None:
    poison_allocator()
    found = mine(source, target, k, margin, retrieval, metric)
    expected = mine_slowly(source, target, k, margin, retrieval, metric)
    assert found.source.tolist() == [pair[0] for pair in expected]
    assert found.target.tolist() == [pair[1] for pair in expected]
    scores = torch.tensor([pair[2] for pair in expected], dtype=torch.float64)
    assert torch.allclose(found.score.double(), scores, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("retrieval", RETRIEVALS)
@pytest.mark.parametrize("margin", ["ratio", "distance", "absolute"])
def test_every_margin_and_retrieval(margin: str, retrieval: str) -> None:
    source, target = gaussian(61, 24, 1) + 0.5, gaussian(307, 24, 2) + 0.5
    source[:30] = target[100:130] + 0.3 * source[:30]
    check_mined(source, target, 4, margin, retrieval)


@pytest.mark.parametrize("shape", [(1, 1, 3, 1), (1, 40, 5, 1), (67, 3, 9, 3), (1030, 45, 16, 2), (5, 4100, 8, 5)])
def test_awkward_shapes(shape: tuple[int, int, int, int]) -> None:
    rows, columns, dim, k = shape
    check_mined(gaussian(rows, dim, 1) + 1, gaussian(columns, dim, 2) + 1, k, "distance", "max")


def test_both_directions_are_exact_and_certified() -> None:
    source, target = anisotropic(1100, 64, 1), anisotropic(4500, 64, 2)
    forward, backward = two_way(Rows(source, "source"), Rows(target, "target"), 4, 6)
    report = last_report()
    assert report is not None and report.certified == report.rows == 5600
    check_topk(source, target, 4, "inner", forward.values.float(), forward.indices)
    check_topk(target, source, 6, "inner", backward.values.float(), backward.indices)


def test_result_does_not_depend_on_memory() -> None:
    """40 MiB cut both sides; equal rows stand in every part, more of them than a row may collect."""
    source, target = gaussian(9700, 8, 1), gaussian(200, 8, 2).repeat(80, 1)
    target[::30] = source[:1] = source[9600:] = target[7]
    sides = Rows(source, "source"), Rows(target, "target")
    whole, tight = (two_way(*sides, 4, 6, "bfloat16", memory=memory) for memory in (DEFAULT_MEMORY, 40 << 20))
    report = last_report()
    assert report is not None and report.certified < report.rows == 25_700
    for one, other in zip(whole, tight):
        assert torch.equal(one.values, other.values) and torch.equal(one.indices, other.indices)


SCREENS = ["float32", "bfloat16", *(["int8"] if library.instruction_sets() else [])]


def no_lists(rows: int, k: int) -> Ranked:
    return torch.full((rows, k), -torch.inf, dtype=torch.float64), torch.full((rows, k), -1)


def in_blocks(source: Tensor, target: Tensor, k: int, screen: str, unit: bool, cuts: int) -> list[Ranked]:
    """Both directions from blocks of both sides, each told what earlier blocks gave; blocks in falling order."""
    forward, backward = no_lists(len(source), k), no_lists(len(target), k)
    for rows in torch.arange(len(source)).tensor_split(2)[::-1]:
        search = TwoWaySearch(Rows(source[rows], "source", unit), k, k, screen)
        for columns in torch.arange(len(target)).tensor_split(cuts)[::-1]:
            known = forward[0][rows], backward[0][columns]
            block = Rows(target[columns], "target", unit)
            for lists, some, fresh, first in zip(
                (forward, backward), (rows, columns), search(block, known), (columns[0], rows[0])
            ):
                merged = merge_in_any_order(
                    (lists[0][some], lists[1][some]), numbered_from((fresh[0], fresh[1]), int(first)), k
                )
                lists[0][some], lists[1][some] = merged
    return [forward, backward]


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("kind", ["mean", "equal", "nearly equal", "far", "inner"])
def test_known_scores_spare_no_neighbour(kind: str, screen: str) -> None:
    """Blocks of fewer rows than k, ties across blocks, encoders whose vectors are one, centres that cancel out."""
    source, target = gaussian(90, 24, 1), gaussian(130, 24, 2)
    source[:40] = target[50:90] + 0.2 * source[:40]
    if kind == "mean":
        source, target = source + 2, target + 2
    if kind == "equal":  # every score is the same number: only indices decide
        source, target = source[:1].repeat(90, 1), source[:1].repeat(130, 1)
    if kind == "nearly equal":
        source, target = 1 + 1e-7 * source, 1 + 1e-7 * target
    if kind == "far":  # the means are at right angles: scores about 0 of large vectors
        source[:, 0] += 50
        target[:, 1] += 50
    target[100:110] = target[:10]
    source[60:70] = source[:10]
    unit = kind != "inner"
    whole = two_way(Rows(source, "source", unit), Rows(target, "target", unit), 5, 5, "float32")
    for cuts in (3, 33):
        for ours, theirs in zip(in_blocks(source, target, 5, screen, unit, cuts), whole):
            assert torch.equal(ours[0], theirs.values) and torch.equal(ours[1], theirs.indices)


@pytest.mark.parametrize("screen", SCREENS)
def test_a_source_is_prepared_once_and_known_scores_spare_pairs(screen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[int] = []
    prepare = two_way_module.prepare_source
    monkeypatch.setattr(two_way_module, "prepare_source", lambda *given: prepared.append(1) or prepare(*given))
    source, target = anisotropic(600, 64, 1), anisotropic(2400, 64, 2)
    search = TwoWaySearch(Rows(source, "source"), 4, 4, screen)
    scored: dict[bool, float] = {}
    for told in (False, True):
        best = no_lists(600, 4)
        scored[told] = 0
        for first in range(0, 2400, 300):
            block = target[first : first + 300]
            ahead, _ = search(Rows(block, "target"), (best[0], no_lists(300, 4)[0]) if told else None)
            best = merge_in_any_order(best, numbered_from((ahead.values, ahead.indices), first), 4)
            report = last_report()
            assert report is not None
            scored[told] += report.survivors_per_row * report.rows
    assert len(prepared) == 1
    # The 8 x 300 targets' own 4 pairs stay; of the sources' 8 x 600 x 4, about 4 (1 + 1/2 + ... + 1/8) a row.
    assert scored[True] < 0.75 * scored[False]


def test_a_source_beyond_the_memory_is_prepared_for_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[int] = []
    prepare = two_way_module.prepare_source
    monkeypatch.setattr(two_way_module, "prepare_source", lambda *given: prepared.append(1) or prepare(*given))
    search = TwoWaySearch(Rows(gaussian(9700, 8, 1), "source"), 4, 4, "bfloat16", memory=40 << 20)
    for seed in (2, 3):
        search(Rows(gaussian(50, 8, seed), "target"))
    passes = -(-9700 // search.source_rows)
    assert passes > 1 and len(prepared) == 2 * passes


def test_greedy_matching_equals_going_down_the_list() -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(50):
        pairs = MinedPairs(*(torch.randint(0, 40, (90,), generator=generator) for _ in range(2)), torch.zeros(90))
        expected: list[tuple[int, int]] = []
        seen: tuple[set[int], set[int]] = (set(), set())
        for source, target in zip(pairs.source.tolist(), pairs.target.tolist()):
            if source not in seen[0] and target not in seen[1]:
                expected.append((source, target))
                seen[0].add(source)
                seen[1].add(target)
        found = one_to_one(pairs)
        assert list(zip(found.source.tolist(), found.target.tolist())) == expected


def test_equal_sentences_match_lowest_first() -> None:
    """Duplicates on both sides: pairs come out in order, one to one, with the same score."""
    rows = torch.eye(6).repeat(3, 1)
    found = mine(rows, rows, 3, "distance", "max")
    assert found.source.tolist() == found.target.tolist() == list(range(6))
    assert set(found.score.tolist()) == {0.0}


def test_more_ties_than_any_cap() -> None:
    found = mine(torch.ones(20, 3), torch.ones(300, 3), 2, "ratio", "forward")
    assert found.source.tolist() == list(range(20)) and set(found.target.tolist()) == {0}


def test_zero_denominator_ranks_last() -> None:
    source, target = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0], [0.0, 3.0]])
    found = mine(source, target, 1, "ratio", "forward")
    assert found.source.tolist() == [1, 0]


@pytest.mark.parametrize(
    "arguments, text",
    [
        ((gaussian(3, 4, 1), gaussian(9, 4, 1), 4), "k = 4 is outside 1..3, the number of rows of source"),
        ((gaussian(9, 4, 1), gaussian(3, 4, 1), 4), "k = 4 is outside 1..3, the number of rows of target"),
        ((torch.zeros(3, 4), gaussian(9, 4, 1), 2), "source: row 0 is a zero vector"),
        ((gaussian(3, 4, 1), gaussian(9, 5, 1), 2), "D = 4"),
        ((gaussian(3, 4, 1), gaussian(9, 4, 1), 2, "log"), "margin 'log'"),
        ((gaussian(3, 4, 1), gaussian(9, 4, 1), 2, "ratio", "best"), "retrieval 'best'"),
    ],
)
def test_bad_input_is_refused(arguments: tuple, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        mine(*arguments)
