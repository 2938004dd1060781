"""The GPU goals in one bounded command: what is done is kept, what takes too long is ended, the table says which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stilts_bench import gpu
from stilts_bench.gpu_goals import FAILED, GOALS, table

MATMUL = {"tflops": 800.0, "copy_tb_per_s": 4.0, "machine": {"gpu": "NVIDIA H200"}}


def searched(ours: float, product: float, seconds: float = 0.1, torchs: float = 0.4) -> dict[str, Any]:
    return {
        "certified_rows": 999,
        "searched_rows": 1000,
        "methods": {
            "ours": {"gflops": ours, "median_s": seconds},
            "torch matmul + topk": {"gflops": 1.0, "median_s": torchs},
            "bfloat16 product alone": {"gflops": product, "median_s": 0.1},
            "float32 product alone": {"gflops": product / 8, "median_s": 0.1},
        },
    }


def trained(loss: float, tokens: float) -> dict[str, float]:
    return {"first_loss": loss, "tokens_per_second": tokens, "mfu": 0.55, "peak_gib": 20.0}


def rows_of(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """what -> (measured, verdict)"""
    rows = [goal.row(results) for goal in GOALS]
    return {f"{name}: {what}": (measured, verdict) for name, what, measured, _, verdict in rows}


def test_goals_are_computed_from_what_was_measured() -> None:
    rows = rows_of({
        "matmul": MATMUL, "topk-k4": searched(720_000, 800_000), "topk-float32": searched(640_000, 800_000),
        "two-way": searched(500_000, 700_000), "train": trained(2.5, 200_000), "train-padded": trained(2.5, 50_000),
        "zero3": trained(2.6, 150_000),
        "head": {"ours": {"extra_bytes": 1e8, "seconds": 0.02}, "all_tokens": {"extra_bytes": 4e9, "seconds": 0.08}},
    })  # fmt: skip
    assert rows["H1: one way, k 4, of the matmul rate"] == ("0.9", "reached")
    assert rows["H1: one way, k 4, times torch's matmul + topk"] == ("4", "reached")
    assert rows["H2: float32 rows, certified, of the bf16 matmul rate"] == ("0.8", "missed")
    assert rows["H2: float32 rows, certified rows"] == ("99.9 %", "reached")
    assert rows["H3: two ways, margin and matching, time of one matmul"] == ("1.4", "missed")
    assert rows["H4: times padded rows of the same examples"] == ("4", "reached")
    assert rows["H4: the same, of the matmul rate"] == ("0.55", "reached")
    assert rows["H4: tokens of XLM-R Large's shape a second"] == ("2e+05 /s", "")
    assert rows["H6: head: memory of all-token logits over ours"] == ("40", "reached")
    assert rows["H6: head: time of all-token logits over ours"] == ("4", "missed")
    assert rows["ZeRO 3: first loss, distance from stage 1"] == ("0.1", "missed")
    # Nothing is made up of what failed or is not there.
    for missing in ({}, {"topk-k16": {FAILED: "ended with status 1"}}):
        assert set(rows_of(missing).values()) == {("not measured", "")}


def test_variants_are_old_over_new() -> None:
    screens = {
        "bfloat16": {"seconds": 0.3, "survivors_per_row": 90.0},
        "float16": {"seconds": 0.2, "survivors_per_row": 45.0},
    }
    times = {"one way": {"default": 9.0, "other": 6.0, "wrong": "off by 1"}, "two ways": {"default": 5.0, "other": 8.0}}
    variants = {"screens": screens, "panels": {"kernel": 0.002, "torch": 0.018}, "configurations": times}
    rows = rows_of({"variants": variants})
    assert [measured for name, (measured, _) in rows.items() if name.startswith("A/B")] == ["1.5", "2", "9", "1.5", "1"]


def test_the_table_says_what_failed_and_what_is_left() -> None:
    results = {"matmul": MATMUL, "head": {FAILED: "took more than 40 s and was ended"}}
    text = table(results, ["matmul", "topk-k4", "two-way", "head"], trial=False)
    assert text.startswith("Measured on NVIDIA H200; bf16 product 800 TFLOP/s.")
    assert "- head: took more than 40 s and was ended" in text and "not done: topk-k4, two-way" in text
    trial = table({"topk-k4": searched(720_000, 800_000)}, ["topk-k4"], trial=True)
    assert "no figure here counts" in trial and "reached" not in trial


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    assert "torch sees no CUDA device; --trial" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_no_step_begins_that_cannot_end_in_time(tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path), "--trial", "--minutes", "0.1"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["table.md"]


def test_the_limits_of_all_steps_are_near_what_a_start_has() -> None:
    # The limits are the worst case: two starts finish in any case, and the most valuable come first.
    assert sum(step.seconds for step in gpu.STEPS) <= 2 * 60 * gpu.WHOLE_MINUTES
    assert len({step.name for step in gpu.STEPS}) == len(gpu.STEPS)


@pytest.mark.processes
@pytest.mark.long
def test_a_trial_runs_is_continued_and_ends_what_takes_too_long(tmp_path: Path) -> None:
    [matmul] = [step for step in gpu.STEPS if step.name == "matmul"]
    gpu.run_step(matmul, tmp_path, True, limit=0.01)
    given = ["--out", str(tmp_path), "--trial", "--only", "matmul", "topk-k4", "head"]
    assert gpu.main(given) == 1
    assert "and was ended" in json.loads((tmp_path / "matmul.json").read_text())[FAILED]
    made = {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in ("topk-k4", "head")}
    assert gpu.main([*given, "--again"]) == 0
    assert made == {name: (tmp_path / f"{name}.json").stat().st_mtime_ns for name in made}
    results = gpu.read_results(tmp_path)
    assert results["matmul"]["tflops"] > 0 and results["topk-k4"]["recall"] == 1.0
    assert abs(results["head"]["ours"]["loss"] - results["head"]["all_tokens"]["loss"]) < 0.02
