"""The report's statistics: exact on small cases, like scipy's on larger ones, honest on data without differences."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import report_runs
from scipy import stats as scipy_stats

from stilts_ds.evaluate.score import main_units, score_file
from stilts_ds.families.metrics import ACCURACY, Units
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.report.compare import table_of
from stilts_ds.report.stats import (
    Difference,
    benjamini_hochberg,
    difference,
    generator,
    group_mean,
    holm,
    median_over_seeds,
    ratio_replicates,
    transfer_gap,
    weights,
)
from stilts_ds.tasks.registry import get_task


def ones(values: np.ndarray) -> np.ndarray:
    return np.ones_like(values, dtype=float)


def compare(a: np.ndarray, b: np.ndarray, resamples: int, *name: object, below: np.ndarray | None = None) -> Difference:
    """Paired test of two columns of numerators."""
    above = np.stack([a, b], axis=1).astype(float)
    drawn = ratio_replicates(above, ones(above) if below is None else below, resamples, generator(*name))
    return difference(drawn[:, 0] - drawn[:, 1], 0.05)


# --- resampling ------------------------------------------------------------------------------------------------------


def test_the_first_row_is_the_observed_score_and_the_others_are_resamples() -> None:
    above, below = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0], [1.0, 1.0]]), np.array([[1.0, 2.0]] * 4)
    drawn = ratio_replicates(above, below, 400, generator("a"))
    assert drawn.shape == (401, 2)
    assert drawn[0].tolist() == [75.0, 50.0]
    assert set(np.unique(drawn[:, 0])) <= {0.0, 25.0, 50.0, 75.0, 100.0} and drawn[1:, 0].std() > 10


@pytest.mark.parametrize("items", [1, 2, 7, 1000])
def test_every_resample_draws_as_many_items_as_there_are(items: int) -> None:
    rows = np.concatenate(list(weights(items, 33, generator("w"))))
    assert rows.shape == (34, items)
    assert (rows.sum(axis=1) == items).all() and (rows[0] == 1).all()


def test_resampling_in_chunks_changes_nothing_but_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stilts_ds.report.stats.CELLS_AT_A_TIME", 50)
    rows = np.concatenate(list(weights(20, 7, generator("w"))))
    assert rows.shape == (8, 20) and (rows.sum(axis=1) == 20).all()


def test_draws_depend_on_their_name_alone() -> None:
    first, again, other = (generator(name).integers(0, 1000, 20).tolist() for name in ("x", "x", "y"))
    assert first == again != other


def test_a_column_with_nothing_to_count_scores_zero() -> None:
    assert ratio_replicates(np.zeros((3, 1)), np.zeros((3, 1)), 5, generator("z")).tolist() == [[0.0]] * 6


# --- against scipy ---------------------------------------------------------------------------------------------------


def test_interval_is_that_of_scipys_percentile_bootstrap() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random(300), rng.random(300) * 0.9
    ours = compare(a, b, 8000, "interval")
    theirs = scipy_stats.bootstrap((a, b), lambda x, y, axis: 100 * (x.mean(axis) - y.mean(axis)), paired=True,
                                   vectorized=True, n_resamples=8000, method="percentile",
                                   rng=np.random.default_rng(2)).confidence_interval  # fmt: skip
    assert ours.value == pytest.approx(100 * (a.mean() - b.mean()))
    assert ours.low == pytest.approx(theirs.low, abs=0.25) and ours.high == pytest.approx(theirs.high, abs=0.25)


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.06, 0.1])
def test_p_value_is_near_that_of_scipys_paired_tests(shift: float) -> None:
    rng = np.random.default_rng(3)
    a = rng.random(400)
    b = a + rng.normal(0, 0.3, 400) + shift
    ours = compare(b, a, 20_000, "p", shift)
    assert ours.p == pytest.approx(scipy_stats.ttest_rel(b, a).pvalue, abs=0.02)


def test_equal_predictions_do_not_differ() -> None:
    right = np.random.default_rng(4).integers(0, 2, 50)
    found = compare(right, right, 500, "equal")
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_benjamini_hochberg_is_scipys() -> None:
    p = np.random.default_rng(5).random(40) ** 3
    assert benjamini_hochberg(p.tolist()) == pytest.approx(scipy_stats.false_discovery_control(p, method="bh"))


def test_holm_is_the_closed_test_of_bonferroni() -> None:
    """By definition: a hypothesis' adjusted p is the largest Bonferroni p of any set of hypotheses that holds it."""
    p = [0.01, 0.04, 0.03, 0.005, 0.2]
    sets = [s for size in range(1, 6) for s in combinations(range(5), size)]
    closed = [max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s) for i in range(5)]
    assert holm(p) == pytest.approx(closed)
    assert holm([]) == [] and benjamini_hochberg([]) == [] and holm([0.5]) == [0.5]


