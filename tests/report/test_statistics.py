"""The report's statistics: exact on small cases, like scipy's on larger ones, honest on data without differences."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import power_table
import pytest
import report_runs
from power_table import World
from scipy import stats as scipy_stats

from stilts_ds.evaluate.score import read_values, score_file
from stilts_ds.families.metrics import ACCURACY, Units
from stilts_ds.families.registry import family_of, main_metric
from stilts_ds.report.clusters import cluster_numbers
from stilts_ds.report.compare import table_of
from stilts_ds.report.stats import (
    Difference,
    benjamini_hochberg,
    cluster_sums,
    difference,
    enough_resamples,
    fewest_resamples,
    generator,
    group_mean,
    holm,
    over_seeds,
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


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_false_positives_stay_at_the_stated_rate_when_seeds_differ(seeds: int) -> None:
    """4,000 examples, seeds 2.2 points apart: the spread between seeds is nearly all there is.

    300 trials at 5 % have a standard deviation of 1.3 points; two seeds are a little over the level (docs/report.md).
    """
    found = power_table.rates(World(seeds, 4000, 2.2), power_table.SCHEMES, 300)
    assert found["the report's"] <= (10 if seeds == 2 else 8)
    assert found["mean of drawn seeds"] > found["the report's"] + 1
    assert found["examples alone"] > 40


def test_three_seeds_find_more_than_one_and_more_than_the_median_of_drawn_seeds() -> None:
    """A gain of 5.8 points on 500 examples, 100 trials: a standard deviation of at most 5 points."""
    one, three = (power_table.rates(World(seeds, gain=5.8), power_table.SCHEMES, 100) for seeds in (1, 3))
    assert three["the report's"] >= one["the report's"] + 5
    assert three["the report's"] >= three["median of drawn seeds"] + 5


def test_whole_texts_keep_the_level_where_single_examples_do_not() -> None:
    """240 texts of five questions, whose answers go together: 300 trials, standard deviation 1.3 points."""
    world = World(1, 1200, a_text=5, of_text=2.0)
    whole, single = (power_table.rate(world, power_table.of_the_report, 300, whole) for whole in (True, False))
    assert whole <= 9 < single


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


# --- seeds -----------------------------------------------------------------------------------------------------------


def summarised(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return over_seeds(scores, {c: tuple(range(found.shape[1])) for c, found in scores.items()}, "base")


def test_the_median_is_printed_and_the_mean_is_tested() -> None:
    scores = np.tile(np.array([[[10.0], [20.0], [60.0]]]), (4001, 1, 1))
    found = summarised({"base": scores, "ours": scores + 1})["base"][:, 0]
    assert found.shape == (4002,) and (found[0], found[1]) == (20.0, 30.0)
    # Without noise of examples the resamples are the mean plus its standard error times Student's t, 4 degrees.
    error = np.std([10, 20, 60], ddof=1) / np.sqrt(3)
    expected = 30 + error * scipy_stats.t(4).ppf([0.1, 0.25, 0.5, 0.75, 0.9])
    assert np.quantile(found[2:], [0.1, 0.25, 0.5, 0.75, 0.9]) == pytest.approx(expected, abs=2.0)


def test_with_seeds_alone_the_test_is_welchs_with_the_degrees_of_students() -> None:
    a, b = np.array([70.0, 72.0, 71.5]), np.array([68.0, 69.5, 68.2])
    scores = {c: np.tile(values[None, :, None], (20_001, 1, 1)) for c, values in (("base", b), ("ours", a))}
    found = summarised(scores)
    p = difference((found["ours"] - found["base"])[1:, 0], 0.05).p
    assert p == pytest.approx(scipy_stats.ttest_ind(a, b).pvalue, abs=0.005)


def test_two_seeds_have_one_median_and_mean_and_one_seed_is_not_moved() -> None:
    scores = np.random.default_rng(10).random((50, 2, 3))
    found = summarised({"base": scores, "ours": scores[:, :1]})
    assert found["base"][0] == pytest.approx(found["base"][1])
    assert (found["ours"][1:] == scores[:, 0]).all() and (found["ours"][0] == scores[0, 0]).all()
    assert np.abs(found["base"][2:] - scores[1:].mean(axis=1)).max() > 0.01


def test_an_untrained_baseline_leaves_the_degrees_of_the_other_side() -> None:
    """Retrieval without training has one result for all seeds, which is exact: 3 seeds against it have 2 degrees."""
    a = np.array([70.0, 72.0, 71.5])
    scores = {"base": np.full((20_001, 1, 1), 69.0), "ours": np.tile(a[None, :, None], (20_001, 1, 1))}
    found = summarised(scores)
    p = difference((found["ours"] - found["base"])[1:, 0], 0.05).p
    assert p == pytest.approx(scipy_stats.ttest_1samp(a, 69.0).pvalue, abs=0.005)


def test_seeds_are_weighted_alike_in_every_task() -> None:
    """A seed that is bad everywhere is so in the mean over tasks, too: the spread does not average out."""
    scores = np.tile(np.array([[[10.0], [20.0], [60.0]]]), (2001, 1, 1))
    one, two = (summarised({"base": scores * k, "ours": scores})["base"][2:, 0] for k in (1, 2))
    assert two == pytest.approx(2 * one)


# --- resamples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("comparisons", "level", "fewest", "enough"), [
    (211, 0.05, 8440, 50_000), (11, 0.05, 440, 10_000), (3, 0.05, 120, 10_000), (211, 0.01, 42_200, 220_000),
    (0, 0.05, 0, 10_000),
])  # fmt: skip
def test_the_fewest_resamples_are_the_first_with_which_a_comparison_can_pass(
    comparisons: int, level: float, fewest: int, enough: int
) -> None:
    assert (fewest_resamples(comparisons, level), enough_resamples(comparisons, level)) == (fewest, enough)
    if comparisons:
        assert 2 / (fewest + 1) * comparisons < level <= 2 / fewest * comparisons + 1e-12


# --- clusters --------------------------------------------------------------------------------------------------------


def test_items_that_share_a_text_in_any_language_are_one_cluster() -> None:
    names = {"en": tuple("abcd"), "de": tuple("dcx")}
    texts = {"en": ["1", "1", "2", "3"], "de": ["1", "1", "2"]}  # the same name in another language is another text
    assert cluster_numbers("abcdx", names, texts).tolist() == [0, 0, 1, 1, 2]
    assert cluster_numbers("xdcba", names, texts).tolist() == [0, 1, 1, 2, 2]


def test_cluster_sums() -> None:
    counts = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]])
    assert cluster_sums(counts, np.array([0, 1, 0, 2])).tolist() == [[4.0, 40.0], [2.0, 20.0], [4.0, 40.0]]


def test_three_copies_of_an_item_in_a_cluster_are_worth_one() -> None:
    right = (np.random.default_rng(12).random(300) < 0.6).astype(float)[:, None]
    copies = right.repeat(3, axis=0)
    cluster = np.arange(900) // 3
    sums = cluster_sums(copies, cluster), cluster_sums(ones(copies), cluster)
    whole, once = (ratio_replicates(*counts, 3000, generator("c"))[:, 0] for counts in (sums, (right, ones(right))))
    assert whole == pytest.approx(once)  # the same clusters are drawn
    single = ratio_replicates(copies, ones(copies), 3000, generator("c"))[:, 0]
    assert single.std() == pytest.approx(whole.std() / np.sqrt(3), rel=0.1)


# --- gaps, groups ----------------------------------------------------------------------------------------------------


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
    units = metric.count(*read_values(predictions, labels, task), code)
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
