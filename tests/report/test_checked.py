"""MultiCheckList in a report: error rates in tables of their own, and in no average."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import QUICK, build_run, table

from stilts_ds.report.write import write_report
from stilts_ds.run_dir import read_json


def skill(condition: str, task: str, language: str) -> float:
    return 1.0 if condition == "mnli" and language == "de" else 0.9


def test_error_rates_stand_apart(tmp_path: Path) -> None:
    run = build_run(
        tmp_path / "study", skill, {"none": [], "mnli": ["mnli"]}, ("xquad", "multichecklist"),
        {"xquad": ["en", "de"], "multichecklist": ["en", "de"]},
    )  # fmt: skip
    write_report(run, QUICK)
    results = read_json(run.results)
    matrix = table(run, "matrix")["none"]
    assert list(matrix) == ["xquad", "average"] and results["targets"] == ["xquad"]
    assert matrix["average"]["score"] == matrix["xquad"]["score"]
    errors = table(run, "languages-multichecklist")
    [none] = [p for p in run.root.glob("phases/*/results/multichecklist.json") if read_json(p)["condition"] == "none"]
    assert errors["en*"]["none"]["score"] == pytest.approx(read_json(none)["main"]["en"])
    # A case fails where one of its four answers does: about 1 - 0.9 ** 4 of them.
    assert 20 < errors["en*"]["none"]["score"] < 50
    gain = errors["de"]["mnli"]
    assert gain["score"] == 0 and gain["gain"] < 0 and gain["significant"] and gain["high"] < 0
    text = run.report.read_text()
    assert "## multichecklist by test, after mnli" in text and "error animal" in text and "Lower is better" in text
    assert "by test, after none" in run.report.with_suffix(".html").read_text()