# --- false positives -------------------------------------------------------------------------------------------------


def rate_of_false_positives(kind: str, items: int, trials: int = 400) -> float:
    rng = np.random.default_rng([6, items])
    found = []
    for trial in range(trials):
        ease = rng.random(items)  # both systems are equally good at each item, which is what pairs them
        if kind == "accuracy":
            a, b, below = rng.random(items) < ease, rng.random(items) < ease, None
        else:  # F1 of sentences with 1 to 8 chunks: 2 * correct over predicted + gold
            gold = rng.integers(1, 9, items)
            a, b = (2 * rng.binomial(gold, ease) for _ in range(2))
            below = np.stack([gold + rng.binomial(8, 0.5, items) for _ in range(2)], axis=1).astype(float)
        found.append(compare(a, b, 400, kind, items, trial, below=below).p)
    return float(np.mean(np.array(found) < 0.05))


@pytest.mark.parametrize("kind", ["accuracy", "f1"])
def test_false_positives_come_at_the_stated_rate(kind: str) -> None:
    """400 trials at 5 %: 20 expected, standard deviation 4.4; the bounds are three of them away."""
    assert 0.017 <= rate_of_false_positives(kind, 300) <= 0.083


def test_false_positives_stay_below_the_stated_rate_when_seeds_differ() -> None:
    """Three seeds whose accuracies differ by about two points; drawing examples alone would err far more often."""
    rng = np.random.default_rng(11)
    careful, bold = [], []
    for trial in range(200):
        ease = rng.normal(1, 3, 500)[:, None] + rng.normal(0, 0.2, 6)
        right = (rng.random((500, 6)) < 1 / (1 + np.exp(-ease))).astype(float)
        drawn = ratio_replicates(right, ones(right), 300, generator("seeds", trial)).reshape(301, 2, 3, 1)
        a, b = (median_over_seeds(drawn[:, c], generator(trial, c))[:, 0] for c in range(2))
        careful.append(difference(a - b, 0.05).p)
        bold.append(difference(np.median(drawn[:, 0, :, 0], axis=1) - np.median(drawn[:, 1, :, 0], axis=1), 0.05).p)
    assert np.mean(np.array(careful) < 0.05) <= 0.05 < 0.08 < np.mean(np.array(bold) < 0.05)


def test_corrected_false_positives_keep_the_promises_of_holm_and_benjamini_hochberg() -> None:
    """20 comparisons, 10 of them real: Holm errs in at most 5 % of tables, Benjamini-Hochberg in 5 % of findings."""
    rng = np.random.default_rng(7)
    any_false, shares, raw = [], [], []
    for _ in range(2000):
        z = rng.normal(0, 1, 20)
        z[10:] += 3
        p = (2 * scipy_stats.norm.sf(np.abs(z))).tolist()
        strict, loose = np.array(holm(p)) < 0.05, np.array(benjamini_hochberg(p)) < 0.05
        any_false.append(strict[:10].any())
        shares.append(loose[:10].sum() / max(1, loose.sum()))
        raw.append((np.array(p[:10]) < 0.05).any())
    assert np.mean(any_false) <= 0.06 and np.mean(shares) <= 0.03
    assert np.mean(raw) > 0.35  # what correction is for


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(8)
    assert compare(rng.random(1000) < 0.8, rng.random(1000) < 0.7, 1000, "power").p < 0.01


def test_translations_drawn_together_have_the_spread_that_they_really_have() -> None:
    """Five languages that err on the same items are worth one: the error of their mean does not shrink."""
    rng = np.random.default_rng(9)
    one = (rng.random(500) < 0.6).astype(float)[:, None].repeat(5, axis=1)
    together = ratio_replicates(one, ones(one), 2000, generator("t")).mean(axis=1).std()
    apart = np.mean([ratio_replicates(one[:, :1], ones(one[:, :1]), 2000, generator(i))[:, 0] for i in range(5)],
                    axis=0).std()  # fmt: skip
    expected = 100 * np.sqrt(0.6 * 0.4 / 500)
    assert together == pytest.approx(expected, rel=0.1) and apart == pytest.approx(expected / np.sqrt(5), rel=0.1)


