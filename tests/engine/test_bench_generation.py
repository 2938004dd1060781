"""The benchmark of writing programs: what it times is the same in both ways, and it says so where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from stilts_bench.generation import Pair, check_equal, measure

from stilts_ds.errors import UserError

pytestmark = pytest.mark.long


def test_both_ways_write_the_same_greedily_and_with_the_same_draws(tmp_path: Path) -> None:
    """Samples end at different tokens; `measure` times both only after that."""
    pair = Pair(tmp_path, problems=3, samples=4, tokens=10, length=5)
    results = measure(pair, repeat=1)
    assert [result["way"] for result in results] == ["transformers, one problem at a time", "ours"]
    assert results[0]["ratio"] == 1 and all(result["tokens_per_second"] > 0 for result in results)
    lengths = {len(ids) for of_problem in pair.write(0.8, 4) for ids in of_problem}
    assert len(lengths) > 2 and max(lengths) <= 10


def test_other_weights_are_refused_before_anything_is_timed(tmp_path: Path) -> None:
    pair = Pair(tmp_path, problems=2, samples=2, tokens=8, length=0)
    pair.ours.word_embedding.data += 0.3
    with pytest.raises(UserError, match="greedy tokens of . of 2 problems are not those of transformers"):
        check_equal(pair, 2)
