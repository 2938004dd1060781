"""A report joins only like with like: results of another split, of other settings or files stand apart, by name."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pytest
from conftest import SMALL, stilts
from report_runs import build_run
from study import until

from stilts_ds.report.load import load_run
from stilts_ds.run_dir import RunDir

pytestmark = pytest.mark.processes


def result_paths(run: Path, task: str) -> dict[str, Path]:
    """condition -> its result file."""
    found = {}
    for path in run.glob(f"phases/*/results/{task}.json"):
        found[json.loads(path.read_text())["condition"]] = path
    return found


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.long
def test_an_evaluation_that_was_changed_and_killed_midway_is_not_compared(toy_run: Path, tmp_path: Path) -> None:
    """For real: retrieval of the first condition is made anew at another layer, then everything is killed."""
    shutil.copytree(toy_run.parents[1], tmp_path, dirs_exist_ok=True, symlinks=True)
    run = tmp_path / toy_run.relative_to(toy_run.parents[1])
    paths = result_paths(run, "tatoeba")
    assert set(paths) == {"none", "nli"}

    def layer(condition: str) -> Any:
        return json.loads(paths[condition].read_text())["settings"]["retrieval_layer"]

    before = layer("none")
    assert before == layer("nli") != 0
    process = forked.started(tmp_path, ["run", "quickstart", *SMALL, "evaluation.retrieval_layer=0"])
    until(lambda: layer("none") == 0, "retrieval of the first condition at layer 0", run)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(60)
    assert layer("nli") == before

    for verb in ("report", "score"):  # scoring again must not put today's settings under yesterday's predictions
        stilts(verb, str(run), cwd=tmp_path)
        assert layer("nli") == before
        table = json.loads((run / "results.json").read_text())
        assert table["rows"]["none"]["tasks"]["tatoeba"]["mean"] is not None
        assert table["rows"]["nli"]["tasks"].get("tatoeba") is None
        [told] = [note for note in table["missing"] if note.startswith("tatoeba after nli")]
        assert f"retrieval_layer {before} (recipe.yaml: 0)" in told and "stilts evaluate" in told

    stilts("evaluate", str(run), cwd=tmp_path)
    stilts("report", str(run), cwd=tmp_path)
    table = json.loads((run / "results.json").read_text())
    assert layer("nli") == 0 and table["rows"]["nli"]["tasks"]["tatoeba"]["mean"] is not None


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("xnli", lambda r: r.update(split="dev"), "its scores have split dev (recipe.yaml: test)"),
        ("xnli", lambda r: r["settings"].update(max_examples=60), "max_examples 60 (recipe.yaml: None)"),
        ("tatoeba", lambda r: r["settings"].update(retrieval_pooling="first"), "retrieval_pooling first"),
        ("xquad", lambda r: r["settings"].update(max_answer_length=3), "max_answer_length 3 (recipe.yaml: 30)"),
        (
            "xquad",
            lambda r: r["settings"].pop("max_answer_length"),
            "max_answer_length that is not recorded",
        ),
    ],
)
def test_a_result_of_another_kind_stands_apart(
    tmp_path: Path, task: str, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    run = build_run(tmp_path)
    edited(result_paths(run.root, task)["mnli"], change)
    data = load_run(run)
    assert not data.results["mnli"][task] and data.results["none"][task]
    [note] = [note for note in data.missing if note.startswith(f"{task} after mnli, seed 1, is not in the tables")]
    assert told in note


def test_results_of_other_files_than_the_baseline_s_stand_apart(tmp_path: Path) -> None:
    run = build_run(tmp_path)
    for condition, path in result_paths(run.root, "xnli").items():
        digest = "old" if condition == "mnli" else "new"
        edited(path, lambda r, digest=digest: r.update(data={code: f"{digest} {code}" for code in r["main"]}))
    data = load_run(RunDir(run.root))
    assert not data.results["mnli"]["xnli"] and data.results["none"]["xnli"]
    [note] = [note for note in data.missing if note.startswith("xnli after mnli")]
    assert "are not those of the other results" in note


def test_results_alike_are_all_in_the_tables(tmp_path: Path) -> None:
    assert not [note for note in load_run(build_run(tmp_path)).missing if "not in the tables" in note]
