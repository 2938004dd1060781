"""RP@k, RD@k and RR@k on verdicts whose answers are counted by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from stilts_ds.errors import UserError
from stilts_ds.evaluate.recode import robustness


def test_greedy_verdicts_are_shares_of_problems() -> None:
    nominal = np.array([[1], [1], [0], [0]], bool)
    # Right on both prompts; wrong on one; right on one; wrong on both.
    perturbed = np.array([[[1], [1]], [[1], [0]], [[0], [1]], [[0], [0]]], bool)
    found = robustness(nominal, perturbed, 1)
    assert (found.passed, found.robust, found.drop, found.relative) == (0.5, 0.25, 0.5, 0.5)


def test_of_five_samples_any_two_may_be_chosen() -> None:
    """Against a count of all choices of two samples, and a sample of problems of every kind."""
    dice = np.random.default_rng(3)
    nominal, perturbed = dice.random((20, 5)) < 0.6, dice.random((20, 3, 5)) < 0.7
    found = robustness(nominal, perturbed, 2)

    def by_choices(right: np.ndarray) -> float:
        pairs = list(itertools.combinations(range(5), 2))
        return float(np.mean([[row[list(pair)].any() for pair in pairs] for row in right]))

    worst, best = perturbed.all(axis=1), perturbed.any(axis=1)
    assert found.passed == pytest.approx(by_choices(nominal)) and found.robust == pytest.approx(by_choices(worst))
    assert found.drop == pytest.approx(1 - by_choices(worst) / by_choices(nominal))
    assert found.relative == pytest.approx(by_choices(nominal & ~worst) + by_choices(~nominal & best))


def test_nothing_right_has_no_drop_and_one_unperturbed_prompt_none_at_all() -> None:
    none = np.zeros((3, 1), bool)
    assert robustness(none, none[:, None], 1).drop is None
    right = np.array([[1, 0], [1, 1]], bool)
    found = robustness(right, right[:, None], 1)
    assert (found.robust, found.drop, found.relative) == (found.passed, 0.0, 0.0)


def test_verdicts_that_do_not_belong_together_are_refused() -> None:
    right = np.ones((2, 1), bool)
    with pytest.raises(UserError, match="2 problems x 1 sample, but perturbed ones of 3 problems x 1 sample"):
        robustness(right, np.ones((3, 1, 1), bool), 1)
    with pytest.raises(UserError, match="k=2: choose the best of 1 to 1 sample"):
        robustness(right, right[:, None], 2)
