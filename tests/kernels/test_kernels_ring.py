"""The ring of blocks on one process: blocks of any size, merges of equal scores, and what is kept for a later start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch
from kernel_cases import gaussian
from stilts_kernels import mine
from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.ranking import merge_in_any_order
from stilts_kernels.mining import ring
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.ranks import neighbours_ranks, pairs_of_ranks
from stilts_kernels.mining.state import SearchState
from torch import Tensor

K = 4


@pytest.fixture
def sides() -> tuple[Tensor, Tensor]:
    """Equal rows stand in blocks of their own."""
    source, target = gaussian(50, 16, 1), gaussian(61, 16, 2)
    target[40:50] = target[:10]
    source[30:40] = source[:10] = target[:10] + 0.1 * source[:10]
    return source, target


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_rows(rows: int) -> None:
        monkeypatch.setattr(Layout, "target_rows", rows)

    return set_rows


@pytest.mark.parametrize("rows", [1, 7, 60, 61, 100])
def test_blocks_of_any_size_give_the_same_pairs(
    rows: int, sides: tuple[Tensor, Tensor], small_blocks: Callable[[int], None]
) -> None:
    small_blocks(rows)
    found = pairs_of_ranks(None, *neighbours_ranks(*sides, K, None), "ratio", "max")
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, mine(*sides, K)))


def test_equal_scores_keep_the_lower_index_in_any_order() -> None:
    first = torch.tensor([[3.0, 1.0]]), torch.tensor([[7, 9]])
    second = torch.tensor([[3.0, 3.0, -torch.inf]]), torch.tensor([[2, 8, -1]])
    for left, right in ((first, second), (second, first)):
        values, indices = merge_in_any_order(left, right, 4)
        assert values.tolist() == [[3.0, 3.0, 3.0, 1.0]] and indices.tolist() == [[2, 7, 8, 9]]


def test_a_search_goes_on_behind_the_blocks_that_are_kept(
    sides: tuple[Tensor, Tensor], small_blocks: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in the third of seven blocks, then continued: five searches are left, and the bits are the same.
    Another question, or a damaged file, starts anew."""
    small_blocks(9)
    searched: list[int] = []
    search = ring.search_block

    def counted(*arguments: Any) -> Any:
        searched.append(1)
        if len(searched) == 3:
            raise KeyboardInterrupt
        return search(*arguments)

    monkeypatch.setattr(ring, "search_block", counted)
    with pytest.raises(KeyboardInterrupt):
        neighbours_ranks(*sides, K, None, state=SearchState(tmp_path, "question", seconds=0))
    assert [path.name for path in tmp_path.iterdir()] == ["search-0-of-1-00000002.pt"]
    found = neighbours_ranks(*sides, K, None, state=SearchState(tmp_path, "question", seconds=1e9))
    assert len(searched) == 3 + 5
    expected = neighbours_ranks(*sides, K, None)
    for ours, theirs in zip(found, expected):
        assert torch.equal(ours.values, theirs.values) and torch.equal(ours.indices, theirs.indices)
    before = len(searched)
    neighbours_ranks(*sides, K, None, state=SearchState(tmp_path, "another", seconds=1e9))
    assert len(searched) - before == 7
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = len(searched)
    neighbours_ranks(*sides, K, None, state=SearchState(tmp_path, "question", seconds=1e9))
    assert len(searched) - before == 7


def test_a_search_can_be_stopped_between_two_hops(
    sides: tuple[Tensor, Tensor], small_blocks: Callable[[int], None]
) -> None:
    small_blocks(20)
    seen = []

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        neighbours_ranks(*sides, K, None, progress=stop)
    assert seen == [(1, 4), (2, 4)]


def test_one_process_shifts_to_itself() -> None:
    incoming = torch.empty(3)
    Collectives().shift(torch.arange(3.0), incoming).wait()
    assert incoming.tolist() == [0, 1, 2]


INTERPRETED = """
import torch
from kernel_cases import gaussian
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining import ring
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.ranks import neighbours_ranks
from stilts_kernels.topk.cuda import two_way_cuda

source, target = gaussian(21, 16, 1), gaussian(34, 16, 2)
source[:6] = target[:6] + 0.1 * source[:6]
target[20:26] = target[:6]
whole = two_way_cuda(Rows(source, "source", True), Rows(target, "target", True), 4, 4)
ring.takes_fused_kernel = lambda device: True
for rows in (10, 34):
    Layout.target_rows = rows
    found = neighbours_ranks(source, target, 4, None)
    for ours, theirs in zip(found, whole):
        assert torch.equal(ours.values, theirs[0]) and torch.equal(ours.indices, theirs[1]), rows
print("equal")
"""


@pytest.mark.processes
def test_the_fused_kernel_searches_blocks_to_the_same_bits() -> None:
    """Under the interpreter, in a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    pytest.importorskip("triton")
    environment = ranks.environment(TRITON_INTERPRET="1")
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, text=True, capture_output=True, timeout=240
    )
    assert done.returncode == 0 and done.stdout == "equal\n", done.stderr[-2000:]
