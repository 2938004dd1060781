"""The way from a recipe to its results as docs/transcript.md shows it, typed again on a real two-node Slurm."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import slurm_cluster
import transcript

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.long,
    pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())),
]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "transcript.md"


def test_a_study_is_typed_from_recipe_to_results(tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "study").mkdir()
    with slurm_cluster.running(tmp_path / "slurm") as cluster:
        typed = transcript.type_all(tmp_path / "study", cluster, shared_data)
    said = {command.typed: command.output for command in typed}
    statuses = {command.typed: command.status for command in typed}
    broken, mended = f"{transcript.SUBMIT} broken.yaml --watch 2", f"{transcript.SUBMIT} my-cluster.yaml --watch 5"
    assert {name for name, status in statuses.items() if status} == {broken}, statuses

    # Each missing file at once, with the setting that goes on without it.
    whole = said["stilts plan my-study.yaml limit=60"]
    assert whole.count("xnli: no test file for") == 10 and "evaluation.languages=present" in whole, whole
    quick = said[f"stilts plan my-study.yaml {transcript.QUICK}"]
    assert re.search(r"^mnli +0/2 +0/2 +60 ", quick, re.MULTILINE) and "cannot run" not in quick, quick
    # The site's mistake in the site's words, for every phase that met it.
    last = said[broken].rpartition("runs/my-study: ")[2]
    assert last.count("module: command not found") == 4 and last.count("needs mnli/seed") == 2, last
    last = said[mended].rpartition("runs/my-study: ")[2]
    assert last.startswith("6 of 6 phases done") and last.count("xnli ") >= 4, last
    states = json.loads(said["stilts status my-study --json | head -9"].rstrip(",") + "}")
    assert states["complete"] and states["done"] == 6 and states["rank_hours"] > 0
    assert not re.search(r"-[0-9a-f]{12}\b", last), "a hash where a name belongs"
    assert "| xnli |" in said["stilts compare my-study:none my-study:mnli --targets xnli"]
    assert re.search(r"^sw +\d", said[transcript.PYTHON], re.MULTILINE)


def test_the_page_shows_the_commands_that_are_typed() -> None:
    written = PAGE.read_text(encoding="utf-8")
    assert [c for c in transcript.COMMANDS if c.splitlines()[0] not in written] == []
