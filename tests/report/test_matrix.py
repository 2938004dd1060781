"""The recipe of the complete study, run in miniature: the toy world in place of the data, a few steps a phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import stilts

from stilts_ds.config import load_recipe

pytestmark = pytest.mark.processes

TOY = [
    "model={name_or_path: toy}", "data={source: toy, max_train_examples: 200}", "seeds=[1]", "targets=[xnli, tatoeba]",
    "intermediate_training={max_steps: 2, train_batch_size: 4, max_seq_length: 96, window_step: 32, "
    "max_query_length: 32, eval_examples: 20, save_steps: 0}",
    "multitask_training={}", "task_training={}", "mlm_training={learning_rate: 5.0e-6}",
    "target_training={max_steps: 2, train_batch_size: 4, max_seq_length: 96, eval_examples: 20, save_steps: 0}",
    "engine={zero_stage: 0}", "launch.nproc=1",
    "evaluation={max_examples: 10, max_bitext: 20, retrieval_max_seq_length: 96, retrieval_layer: 2}",
]  # fmt: skip


def finished(folder: Path) -> tuple[dict, list[dict]]:
    """The results and the status of each phase."""
    run = folder / "runs" / "xstilts"
    statuses = [json.loads(path.read_text(encoding="utf-8")) for path in run.glob("phases/*/status.json")]
    return json.loads((run / "results.json").read_text(encoding="utf-8")), statuses


@pytest.mark.slow
def test_the_complete_study_in_miniature(tmp_path: Path) -> None:
    """22 conditions: 21 intermediate phases, 22 target and 22 retrieval phases."""
    stilts("run", "xstilts", *TOY, cwd=tmp_path, timeout=900)
    results, statuses = finished(tmp_path)
    assert list(results["rows"]) == list(load_recipe("xstilts").intermediate)
    assert len(statuses) == 65 and {one["state"] for one in statuses} == {"done"}
    for row in results["rows"].values():
        assert all(cell["mean"] is not None for cell in row["tasks"].values())


@pytest.mark.long
def test_a_corner_of_the_study_in_miniature(tmp_path: Path) -> None:
    """A task of each kind with and without text, text alone, and a translation: what they leave behind."""
    conditions = "{none: [], mlm: [mlm], ccg_mlm: [ccg, mlm], mixed: [mnli, mnli.qab, squad_v1, mlm]}"
    stilts("run", "xstilts", *TOY, f"intermediate={conditions}", cwd=tmp_path)
    results, statuses = finished(tmp_path)
    said = (tmp_path / "runs/xstilts/logs/rank-0.log").read_text(encoding="utf-8")
    assert list(results["rows"]) == ["none", "mlm", "ccg_mlm", "mixed"]
    assert len(statuses) == 3 + 4 + 4 and {one["state"] for one in statuses} == {"done"}
    assert "the language modelling head is new" not in said  # the toy model has its own
    measured = {frozenset(one["best"]["tasks"]) for one in statuses if "best" in one}
    assert measured == {frozenset(t) for t in (["mlm"], ["ccg", "mlm"], ["mnli", "squad_v1", "mlm"], ["mnli"])}
    report = (tmp_path / "runs/xstilts/report.md").read_text(encoding="utf-8")
    assert "## Selection on English dev" in report and "| mixed, seed 1 | squad_v1 |" in report
