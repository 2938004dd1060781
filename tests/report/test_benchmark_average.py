"""The benchmark's average in a report: over its own tasks, withheld by name, and by F1 alone on request."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from report_runs import QUICK, build_run
from stilts_launcher import cli

from stilts_ds.report.write import write_report
from stilts_ds.run_dir import RunDir, read_json
from stilts_ds.tasks.benchmarks import XTREME


def averages(run: RunDir) -> dict[str, Any]:
    found: dict[str, Any] = read_json(run.results)["benchmark"]
    assert found["name"] == "xtreme"
    return dict(found["averages"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """XTREME's nine tasks in all languages, and one that is not XTREME's."""
    targets = (*XTREME.tasks, "xcopa")
    folder = tmp_path_factory.mktemp("whole") / "study"
    return build_run(folder, lambda *_: 0.6, {"none": []}, targets, "all", examples=12)


def test_the_average_is_over_the_benchmarks_tasks_alone(whole: RunDir) -> None:
    write_report(whole, QUICK, qa_by_f1=True)
    cells = read_json(whole.results)["rows"]["none"]["tasks"]
    means = {name: cell["mean"] for name, cell in cells.items()}
    own = averages(whole)["none"]
    assert own["all_task"] == pytest.approx(fmean(means[name] for name in XTREME.tasks))
    assert own["all_task"] != pytest.approx(fmean(means.values()))  # XCOPA is a target, and no task of XTREME
    assert own["qa"] == pytest.approx(fmean(means[name] for name in ("xquad", "mlqa", "tydiqa")))
    # Wrong answers share no word with the right ones, so that F1 alone is exact match here.
    assert own["all_task_qa_f1"] == pytest.approx(own["all_task"])
    text = whole.report.read_text()
    assert "## XTREME's average" in text and "another number" in text and "A dash is withheld" not in text
    write_report(whole, QUICK)
    assert "all_task_qa_f1" not in averages(whole)["none"]


def test_what_is_missing_is_named_and_the_average_withheld(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run(tmp_path / "study", intermediate={"none": []}, targets=("xnli", "xquad"))
    assert cli.main(["report", str(run.root), "--resamples", "200", "--qa-f1"]) == 0
    assert set(averages(run)["none"].values()) == {None}
    text = run.report.read_text()
    assert "A dash is withheld. Missing: xnli (ar bg el es fr hi ru th tr ur vi); pawsx is no target;" in text
    assert "all_task_qa_f1" in text


def test_a_run_is_scored_for_the_benchmark_of_its_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = build_run(tmp_path / "study", intermediate={"none": []}, targets=("xnli",))
    assert cli.main(["score", str(run.root), "--benchmark", "xtreme-r"]) == 2
    assert "--benchmark xtreme-r: this run's recipe names xtreme" in capsys.readouterr().err
