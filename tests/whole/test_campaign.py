"""The fault campaign, short: a few kills of one study. The long one is `make campaign`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fire
import pytest
import ranks
import torch
from distance import distance
from fire import Fight, Setting
from safetensors.torch import save_file

pytestmark = pytest.mark.processes


@pytest.mark.long
def test_a_study_that_is_killed_again_and_again_ends_at_the_numbers_of_a_quiet_one(tmp_path: Path) -> None:
    program = ranks.ROOT / "tests/tools/campaign.py"
    few = ["--kills", "3", "--stages", "2", "--ranks", "1", "--seed", "5", "--clean-ends", "1", "--output", "fired"]
    done = subprocess.run(
        [sys.executable, str(program), *few],
        cwd=tmp_path,
        env=ranks.environment(),
        text=True,
        timeout=900,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert "3 kills in" in done.stdout and "0 hangs, 0 studies with a difference" in done.stdout


def test_a_difference_of_one_bit_is_seen(tmp_path: Path) -> None:
    """What the comparison looks at, on files written by hand."""
    ours, quiet = Fight(tmp_path / "a", Setting(0, 1)), Fight(tmp_path / "b", Setting(0, 1))
    for fight in (ours, quiet):
        folder = fight.run / "phases" / "target-x"
        for name, text in (
            ("metrics.jsonl", '{"step": 1, "train/loss": 0.5, "time/data_share": 0.1}\n'),
            ("heads.safetensors", "weights"),
            ("predictions/xnli/test-qaa.tsv", "yes\n"),
            ("results/xnli.json", '{"mean": 33.0, "provenance": "here"}'),
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    assert fire.differences(fire.left_by(ours.run), fire.left_by(quiet.run)) == []
    folder = ours.run / "phases" / "target-x"
    (folder / "heads.safetensors").write_text("weighty")
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss": 0.25}\n')
    (folder / "predictions/xnli/test-qaa.tsv").unlink()
    assert fire.differences(fire.left_by(ours.run), fire.left_by(quiet.run)) == [
        "phases/target-x/heads.safetensors",
        "phases/target-x/predictions/xnli/test-qaa.tsv",
        "target-x/curve",
    ]


def test_what_a_start_found_after_a_kill_is_read_off_its_log(tmp_path: Path) -> None:
    """By the name that the log has of a phase, which is not its id."""
    log = tmp_path / "rank-0.log"
    phase: Any = SimpleNamespace(id="target-mnli-1a2b", label="none/seed1/xnli", title="none/seed1/xnli")
    watch = fire.Watch(tmp_path, log, plan=[phase])
    killed = {"phase": phase.id, "step": 7}
    log.write_text(
        "checkpoint step-000006 is not used: it was never committed (the job ended while saving)\n"
        "none/seed1/xnli: 30 steps of 8 examples, 1 micro-batch a rank, continuing after step 3\n"
    )
    assert watch.aftermath(killed) == {"torn": 1, "continued": 3, "repeated": 4}
    log.write_text("none/seed1/xnli: 30 steps of 8 examples, 1 micro-batch a rank\n")
    assert watch.aftermath(killed) == {"torn": 0, "continued": 0, "repeated": 7}
    log.write_text("mnli/seed1/xnli: 30 steps of 8 examples, 1 micro-batch a rank\n")
    assert watch.aftermath(killed) is None


def test_an_elastic_study_is_compared_within_a_tolerance(tmp_path: Path) -> None:
    """Losses may differ by what sums over ranks are rounded by, and no step may lack."""
    runs = [tmp_path / name for name in ("ours", "quiet")]

    def write(run: Path, losses: dict[int, float], weight: float, best: int) -> None:
        folder = run / "phases" / "target-x"
        (folder / "encoder").mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"step": step, "train/loss": loss}) for step, loss in losses.items()]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "status.json").write_text(json.dumps({"best": {"step": best}}))
        for name in ("encoder/model.safetensors", "heads.safetensors"):
            save_file({"w": torch.tensor([1.0, weight])}, folder / name)

    write(runs[1], {1: 0.5, 2: 0.25}, 2.0, 2)
    write(runs[0], {1: 0.5, 2: 0.25 * (1 + 2e-5)}, 2.5, 2)
    near = distance(*runs)
    assert (near.loss, near.weight, near.other_best, near.faults) == (pytest.approx(2e-5), 0.5, 0, ())
    write(runs[0], {1: 0.5, 2: 0.25 * (1 + 2e-4)}, 2.5, 1)
    far = distance(*runs)
    assert (far.weight, far.other_best, far.faults) == (0.0, 1, ("target-x/curve",))
    write(runs[0], {1: 0.5}, 2.0, 2)
    assert distance(*runs).faults == ("target-x/curve",)
