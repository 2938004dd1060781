"""The benchmark runs, refuses a wrong result, appends its figures and compares two files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from kernel_cases import gaussian
from stilts_bench import cases as bench_cases
from stilts_bench import kernels as bench
from stilts_bench.cases import CASES, BenchmarkCase, gate_topk
from stilts_bench.results import screen_of

from stilts_ds.run_dir import git_commit


def test_quick_run_and_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkout, without the project on the path."""
    out = tmp_path / "a.jsonl"
    environment = {**ranks.environment(), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, str(ranks.ROOT / "kernels/bench/run.py"), "--quick", "--out", str(out)],
        cwd=tmp_path,
        env=environment,
        text=True,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["case"] for line in lines] == [case.name for case in bench_cases.QUICK]
    for line in lines:
        assert line["recall"] == 1 and {"ours", "float32 matmul alone"} <= line["methods"].keys()
        assert 0 < line["methods"]["ours"]["min_s"] <= line["methods"]["ours"]["median_s"]
    assert bench.main(["--compare", str(out), str(out)]) == 0
    assert capsys.readouterr().out.count(" 1.00\n") == sum(len(line["methods"]) for line in lines)


def test_wrong_result_stops_before_any_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "QUICK", [BenchmarkCase("bad", "topk", 4, 50, 8, 2)])
    real = bench.topk_methods

    def spoiled(queries: torch.Tensor, bank: torch.Tensor, k: int) -> dict:
        found = real(queries, bank, k)["ours"]()
        return {"ours": lambda: (found[0], found[1].clone().fill_(int(found[1][0, 0])))}

    monkeypatch.setattr(bench, "topk_methods", spoiled)
    assert bench.main(["--quick", "--out", str(tmp_path / "x.jsonl")]) == 1
    assert "against float64" in capsys.readouterr().err and not (tmp_path / "x.jsonl").exists()


def test_gate_counts_what_is_wrong() -> None:
    queries, bank = gaussian(10, 8, 1), gaussian(60, 8, 2)
    values, indices = torch.topk(queries.double() @ bank.double().T, 4)
    assert gate_topk(queries, bank, 4, (values, indices)) == 1
    indices[0] = indices[0, 0]  # repeated
    indices[1, 3] = (queries[1] @ bank.T).argmin()
    assert gate_topk(queries, bank, 4, (values, indices)) == 1 - 4 / 40


def test_large_cases_cut_to_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BUCC and the CCMatrix-like shard at a size any machine takes, ours alone."""
    out = tmp_path / "x.jsonl"
    options = ["--max-size", "700", "--only", "ours", "--rounds", "1", "--out", str(out)]
    assert bench.main(["--case", "bucc-100k", "--case", "ccmatrix-shard", *options]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["case"] for line in lines] == ["bucc-100k-max700", "ccmatrix-shard-max700"]
    for line in lines:
        assert line["queries"] == line["rows"] == line["gated_rows"] == 700 and line["ratio"] is None
        assert line["commit"] == git_commit()
        assert not any("faiss" in name for name in line["methods"])
    assert bench.main(["--quick", "--only", "nothing", "--out", str(out)]) == 1
    assert "no such method" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [False, True])
def test_a_case_of_hours_runs_once_and_that_run_is_gated(
    wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls, real = [], bench_cases.both_ways

    def counted(source: torch.Tensor, target: torch.Tensor, k: int) -> tuple:
        calls.append(len(source))
        forward, backward = real(source, target, k)
        return forward, (backward[0], backward[1].flip(0) if wrong else backward[1])

    monkeypatch.setattr(bench_cases, "both_ways", counted)
    out = tmp_path / "x.jsonl"
    options = ["--max-size", "600", "--only", "ours", "--rounds", "3", "--out", str(out)]
    assert bench.main(["--case", "bucc-1m", *options]) == int(wrong)
    assert calls == [600]
    if wrong:
        assert "against float64" in capsys.readouterr().err and not out.exists()
    else:
        line = json.loads(out.read_text())
        assert line["rounds"] == 1 and line["recall"] == 1 and line["methods"]["ours"]["extra_peak_mb"] >= 0


def test_large_sides_are_gated_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "GATE_ALL", 50)
    monkeypatch.setattr(bench_cases, "GATE_SAMPLE", 7)
    queries, bank = gaussian(100, 8, 1), gaussian(60, 8, 2)
    values, indices = torch.topk(queries.double() @ bank.double().T, 4)
    indices[14] = indices[14, 0]  # a row that is looked at
    assert gate_topk(queries, bank, 4, (values, indices)) == 1 - 3 / 28


def test_comparison_needs_a_common_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        (tmp_path / name).write_text(json.dumps({"case": name, "methods": {"ours": {"median_s": 1.0}}}) + "\n")
    assert bench.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert "no case in common" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_gpu_asked_for_where_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--quick", "--device", "cuda", "--out", str(tmp_path / "x.jsonl")]) == 1
    assert "no CUDA device" in capsys.readouterr().err


def test_plot_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    line = {"case": "a", "methods": {"ours": {"gflops": 3.0}, "faiss IndexFlatIP": {"gflops": 1.0}}}
    bench.plot([line, {"case": "memory"}], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_drawn_by_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    limits = {"cpu, float32 screen": "AVX2", "cpu, int8 screen with avx2": "AVX2", "cpu, int8 screen with amx": None}
    lines = []
    for path, limit in limits.items():
        settings = {"ONEDNN_MAX_CPU_ISA": limit} if limit else {}
        lines.append({"case": "a", "path": path, "ratio": {"median": 2.0}, "machine": {"settings": settings}})
    (tmp_path / "x.jsonl").write_text("\n".join(json.dumps(line) for line in [*lines, {"case": "memory"}]))
    assert bench.main(["--plot", str(tmp_path / "x.jsonl")]) == 0
    assert (tmp_path / "x.svg").read_text().startswith("<?xml")
    assert [screen_of(line) for line in lines] == [
        "float32 screen (AVX2)",
        "int8 screen with avx2",
        "int8 screen with amx",
    ]
    (tmp_path / "y.jsonl").write_text(json.dumps({"case": "memory"}))
    assert bench.main(["--plot", str(tmp_path / "y.jsonl")]) == 1
    assert "y.jsonl: no ratio of FAISS's time to ours" in capsys.readouterr().err


def test_own_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("q", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", gaussian(70, 8, seed).numpy())
    files = [str(tmp_path / name) for name in ("q.npy", "b.npy")]
    assert bench.main(["--embeddings", *files, "--rounds", "1", "--out", str(tmp_path / "x.jsonl")]) == 0
    assert "embeddings: 70 x 70, D 8, k 4; recall 1.0000" in capsys.readouterr().out
    assert bench.main(["--embeddings", files[0], str(tmp_path / "none.npy")]) == 1


@pytest.mark.parametrize(
    ("path", "goal"),
    [
        ("cpu, int8 screen with avx2", 2.2),
        ("cpu, int8 screen with avx512-vnni", 3),
        ("cpu, int8 screen with amx", 4.5),
        ("cpu, float32 screen", 1),
        ("cpu, bfloat16 screen", None),
    ],
)
def test_a_goal_is_that_of_the_screen_which_ran(path: str, goal: float | None) -> None:
    [case] = [case for case in CASES if case.name == "topk-d1024-k4"]
    assert bench.goal_for(case.goals, path) == goal
    assert bench.goal_for(case.at_most(100).goals, path) is None
