"""A study of a user's own tasks from its first command to its DataFrames, with models that are not kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import stilts
from table_files import write_tasks

import stilts_ds
from stilts_ds.plan_file import Plan
from stilts_ds.run_dir import RunDir
from stilts_ds.tasks.registry import TASKS

pytestmark = [pytest.mark.processes, pytest.mark.long]
STUDY = """\
name: mine
data: {source: local}
tasks_from: [my_tasks.yaml]
intermediate: {none: [], rating: [rating]}
targets: [reviews, rating]
keep: scores
"""


def test_a_study_of_own_tasks_is_planned_trained_scored_and_loaded(tmp_path: Path) -> None:
    path = write_tasks(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    planned = stilts("plan", "study.yaml", cwd=tmp_path)
    assert "disk: " in planned and "(keep=scores)" in planned and "This cannot run yet" not in planned
    stilts("run", "study.yaml", cwd=tmp_path)
    # Reading the run needs nothing of the user's files, and no model is left.
    path.unlink()
    for name in ("reviews", "rating"):
        TASKS.pop(name, None)
    folder = tmp_path / "runs" / "mine"
    scores = stilts_ds.load(folder).scores()
    assert set(scores.language) == {"en", "gn"} and set(scores.condition) == {"none", "rating"}
    assert set(scores[scores.task == "rating"].metric) == {"r2", "pearson", "spearman"}
    # A word decides the label: two epochs at this rate are enough to see it in a language that was not trained.
    assert scores[(scores.task == "reviews") & scores.main].score.min() > 55
    assert not list(folder.rglob("*.safetensors"))
    assert {RunDir(folder).phase(phase.id).status() for phase in Plan.load(folder / "plan.json").phases} == {"done"}
    for verb in ("report", "score", "status"):
        assert "reviews" in stilts(verb, str(folder), cwd=tmp_path)
    stilts("evaluate", str(folder), cwd=tmp_path)  # nothing is left to predict, so no model is asked for
