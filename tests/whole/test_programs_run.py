"""A run whose models write programs: executed at its end where the recipe allows it and a sandbox is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import stilts
from sandboxes import needs_sandbox
from stilts_launcher import execute_run

from stilts_ds.execute.policy import Refused
from stilts_ds.run_dir import RunDir

pytestmark = pytest.mark.processes
# One target, whose model has learnt next to nothing.
PROGRAMS = ["targets=[humaneval_xl]", "intermediate={none: []}", "launch.nproc=1", "task_training.mbpp.max_steps=2"]


def result_of(run: Path) -> dict[str, Any]:
    [path] = run.glob("phases/target-mbpp-*/results/humaneval_xl.json")
    return json.loads(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    said = stilts("run", "quickstart", *PROGRAMS, cwd=folder)
    assert "executing 160 programs in the sandbox" in said
    return folder / "runs/quickstart"


@needs_sandbox
def test_a_run_executes_its_programs_once_and_scores_every_language(run: Path) -> None:
    result = result_of(run)
    assert result["main"].keys() == {"qaa", "qab", "qac", "qad"} and "unexecuted" not in result
    [folder] = run.glob("phases/target-mbpp-*/predictions/humaneval_xl")
    rows = [json.loads(line) for line in (folder / "test-qab.verdicts.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"python/{number}" for number in range(40)]
    assert json.loads((folder / "test-qab.verdicts.summary.json").read_text())["toolchains"].keys() == {"python"}
    floors = json.loads((run / "labels/humaneval_xl/test-qab.floors.json").read_text("utf-8"))
    assert floors.keys() == {"constant", "empty", "shuffled"} and len(floors["shuffled"]["passes"]) == 40
    floor = 100 * sum(floors["constant"]["passes"].values()) / 40
    assert [result["languages"][code]["floor_constant"] for code in ("qaa", "qab", "qac", "qad")] == [floor] * 4
    again = stilts("run", "quickstart", *PROGRAMS, cwd=run.parents[1])
    assert "executing" not in again and result_of(run) == result


@needs_sandbox
def test_without_a_sandbox_the_column_says_so_and_evaluate_scores_it_later(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = result_of(run)
    for verdicts in run.glob("phases/*/predictions/humaneval_xl/*.verdicts.jsonl"):
        verdicts.unlink()

    def refuse(programs: Any, settings: Any) -> Any:
        raise Refused("bubblewrap", "there is no bwrap on PATH")

    monkeypatch.setattr(execute_run, "execute", refuse)
    execute_run.execute_run(RunDir(run))
    said = capsys.readouterr().out
    assert "160 programs are not scored: programs are not run here: bubblewrap: there is no bwrap on PATH" in said
    shown = stilts("score", run, cwd=run)
    assert "| none | -× | - |" in shown and "× its programs have not been executed" in shown
    assert result_of(run)["unexecuted"] == ["qaa", "qab", "qac", "qad"]
    stilts("evaluate", run, cwd=run)
    assert result_of(run)["main"] == before["main"]


@needs_sandbox
@pytest.mark.slow
def test_a_model_that_learnt_on_one_language_writes_right_programs_in_all(tmp_path: Path) -> None:
    """The toy model after the quickstart's steps on MBPP: functions that it was not trained on."""
    stilts("run", "quickstart", *PROGRAMS[:-1], cwd=tmp_path, timeout=1200)
    result = result_of(tmp_path / "runs/quickstart")
    assert result["main"]["qaa"] > 80 and result["mean"] > 40
    assert all(result["main"][code] > 2 for code in ("qab", "qac", "qad"))
