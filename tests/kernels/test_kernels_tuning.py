"""The tuner's record: written whole, found by key, refused when it does not fit; tuning itself, interpreted."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch

pytest.importorskip("triton")

from stilts_bench import kernels as bench
from stilts_kernels.topk import configs  # needs triton

H200 = "NVIDIA H200"


def test_entries_are_added_and_found_by_key(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "tuned.json"
    key = configs.record_key(H200, torch.bfloat16, 1024, 8, True)
    assert key == "NVIDIA H200 / two-way / bfloat16 / D 1024 / k 8"
    default = configs.resolve(path, 90, key, 8, True)
    assert default[0] == configs.candidates(90, 8, True)[0] and "no entry" in default[1]
    chosen, other = configs.candidates(90, 8, True)[1:3]
    configs.save_entry(path, key, {"config": chosen, "median_ms": {}})
    assert configs.resolve(path, 90, key, 8, True) == (chosen, f"tuned: {key} of {path}")
    configs.save_entry(path, configs.record_key(H200, torch.float16, 1024, 8, True), {"config": other})
    assert len(configs.load_record(path)) == 2 and list(path.parent.iterdir()) == [path]
    for near in (
        (H200, torch.bfloat16, 1024, 16, True),
        (H200, torch.bfloat16, 384, 8, True),
        (H200, torch.bfloat16, 1024, 8, False),
        ("NVIDIA H100", torch.bfloat16, 1024, 8, True),
    ):
        near_key = configs.record_key(*near)
        assert configs.resolve(path, 90, near_key, *near[3:])[1].startswith("default")
    configs.save_entry(path, key, {"config": other})
    assert configs.resolve(path, 90, key, 8, True)[0] == other


def test_unknown_configuration_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, key = tmp_path / "tuned.json", configs.record_key(H200, torch.bfloat16, 1024, 8, False)
    configs.save_entry(path, key, {"config": {**configs.HOPPER, "BM": 512}})
    with caplog.at_level(logging.WARNING):
        assert configs.resolve(path, 90, key, 8, False)[0] == configs.candidates(90, 8, False)[0]
    assert "not a candidate" in caplog.text


@pytest.mark.parametrize("content", ["not json", "[]", '{"key": 3}', '{"key": {}}'])
def test_damaged_record_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tuned.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="tuned.json is not a record"):
        configs.resolve(path, 90, "key", 8, False)


def test_record_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STILTS_KERNELS_TUNED", raising=False)
    assert configs.record_path() == ranks.ROOT / "kernels" / "results" / "tuned.json"
    monkeypatch.setenv("STILTS_KERNELS_TUNED", "/elsewhere/t.json")
    assert configs.record_path() == Path("/elsewhere/t.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_tuning_without_a_gpu_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--tune", "--out", str(tmp_path / "tuned.json")]) == 1
    assert "needs a CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())


INTERPRETED = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.INFO, format="%(message)s")
from kernel_cases import gaussian
from stilts_bench import tuner
from stilts_kernels.common.rows import Rows
from stilts_kernels.topk import configs, cuda

path = configs.record_path()
queries, bank = gaussian(70, 16, 1).half(), gaussian(130, 16, 2).half()
for two_way in (False, True):
    entry = tuner.tune(queries, bank, 4, two_way, path, rounds=1)
    assert len(entry["median_ms"]) == len(configs.candidates(0, 8, two_way)) == 3 and not entry["rejected"], entry
wrong = tuner.why_wrong(queries, bank, 4, False, {**configs.INTERPRETER, "BN": 24})
assert wrong, "tiles of 24 columns cannot work"
search = cuda.Search(Rows(queries, "queries"), Rows(bank, "bank"), 3, 2)
assert search.config == configs.load_record(path)[entry["key"]]["config"]
"""


def test_interpreted_tuning_writes_what_searches_read(tmp_path: Path) -> None:
    """The tuner itself: gate, times, record; then a search that says it took the recorded configuration."""
    path = tmp_path / "tuned.json"
    environment = ranks.environment(TRITON_INTERPRET="1", STILTS_KERNELS_TUNED=str(path))
    environment["PYTHONPATH"] += f":{ranks.ROOT / 'tests' / 'helpers'}"
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, text=True, capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    key = "interpreter / two-way / float16 / D 16 / k 8"
    assert f"(tuned: {key} of {path})" in done.stderr and "has no entry for" in done.stderr
    entry = json.loads(path.read_text())[key]
    assert entry["config"] in configs.candidates(0, 8, True) and entry["rows"] == 130
