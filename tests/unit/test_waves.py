"""Which pairs of languages a rank predicts alone, and how what one rank raises ends all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.engine.preempt import Stopped
from stilts_ds.errors import UserError
from stilts_ds.evaluate.embedding import CHUNK, batch_count, batches, passes, share_of
from stilts_ds.evaluate.waves import LARGE, divide, do_or_raise_together, pairs_of


def test_small_pairs_go_to_ranks_longest_first() -> None:
    sizes = [10, None, 300, LARGE + 1, 20, 200, 20, LARGE]
    waves, together = divide(sizes, 2)
    assert waves == [[7, 2], [5, 4], [6, 0]] and together == [1, 3]
    assert divide(sizes, 1) == ([], list(range(8)))


def test_what_would_leave_ranks_idle_is_shared() -> None:
    """A pair of several chunks; one of a single chunk cannot be shared, whoever embeds it."""
    assert divide([CHUNK + 1, 5], 3) == ([[1]], [0])
    assert divide([CHUNK + 1], 2) == ([], [0])
    assert divide([], 4) == ([], [])


def test_dev_and_test_of_a_language_stay_together() -> None:
    def split(task: str, name: str, language: str, size: int | None) -> Any:
        rows = None if size is None else lambda *_: size
        task_of = SimpleNamespace(name=task)
        return SimpleNamespace(task=task_of, name=name, language=language, family=SimpleNamespace(searched_rows=rows))

    splits = [
        split("bucc2018", "dev", "de", 7),
        split("bucc2018", "dev", "fr", 5),
        split("bucc2018", "test", "de", 9),
        split("xnli", "test", "de", None),
    ]
    pairs = pairs_of(splits)
    assert [[(s.name, s.language) for s in pair.splits] for pair in pairs] == [
        [("dev", "de"), ("test", "de")],
        [("dev", "fr")],
        [("test", "de")],
    ]
    assert [pair.size(TrainingPart(), EvaluationPart()) for pair in pairs] == [9, 5, None]


@pytest.mark.parametrize("count, size", [(1, 1), (CHUNK, 3), (CHUNK + 1, 2), (10 * CHUNK - 5, 4), (0, 2)])
def test_ranks_share_whole_chunks(count: int, size: int) -> None:
    shares = [share_of(count, rank, size) for rank in range(size)]
    assert shares[0][0] == 0 and shares[-1][1] == count
    assert all(before[1] == after[0] for before, after in zip(shares, shares[1:]))
    assert all(first % CHUNK == 0 or first == count for first, _ in shares)
    chunks = [-(-(stop - first) // CHUNK) for first, stop in shares]
    assert max(chunks) - min(chunks) <= 1
    assert sum(batch_count(first, stop, 32) for first, stop in shares) == batch_count(0, count, 32)


def test_batches_hold_every_sentence_once_longest_first() -> None:
    import numpy as np

    lengths = np.array([3, 9, 9, 1, 4])
    assert [batch.tolist() for batch in batches(lengths, 2)] == [[1, 2], [4, 0], [3]]
    assert batch_count(0, 2 * CHUNK + 5, 100) == 41 + 41 + 1


class TwoRanks:
    """A world in which the other rank said `other`."""

    def __init__(self, *other: str) -> None:
        self.other = other or ("", "")

    def all_gather(self, value: Any) -> list[Any]:
        return [value, self.other]

    def agree(self, error: BaseException | None, what: str) -> None:
        if error is not None:
            raise error
        if self.other[0]:
            raise RuntimeError(f"{what} failed on rank 1: {self.other[1]}")


def raising(error: Exception) -> Any:
    def work() -> None:
        raise error

    return work


def test_what_one_rank_raises_ends_all() -> None:
    assert do_or_raise_together(TwoRanks(), lambda: 7) == 7  # type: ignore[arg-type]
    for mine, other, expected, text in (
        (UserError("bad file"), (), UserError, "bad file"),
        (None, ("input", "their file"), UserError, "their file"),
        (None, ("stop", "SIGTERM"), Stopped, "SIGTERM"),
        (Stopped("SIGINT"), ("input", "their file"), UserError, "their file"),
        (KeyError("oops"), (), KeyError, "oops"),
        (None, ("other", "oops"), RuntimeError, "predicting a pair of languages failed on rank 1: oops"),
    ):
        work = raising(mine) if mine is not None else (lambda: 1)
        with pytest.raises(expected, match=text):
            do_or_raise_together(TwoRanks(*other), work)  # type: ignore[arg-type]


def test_a_pass_holds_so_many_tokens_or_one_longer_row() -> None:
    def cut(*lengths: int) -> list[list[int]]:
        return [list(lengths[some]) for some in passes(np.array(lengths, int), 100)]

    assert cut(300, 60, 40, 40, 1) == [[300], [60, 40], [40, 1]]
    assert cut(100) == [[100]] and cut(101, 101) == [[101], [101]]
    # A batch without rows still goes through the network, which says how wide its vectors are.
    assert cut() == [[]]
