"""Neighbours by way of the approximate index: exact scores, whatever the ranks, the stops and the lists read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stilts_kernels import topk
from stilts_kernels.common.collectives import Collectives

from stilts_ds.errors import UserError
from stilts_ds.mining import MiningSettings, candidates, mine
from stilts_ds.mining.candidates import CandidateSearch, IndexSettings, SideRows, build_index, neighbours_by_index

pytest.importorskip("faiss", reason="faiss-cpu is an optional extra")
ROWS, WIDTH, K, NLIST = 600, 16, 4, 15


class Rank(Collectives):
    """One of `size` ranks whose messages all say the same; what they share lies in files."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def gather(self, item: Any) -> list[Any]:
        return [item] * self.size


@pytest.fixture(autouse=True)
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three files of an index, five blocks of queries."""
    monkeypatch.setattr(candidates, "INDEX_ROWS", 250)
    monkeypatch.setattr(candidates, "QUERY_ROWS", 130)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Targets translate the sources; some rows stand twice, and all share a mean."""
    generator = np.random.default_rng(1)
    source = generator.normal(size=(ROWS, WIDTH)).astype(np.float32) + 2
    source[300:320] = source[:20]
    target = source[generator.permutation(ROWS)] + generator.normal(0, 0.3, (ROWS, WIDTH)).astype(np.float32)
    for name, rows in (("x", source), ("y", target)):
        np.save(tmp_path / f"{name}.npy", rows)
    return tmp_path / "x.npy", tmp_path / "y.npy"


def opened(sides: tuple[Path, Path]) -> list[SideRows]:
    return [
        SideRows(name, torch.from_numpy(np.load(path)), np.arange(ROWS))
        for name, path in zip(("source", "target"), sides)
    ]


def search_of(folder: Path, nprobe: int, rank: int = 0, size: int = 1) -> CandidateSearch:
    folder.mkdir(exist_ok=True)
    return CandidateSearch(Rank(rank, size), K, IndexSettings(NLIST, nprobe), folder, "key", lambda done, total: None)


def test_all_lists_give_the_exact_pairs(sides: tuple[Path, Path], tmp_path: Path) -> None:
    mine(*sides, tmp_path / "exact.tsv")
    mine(*sides, tmp_path / "all.tsv", settings=MiningSettings(neighbours="ivf", nlist=NLIST, nprobe=NLIST))
    assert (tmp_path / "all.tsv").read_bytes() == (tmp_path / "exact.tsv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.tsv", "exact.tsv", "x.npy", "y.npy"]


def test_few_lists_miss_neighbours_and_no_score_is_approximate(sides: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = opened(sides)
    exact = topk(source.vectors, target.vectors, ROWS, "cosine")
    recalls = []
    for nprobe in (1, 4):
        found, _ = neighbours_by_index(search_of(tmp_path / str(nprobe), nprobe), source, target)
        assert (found.values.diff(dim=1) <= 0).all()
        right = [set(ours) & set(theirs) for ours, theirs in zip(found.indices.tolist(), exact.indices[:, :K].tolist())]
        recalls.append(sum(map(len, right)) / (K * ROWS))
        by_row = torch.empty_like(exact.values).scatter_(1, exact.indices, exact.values)
        assert torch.equal(found.values.float(), by_row.gather(1, found.indices))
    assert 0.2 < recalls[0] < recalls[1] < 1


def test_a_query_that_meets_too_few_candidates_is_searched_exactly(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = opened(sides)
    asked = candidates.OpenIndex.candidates

    def without_some(*arguments: Any) -> torch.Tensor:
        found = asked(*arguments)
        found[::2, 2:] = -1
        return found

    monkeypatch.setattr(candidates.OpenIndex, "candidates", without_some)
    found, _ = neighbours_by_index(search_of(tmp_path / "work", 1), source, target)
    exact = topk(source.vectors, target.vectors, K, "cosine")
    short = torch.arange(ROWS) % 130 % 2 == 0  # even rows of each block
    assert torch.equal(found.indices[short], exact.indices[short])
    assert torch.equal(found.values[short].float(), exact.values[short])
    assert not torch.equal(found.indices, exact.indices)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_any_number_of_ranks_finds_the_same(size: int, sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Seven ranks are more than there are blocks."""
    source, target = opened(sides)
    alone = neighbours_by_index(search_of(tmp_path / "alone", 2), source, target)
    searches = [search_of(tmp_path / "ranks", 2, rank, size) for rank in range(size)]
    for search in searches:
        for bank in (source, target):
            build_index(search, bank)
    found = [neighbours_by_index(search, source, target) for search in searches]
    for side in (0, 1):
        for part in (0, 1):
            assert torch.equal(torch.cat([of_rank[side][part] for of_rank in found]), alone[side][part])


def test_a_stopped_search_asks_only_what_is_left(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = opened(sides)
    expected = neighbours_by_index(search_of(tmp_path / "whole", 2), source, target)
    asked = candidates.OpenIndex.candidates
    blocks: list[int] = []

    def counted(*arguments: Any) -> torch.Tensor:
        blocks.append(1)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return asked(*arguments)

    monkeypatch.setattr(candidates.OpenIndex, "candidates", counted)
    with pytest.raises(KeyboardInterrupt):
        neighbours_by_index(search_of(tmp_path / "work", 2), source, target)
    written = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.faiss")}
    found = neighbours_by_index(search_of(tmp_path / "work", 2), source, target)
    assert len(blocks) == 3 + 10 - 2  # five blocks a direction, two of them kept
    assert all((tmp_path / "work" / name).stat().st_mtime_ns == time for name, time in written.items())
    assert all(torch.equal(ours, theirs) for side in (0, 1) for ours, theirs in zip(found[side], expected[side]))


def test_settings_that_cannot_be_are_named(
    sides: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for settings, message in (
        (MiningSettings(neighbours="hnsw"), "unknown neighbours 'hnsw'"),
        (MiningSettings(nprobe=4), "nlist and nprobe belong to the approximate index"),
        (MiningSettings(neighbours="ivf", nprobe=0), "nprobe 0: give 1 or more"),
        (MiningSettings(neighbours="ivf", nlist=601), "nlist 601: target has 600 sentences; give no more lists"),
    ):
        with pytest.raises(UserError, match=message):
            mine(*sides, tmp_path / "pairs.tsv", settings=settings)
    monkeypatch.setattr(candidates, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs FAISS, .* pip install 'stilts-ds\[index\]', or take the exact search"):
        mine(*sides, tmp_path / "pairs.tsv", settings=MiningSettings(neighbours="ivf"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npy", "y.npy"]
