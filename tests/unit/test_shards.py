"""A checkpoint's files hold about as many bytes each, every row once, and whoever reads them gets whole tensors."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stilts_ds.engine.shards import ROWS_FROM, StoredTensors, index_of, pieces_of_ranks

# XLM-R Large with a language modelling head, by its parts: half of it is one matrix.
LARGE = {"embeddings": (250_002, 1024), **{f"layer.{number}": (1024, 12 * 1024) for number in range(24)}}
SMALL = {"head@typo-5.weight": (3, 4), "table": (7, 3), "bias": (5,), "scale": (), "matrix": (4, 6)}


@pytest.mark.parametrize("shapes", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 64])
def test_each_row_is_written_once(shapes: dict[str, tuple[int, ...]], ranks: int) -> None:
    dealt = pieces_of_ranks(shapes, ranks)
    assert len(dealt) == ranks
    for name, shape in shapes.items():
        runs = sorted((piece.first, piece.stop) for of_rank in dealt for piece in of_rank if piece.name == name)
        rows = shape[0] if shape else 1
        assert [first for first, _ in runs] == [0, *[stop for _, stop in runs[:-1]]] and runs[-1][1] == rows
        if ranks == 1:  # the files of one rank stay what they were
            assert runs == [(0, rows)]


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_no_rank_writes_much_more_than_its_share(ranks: int) -> None:
    """By parameter, one rank would write 46 % of the whole, at whatever number of ranks."""
    share = sum(map(math.prod, LARGE.values())) / ranks
    for of_rank in pieces_of_ranks(LARGE, ranks):
        size = sum((piece.stop - piece.first) * math.prod(LARGE[piece.name][1:]) for piece in of_rank)
        assert size < 2 * share
    if ranks == 2:
        assert size == pytest.approx(share, rel=0.05)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_what_is_read_is_what_was_written(ranks: int, tmp_path: Path) -> None:
    whole = {name: torch.randn(shape) for name, shape in SMALL.items()}
    names = []
    for rank, pieces in enumerate(pieces_of_ranks(SMALL, ranks)):
        tensors = {}
        for name, first, stop in pieces:
            rows = (SMALL[name] or (1,))[0]
            is_whole = stop - first == rows
            key = f"weight/{name}" if is_whole else f"weight/{name}{ROWS_FROM}{first}"
            tensors[key] = whole[name] if is_whole else whole[name][first:stop].clone()
        names.append(f"{rank}.safetensors")
        save_file(tensors, tmp_path / names[-1])
    with StoredTensors(tmp_path, index_of(tmp_path, names)) as stored:
        assert stored.names("weight") == sorted(SMALL) and not stored.names("exp_avg")
        for name, value in whole.items():
            assert torch.equal(stored.whole("weight", name), value), name
            for first, stop in itertools.combinations(range(value.numel() + 1), 2):
                assert torch.equal(stored.numbers("weight", name, first, stop), value.flatten()[first:stop])
            assert not stored.numbers("weight", name, 0, 0).numel()


def test_files_of_earlier_versions_hold_every_second_parameter_whole(tmp_path: Path) -> None:
    whole = {f"weight/{name}": torch.randn(shape) for name, shape in SMALL.items()}
    for rank in range(2):
        save_file(dict(list(whole.items())[rank::2]), tmp_path / f"{rank}.safetensors")
    with StoredTensors(tmp_path, index_of(tmp_path, ["0.safetensors", "1.safetensors"])) as stored:
        assert stored.names("weight") == sorted(SMALL)
        assert all(torch.equal(stored.whole("weight", name), whole[f"weight/{name}"]) for name in SMALL)


def test_of_other_files_than_those_with_its_numbers_none_is_opened(tmp_path: Path) -> None:
    """A rank opens a few of the files of thousands of ranks."""
    table = torch.arange(24.0).view(8, 3)
    for number in range(4):
        rows = table[2 * number : 2 * number + 2].clone()
        save_file({f"exp_avg/table{ROWS_FROM}{2 * number}": rows}, tmp_path / f"{number}.safetensors")
    index = index_of(tmp_path, [f"{number}.safetensors" for number in range(4)])
    for number in (0, 2, 3):
        (tmp_path / f"{number}.safetensors").unlink()
    with StoredTensors(tmp_path, index) as stored:
        assert stored.numbers("exp_avg", "table", 7, 12).tolist() == [7, 8, 9, 10, 11]
