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
from stilts_kernels import bench, bench_cases
from stilts_kernels.bench_cases import Case, gate_topk


def test_quick_run_and_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a checkout, without the project on the path."""
    out = tmp_path / "a.jsonl"
    environment = {**ranks.environment(), "PYTHONPATH": ""}
    done = subprocess.run([sys.executable, str(ranks.ROOT / "kernels/bench/run.py"), "--quick", "--out", str(out)],
                          cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["case"] for line in lines] == [case.name for case in bench_cases.QUICK]
    for line in lines:
        assert line["recall"] == 1 and {"ours", "float32 matmul alone"} <= line["methods"].keys()
        assert 0 < line["methods"]["ours"]["min_s"] <= line["methods"]["ours"]["median_s"]
    assert bench.main(["--compare", str(out), str(out)]) == 0
    assert capsys.readouterr().out.count(" 1.00\n") == sum(len(line["methods"]) for line in lines)


def test_wrong_result_stops_before_any_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                            tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "QUICK", [Case("bad", "topk", 4, 50, 8, 2)])
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


def test_own_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("q", 1), ("b", 2)):
        np.save(tmp_path / f"{name}.npy", gaussian(70, 8, seed).numpy())
    files = [str(tmp_path / name) for name in ("q.npy", "b.npy")]
    assert bench.main(["--embeddings", *files, "--rounds", "1", "--out", str(tmp_path / "x.jsonl")]) == 0
    assert "embeddings: 70 x 70, D 8, k 4; recall 1.0000" in capsys.readouterr().out
    assert bench.main(["--embeddings", files[0], str(tmp_path / "none.npy")]) == 1
