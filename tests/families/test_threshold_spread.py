"""BUCC's threshold might have been another: what other dev sentences would choose, and what that does to intervals."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from report_runs import QUICK, build_run, table

from stilts_ds.errors import UserError
from stilts_ds.families.bitext.head import DRAWS, Mined, best_threshold, bucc_predict, drawn_thresholds, f1_at
from stilts_ds.families.bitext.predictions import spread
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import write_json

RNG = np.random.default_rng(3)
SOURCES = [f"de-{i}" for i in range(60)]
GOLD = {(f"de-{i}", f"en-{i}") for i in range(0, 60, 2)}


def candidates() -> list[Mined]:
    """One for each source sentence: right ones score higher on the whole. Some scores are equal."""
    right = [(source, f"en-{i}") in GOLD for i, source in enumerate(SOURCES)]
    scores = np.round(RNG.normal(1.0, 0.1, 60) + 0.15 * np.array(right), 2)
    return [Mined(source, f"en-{i}", float(score)) for i, (source, score) in enumerate(zip(SOURCES, scores))]


def f1_of(mined: list[Mined], weights: dict[str, float], threshold: float) -> float:
    kept = [m for m in mined if m.score >= threshold]
    correct = sum(weights[m.pair[0]] for m in kept if m.pair in GOLD)
    total = sum(weights[m.pair[0]] for m in kept) + sum(weights[source] for source, _ in GOLD)
    return 200 * correct / total if total else 0.0


def test_each_drawn_threshold_is_the_best_of_its_draw() -> None:
    mined = candidates()
    thresholds = drawn_thresholds(mined, GOLD, SOURCES)
    assert len(thresholds) == DRAWS and len(set(thresholds)) > 5
    rng = np.random.default_rng([len(SOURCES), zlib.crc32(SOURCES[0].encode())])
    for threshold in thresholds[:20]:
        weights = dict(zip(SOURCES, rng.poisson(1.0, len(SOURCES)).tolist()))
        best = max(f1_of(mined, weights, m.score) for m in mined)
        assert f1_of(mined, weights, threshold) == pytest.approx(best)
    assert min(thresholds) < best_threshold(mined, GOLD)[0] < max(thresholds)


def test_scores_at_thresholds_are_those_of_the_predictions() -> None:
    mined = candidates()
    thresholds = [0.5, 1.0, 1.11, best_threshold(mined, GOLD)[0], 9.0]
    ones = dict.fromkeys(SOURCES, 1.0)
    expected = [f1_of(mined, ones, threshold) for threshold in thresholds]
    assert f1_at(mined, GOLD, thresholds) == pytest.approx(expected)
    assert expected[3] == pytest.approx(best_threshold(mined, GOLD)[1])
    assert len(bucc_predict(mined, 9.0)) == 0 and expected[4] == 0


def test_nothing_mined_gives_no_thresholds() -> None:
    assert drawn_thresholds([], GOLD, SOURCES) == [] and f1_at([], GOLD, [1.0]) == [0.0]


def test_intervals_hold_the_spread(tmp_path: Path) -> None:
    """All conditions are moved by the same dev draws: a spread that they share cancels in a gain, another does not."""
    run = build_run(tmp_path, targets=("bucc2018", "tatoeba"))
    write_report(run, QUICK)
    before = table(run, "matrix")["mnli"]["bucc2018"]
    folders = sorted(run.root.glob("phases/*/predictions/bucc2018"))
    shared = RNG.normal(60, 6, 200).clip(0, 100).tolist()
    for folder in folders:
        for predictions in folder.glob("test-*.tsv"):
            write_json(folder / f"drawn-f1-test-{predictions.stem.removeprefix('test-')}.json", shared)
    write_report(run, QUICK)
    same = table(run, "matrix")["mnli"]["bucc2018"]
    assert (same["low"], same["high"]) == pytest.approx((before["low"], before["high"]))
    for number, folder in enumerate(folders):
        for path in folder.glob("drawn-f1-test-*.json"):
            write_json(path, np.random.default_rng(number).normal(60, 6, 200).clip(0, 100).tolist())
    write_report(run, QUICK)
    apart = table(run, "matrix")["mnli"]["bucc2018"]
    assert apart["high"] - apart["low"] > 1.5 * (before["high"] - before["low"])
    assert apart["gain"] == pytest.approx(before["gain"])  # what is observed does not move


def test_damaged_spreads_are_named(tmp_path: Path) -> None:
    assert spread(tmp_path, "test", "de") == []
    write_json(tmp_path / "drawn-f1-test-de.json", [0.5, 101.0])
    with pytest.raises(UserError, match="drawn-f1-test-de.json holds no scores"):
        spread(tmp_path, "test", "de")
