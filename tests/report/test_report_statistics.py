"""What `stilts report` says of seeds, clusters, resamples and the choice of the best condition."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import report_runs
from report_runs import QUICK, build_run, table

from stilts_ds.errors import UserError
from stilts_ds.evaluate.score import score_file
from stilts_ds.report.load import load_run
from stilts_ds.report.stats import ComparisonSettings
from stilts_ds.report.tables import with_resamples
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json, write_json
from stilts_ds.tasks.registry import get_task


@pytest.fixture
def made(tmp_path: Path) -> RunDir:
    return build_run(tmp_path / "study", targets=["xnli", "xquad"])


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_median_over_seeds_and_their_number(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=["xnli"], seeds=(1, 2, 3))
    write_report(run, QUICK)
    runs = [
        read_json(p)["main"] for p in run.root.glob("phases/*/results/xnli.json") if read_json(p)["condition"] == "none"
    ]
    medians = {code: sorted(one[code] for one in runs)[1] for code in runs[0]}
    assert read_json(run.results)["rows"]["none"]["tasks"]["xnli"]["languages"] == pytest.approx(medians)
    assert table(run, "matrix")["none"]["xnli"]["score"] == pytest.approx(fmean(medians.values()))


def test_the_median_of_three_seeds_is_printed_and_the_mean_is_tested(tmp_path: Path) -> None:
    def skill(condition: str, task: str, language: str) -> float:
        return 0.9 if condition == "mnli" else 0.3

    run = build_run(tmp_path, skill, {"none": [], "mnli": ["mnli"]}, ["xnli"], {"xnli": ["en"]}, (1, 2, 3), examples=50)
    write_report(run, QUICK)
    scores = {
        c: np.array(
            [
                list(read_json(p)["main"].values())
                for p in run.root.glob("phases/*/results/xnli.json")
                if read_json(p)["condition"] == c
            ]
        )
        for c in ("none", "mnli")
    }
    cell = table(run, "matrix")["mnli"]["xnli"]
    median = {c: np.median(found, axis=0).mean() for c, found in scores.items()}
    mean = {c: found.mean() for c, found in scores.items()}
    assert (cell["score"], cell["mean"]) == (pytest.approx(median["mnli"]), pytest.approx(mean["mnli"]))
    assert cell["gain"] == pytest.approx(median["mnli"] - median["none"])
    assert cell["mean_gain"] == pytest.approx(mean["mnli"] - mean["none"])
    assert cell["low"] < cell["mean_gain"] < cell["high"] and cell["significant"] is True
    text = run.report.read_text(encoding="utf-8")
    assert round(cell["gain"], 1) != round(cell["mean_gain"], 1)
    assert f"{cell['gain']:+.1f}, mean {cell['mean_gain']:+.1f}" in text
    assert "Tests, intervals and p-values are of the mean over seeds." in text
    assert f"<small>mean {cell['mean_gain']:+.1f}</small>" in (run.root / "report.html").read_text(encoding="utf-8")
    with open(run.root / "report.csv", encoding="utf-8", newline="") as file:
        [row] = [
            row
            for row in csv.DictReader(file)
            if (row["table"], row["row"], row["column"]) == ("matrix", "mnli", "xnli")
        ]
    assert {k: float(row[k]) for k in ("score", "gain", "mean", "mean_gain", "p")} == {
        k: cell[k] for k in ("score", "gain", "mean", "mean_gain", "p")
    }


# --- clusters ---------------------------------------------------------------------------------------------------------


def answer_by_premise(run: RunDir) -> None:
    """Make all three pairs of an XNLI premise right or wrong together, and score that."""
    task = get_task("xnli")
    for path in run.root.glob("phases/*/results/xnli.json"):
        result = read_json(path)
        for code in result["main"]:
            labels = run.labels / "xnli" / f"test-{code}.tsv"
            predictions = path.parents[1] / "predictions" / "xnli" / labels.name
            gold, guessed = (file.read_text().split() for file in (labels, predictions))
            wrong = {label: next(other for other in task.labels if other != label) for label in task.labels}
            firsts = range(0, len(gold) // 3 * 3, 3)
            right = [gold[i] == guessed[i] for i in firsts for _ in range(3)] + [True] * (len(gold) % 3)
            words = [label if is_right else wrong[label] for label, is_right in zip(gold, right)]
            predictions.write_text("".join(f"{word}\n" for word in words))
            result["languages"][code] = score_file(predictions, labels, task, code)
            result["main"][code] = result["languages"][code]["accuracy"]
        write_json(path, result)


def test_the_pairs_of_a_premise_are_drawn_together(made: RunDir) -> None:
    """Three pairs that are right or wrong together are worth one: the interval is wider by the root of three."""
    answer_by_premise(made)
    write_report(made, QUICK)
    together = table(made, "languages-xnli")["de"]["mnli"]
    assert "drawn one by one" not in made.report.read_text(encoding="utf-8")
    for path in made.root.glob("labels/xnli/*.texts"):
        path.unlink()
    write_report(made, QUICK)
    alone = table(made, "languages-xnli")["de"]["mnli"]
    width = (together["high"] - together["low"]) / (alone["high"] - alone["low"])
    assert width == pytest.approx(3**0.5, rel=0.1) and together["gain"] == alone["gain"]
    text = made.report.read_text(encoding="utf-8")
    assert "xnli: examples share texts, but this run's labels do not say which" in text
    assert "these intervals are too narrow" in text


def test_a_broken_file_of_shared_texts_is_named(made: RunDir) -> None:
    path = made.labels / "xnli" / "test-de.texts"
    path.write_text("0\n0\nzero\n")
    with pytest.raises(UserError, match=r"test-de.texts, line 3: 'zero' is not a whole number"):
        write_report(made, QUICK)
    path.write_text("0\n0\n")
    with pytest.raises(UserError, match=r"test-de.texts, line 3: is missing: 2 lines for 200 examples"):
        write_report(made, QUICK)


# --- resamples --------------------------------------------------------------------------------------------------------


def test_the_number_of_resamples_suits_the_comparisons(made: RunDir) -> None:
    data = load_run(made)
    assert with_resamples(data, ComparisonSettings()).resamples == 10_000  # 7 comparisons
    assert with_resamples(data, ComparisonSettings(level=0.001)).resamples == 70_000
    assert with_resamples(data, ComparisonSettings(resamples=300)).resamples == 300


def test_too_few_resamples_are_told(made: RunDir) -> None:
    write_report(made, ComparisonSettings(resamples=100))
    assert "nothing can be significant" in made.report.read_text(encoding="utf-8")
    write_report(made, QUICK)
    assert "nothing can be significant" not in made.report.read_text(encoding="utf-8")


# --- the best condition of each target --------------------------------------------------------------------------------


def test_best_per_target_is_chosen_on_dev_not_on_test(tmp_path: Path) -> None:
    def skill(condition: str, task: str, language: str) -> float:
        """`squad` is best on test; dev, which is named after the training task, likes `mnli`."""
        return {"none": 0.4, "mnli": 0.5, "squad": 0.9}[condition]

    run = build_run(tmp_path, skill, {"none": [], "mnli": ["mnli"], "squad": ["squad_v1"]}, ["xnli", "tatoeba"])
    for phase in load_run(run).phases.values():
        if phase.train:
            report_runs.write_metrics(run.phase(phase.id).metrics, phase, {"mnli": 70.0}.get(phase.condition, 60.0))
    write_report(run, QUICK)
    statistics = read_json(run.results)["statistics"]
    assert statistics["best_per_target"] == {"xnli": "mnli"}
    matrix = statistics["tables"]["matrix"]
    best = matrix["best per target"]
    assert best["xnli"] == {**matrix["mnli"]["xnli"], "note": "mnli"}
    assert best["tatoeba"] is None  # retrieval has no English dev score
    assert best["average"]["score"] == pytest.approx(matrix["mnli"]["xnli"]["score"])
    assert "tatoeba: no English dev score to choose on" in run.report.read_text(encoding="utf-8")


def dev_scores(run: RunDir, scores: dict[str, list[float]]) -> None:
    for phase in load_run(run).phases.values():
        if phase.train and phase.evaluate:
            report_runs.write_metrics(run.phase(phase.id).metrics, phase, scores[phase.condition][phase.seed - 1])


def test_best_per_target_may_be_the_baseline(tmp_path: Path) -> None:
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=["xnli", "pawsx"],
                    languages={"xnli": ["en", "de"], "pawsx": list(get_task("pawsx").languages)})  # fmt: skip
    dev_scores(run, {"none": [70.0], "mnli": [60.0]})
    write_report(run, QUICK)
    assert read_json(run.results)["statistics"]["best_per_target"] == {"xnli": "none", "pawsx": "none"}
    best, none = (table(run, "matrix")[row] for row in ("best per target", "none"))
    assert best["xnli"] == {**none["xnli"], "note": "none"}
    assert best["average"]["score"] == pytest.approx(none["average"]["score"]) and "gain" not in best["average"]
    lines = run.report.read_text(encoding="utf-8").split("\n")
    [row] = [line for line in lines if line.startswith("| best per target")]
    cells = row.split(" | ")[1:]
    assert [cell.rstrip(" |").endswith("†") for cell in cells] == [True, False, True]  # xnli, pawsx, average
    assert "xnli, pawsx: one seed, so how sure the choice is cannot be told." in "\n".join(lines)


def test_the_report_tells_how_often_other_seeds_would_choose_otherwise(tmp_path: Path) -> None:
    """`none` has 60 and 70 on dev, `mnli` 66 twice: a draw of 70 twice, one of four, would choose `none`."""
    run = build_run(tmp_path, intermediate={"none": [], "mnli": ["mnli"]}, targets=["xnli", "tatoeba"], seeds=(1, 2))
    dev_scores(run, {"none": [60.0, 70.0], "mnli": [66.0, 66.0]})
    write_report(run, QUICK)
    statistics = read_json(run.results)["statistics"]
    assert statistics["best_per_target"] == {"xnli": "mnli"}
    assert statistics["chosen_otherwise"] == {"xnli": pytest.approx(0.25, abs=0.02)}
    text = run.report.read_text(encoding="utf-8")
    assert re.search(r"another condition would be chosen so often: xnli 2[3-7]%\.", text)
    best = table(run, "matrix")["best per target"]["average"]
    [row] = [line for line in text.split("\n") if line.startswith("| best per target")]
    assert row.endswith(f"{best['score']:.1f}†‡ |") and "‡ over the targets" in text and "† over the languages" in text