# --- seeds, gaps, groups ---------------------------------------------------------------------------------------------


def test_median_over_seeds_is_observed_first_and_then_drawn() -> None:
    scores = np.tile(np.array([[[10.0], [20.0], [60.0]]]), (500, 1, 1))
    found = median_over_seeds(scores, generator("s"))[:, 0]
    assert all(median_over_seeds(scores, generator("s", i))[0, 0] == 20.0 for i in range(20))
    # Of 27 draws of three seeds, 7 have the lowest as their median, 13 the middle one, 7 the highest.
    assert np.mean(found[1:] == 20.0) == pytest.approx(13 / 27, abs=0.08)
    assert np.mean(found[1:] == 60.0) == pytest.approx(7 / 27, abs=0.08)


def test_one_seed_adds_no_spread() -> None:
    scores = np.random.default_rng(10).random((50, 1, 3))
    assert (median_over_seeds(scores, generator("s")) == scores[:, 0]).all()


def test_transfer_gap() -> None:
    scores = np.array([[80.0, 60.0, 70.0], [50.0, 50.0, 20.0]])
    assert transfer_gap(scores, ["en", "de", "sw"], "en").tolist() == [15.0, 15.0]
    assert transfer_gap(scores, ["fr", "de", "sw"], "en") is None
    assert transfer_gap(scores[:, :1], ["en"], "en") is None


def test_group_mean_is_a_mean_of_means() -> None:
    scores = {"a": (["de", "sw"], np.array([[60.0, 20.0]])), "b": (["de", "nl", "yo"], np.array([[80.0, 40.0, 0.0]])),
              "c": (["sw"], np.array([[1.0]]))}  # fmt: skip
    assert group_mean(scores, {"de", "nl"}).tolist() == [(60 + 60) / 2]
    assert group_mean(scores, {"my"}) is None


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["xnli", "udpos", "panx", "xquad", "mlqa", "bucc2018", "tatoeba", "xcopa", "squad_v2"])
def test_counts_give_the_scorers_number(name: str, tmp_path: Path) -> None:
    import random

    task, code = get_task(name), "zh" if name != "squad_v2" else "en"
    files, metric = family_of(task).files(task), main_metric(task)
    labels, predictions = tmp_path / "labels" / files.name("test", code), tmp_path / files.name("test", code)
    gold = report_runs.gold_values(task, code, 60)
    files.write_labels(labels, gold)
    files.write(predictions, report_runs.guesses(task, gold, 0.6, random.Random(1)))
    units = main_units(predictions, labels, task, code)
    expected = metric.of_scores(score_file(predictions, labels, task, code))
    above, below = metric.ratio(units)
    assert metric.score(units) == expected
    assert 100 * above.sum() / below.sum() == pytest.approx(expected, abs=1e-9)
    assert 20 < expected < 95 and len(units.names) == len(above) == len(below)


def units_of(task: str, names: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return family_of(get_task(task)).drawing_units(names)


def counts(names: str) -> Units:
    return Units.of(names, [(float(i), 1.0) for i in range(len(names))], "right", "items")


def test_translations_share_their_drawing_unit() -> None:
    equal, unequal = {"en": tuple("abc"), "de": tuple("abc")}, {"en": tuple("abc"), "de": tuple("ab")}
    assert len(set(units_of("xnli", equal).values())) == 1
    assert len(set(units_of("xnli", unequal).values())) == 2
    assert len(set(units_of("udpos", equal).values())) == 2
    chained = {"en": tuple("ab"), "zh": tuple("xy"), "hi": tuple("y"), "de": tuple("bx")}
    assert len(set(units_of("mlqa", chained).values())) == 1
    assert len(set(units_of("mlqa", {"en": tuple("ab"), "zh": tuple("xy")}).values())) == 2


def test_columns_line_up_by_name() -> None:
    above, below = table_of([counts("ab"), counts("ca")], ACCURACY)
    assert above.tolist() == [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
    assert below.tolist() == [[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
