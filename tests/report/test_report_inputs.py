"""What stands beside a report's numbers: one set of languages, seeds, settings, files, and what chose what."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean, median

import pytest
from report_runs import QUICK, build_run

from stilts_ds.data.duplicates import Overlap, Overlaps
from stilts_ds.errors import UserError
from stilts_ds.report.inputs import fitted_on_scored, selected_on_scored
from stilts_ds.report.load import load_run
from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json, write_json

SEEDS = (1, 2, 3)


def report_of(run: RunDir) -> dict:
    write_report(run, QUICK)
    return read_json(run.results)


def results_of(run: RunDir, condition: str, task: str) -> list[Path]:
    return [p for p in sorted(run.root.glob(f"phases/*/results/{task}.json")) if read_json(p)["condition"] == condition]


def without_language(path: Path, code: str) -> None:
    result = read_json(path)
    del result["main"][code], result["languages"][code]
    result["missing"].append(code)
    result["mean"] = None
    result["mean_of_present"] = fmean(result["main"].values())
    write_json(path, result)


def test_results_and_matrix_hold_one_number(tmp_path: Path) -> None:
    """A language that the baseline lacks is left out for every condition, in the matrix and in `rows` alike."""
    run = build_run(tmp_path, targets=("xnli", "tatoeba"))
    [path] = results_of(run, "none", "xnli")
    code = next(c for c in read_json(path)["main"] if c != "en")
    without_language(path, code)
    found = report_of(run)
    matrix = found["statistics"]["tables"]["matrix"]
    for condition, row in found["rows"].items():
        cell = row["tasks"]["xnli"]
        assert code not in cell["languages"]
        assert cell["mean_of_present"] == pytest.approx(matrix[condition]["xnli"]["score"])
        assert row["average"] == pytest.approx(matrix[condition]["average"]["score"])
        assert cell["mean"] is None and row["complete"] is False  # no condition has the benchmark's average now
    with open(run.report.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        marks = {row["row"]: row["mark"] for row in csv.DictReader(file)
                 if (row["table"], row["column"]) == ("matrix", "xnli")}  # fmt: skip
    assert len(marks) == 4 and all("†" in mark for mark in marks.values()), marks


def test_a_median_can_be_made_again_from_the_seeds(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("xnli",), seeds=SEEDS)
    found = report_of(run)
    cell = found["rows"]["mnli"]["tasks"]["xnli"]
    assert list(cell["by_seed"]) == ["1", "2", "3"]
    for code, score in cell["languages"].items():
        assert score == pytest.approx(median(cell["by_seed"][str(seed)][code] for seed in SEEDS))
    with open(run.report.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == "seed-2-xnli" and row["column"] == "mnli"]
    assert {row["row"]: float(row["score"]) for row in rows} == pytest.approx(cell["by_seed"]["2"])


def test_settings_lengths_and_files_stand_in_the_report(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("xnli", "tatoeba"))
    for path in results_of(run, "none", "xnli"):
        write_json(path, {**read_json(path), "data": {"en": "1", "de": "2"}})
    found = report_of(run)
    text = run.report.read_text(encoding="utf-8")
    section = text[text.index("## What was scored, and how") :].split("\n## ")[0]
    assert "retrieval_layer -1, retrieval_pooling mean, max_seq_length 512" in section
    assert "max_seq_length 256" in section and "not recorded" in section
    whole = found["rows"]["none"]["tasks"]["xnli"]["data_hash"]
    assert len(whole) == 64 and f"| {whole[:12]} |" in section
    assert whole[:12] in run.report.with_suffix(".html").read_text(encoding="utf-8")


def test_scored_examples_in_the_training_data_stand_in_the_report(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("xnli",))
    [phase] = [p for p in load_run(run).plan.phases if p.train == ("mnli",) and p.init == "" and p.evaluate]
    overlap = Overlap(train="mnli", task="xnli", split="test", language="de", examples=7, of=5010)
    write_json(run.phase(phase.id).duplicates, Overlaps(found=(overlap,)).model_dump())
    found = report_of(run)
    assert found["duplicates"] == [["mnli", "xnli", "de", "7", "5,010"]]
    assert "| mnli | xnli | de | 7 | 5,010 |" in run.report.read_text(encoding="utf-8")
    assert "Scored examples in the training data" in run.report.with_suffix(".html").read_text(encoding="utf-8")


def test_targets_whose_scored_examples_select_are_marked(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("tydiqa", "xnli"), languages={"tydiqa": ["en", "sw"], "xnli": ["en", "de"]})
    data = load_run(run)
    assert selected_on_scored(data, "tydiqa") and not selected_on_scored(data, "xnli")
    report_of(run)
    text = run.report.read_text(encoding="utf-8")
    assert "§ the English examples that select the model" in text
    assert "take no part in the choice, but for tydiqa" in text
    part = data.recipe.data.model_copy(update={"dev_split": {"tydiqa": "train"}})
    held_out = data.recipe.model_copy(update={"data": part})
    assert not selected_on_scored(type(data)(**{**vars(data), "recipe": held_out}), "tydiqa")


def test_a_target_that_is_scored_in_other_languages_alone_is_not_marked(tmp_path: Path) -> None:
    data = load_run(build_run(tmp_path, targets=("tydiqa",), languages={"tydiqa": ["fi", "sw"]}))
    assert not selected_on_scored(data, "tydiqa")


def test_mining_on_dev_is_marked(tmp_path: Path) -> None:
    data = load_run(build_run(tmp_path, targets=("bucc2018", "tatoeba")))
    assert not fitted_on_scored(data, "bucc2018")
    part = data.recipe.evaluation.model_copy(update={"splits": {"bucc2018": "dev", "tatoeba": "dev"}})
    dev = type(data)(**{**vars(data), "recipe": data.recipe.model_copy(update={"evaluation": part})})
    assert fitted_on_scored(dev, "bucc2018") and not fitted_on_scored(dev, "tatoeba")


def test_a_damaged_file_of_duplicates_is_named(tmp_path: Path) -> None:
    run = build_run(tmp_path, targets=("xnli",))
    phase = load_run(run).plan.phases[0]
    run.phase(phase.id).duplicates.write_text(json.dumps({"found": 3}))
    with pytest.raises(UserError, match="duplicates.json"):
        load_run(run)
