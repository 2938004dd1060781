"""The engine computes what a plain loop with torch's own AdamW does: the same curve, and the same scores at the end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import study

TOOL = Path(__file__).resolve().parents[1] / "tools" / "plain_loop.py"
STEPS = 24
SETTINGS = (
    "intermediate={mnli_mlm: [mnli, mlm]}",
    "targets=[tatoeba, xnli]",
    "sampling={unit: example, mlm_share: 0.5}",
    f"intermediate_training={{max_steps: {STEPS}, train_batch_size: 16, save_steps: 0, eval_examples: 40, "
    "learning_rate: 3.0e-4}",
    "launch.nproc=1",
)


@pytest.mark.long
@pytest.mark.processes
def test_the_engine_computes_what_a_plain_loop_does(tmp_path: Path) -> None:
    study.stilts(tmp_path, "run", "study.yaml", "name=engine", *SETTINGS)
    study.stilts(tmp_path, "plan", "study.yaml", "name=plain", *SETTINGS)
    process = study.start(tmp_path, [sys.executable, str(TOOL), "runs/plain"])
    output = process.communicate(timeout=400)[0]
    assert process.returncode == 0, output
    engine, plain = tmp_path / "runs" / "engine", tmp_path / "runs" / "plain"
    phases = study.phase_ids(engine)
    assert len(phases) == 3  # MNLI with text, then XNLI; Tatoeba
    for phase in phases:
        expected = [(step, pytest.approx(loss, rel=1e-5)) for step, loss in study.curve(engine, phase)]
        assert study.curve(plain, phase) == expected, study.label(engine, phase)
    assert study.scores(plain) == study.scores(engine) != {}
