"""Trackers: what TensorBoard, Weights & Biases and Trackio are given, read back from what they wrote."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.engine.monitor import Monitor
from stilts_ds.engine.progress import Progress
from stilts_ds.errors import UserError
from stilts_ds.trackers import Tracking, check_trackers, open_trackers

MEANS = {"dev/selection": 61.5, "test/xnli/mean": 50.0}
LANGUAGES = {"test/xnli/de": 48.0, "test/xnli/en": 52.0}


def tracking(folder: Path, *names: Any) -> Tracking:
    settings = {"condition": "none", "seed": 1, "learning_rate": 1e-5}
    return Tracking(
        folder / "tb", folder, "study", "none/seed1/xnli", "target-mnli-1", "name: study\n", settings, names
    )


def watch(folder: Path, *names: Any) -> None:
    """A phase of three steps that is stopped after the second, resumed, and scored."""
    for start, steps in ((0, (1, 2)), (1, (2, 3))):
        monitor = Monitor(folder / "metrics.jsonl", tracking(folder, *names), "phase", Progress(step=start), 3)
        monitor.steps([{"step": step, "train/loss": 3.0 - step, "train/tokens_per_second": 9.0} for step in steps])
        monitor.close()
    for tracker in open_trackers(tracking(folder, *names), done=None):
        tracker.scores(MEANS, LANGUAGES, 2)
        tracker.close()


def test_tensorboard_has_recipe_settings_scores_and_one_layout(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    watch(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.0), (2, 1.0), (3, 0.0)]
    for tag, value in {**MEANS, **LANGUAGES}.items():
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [(2, value)]
    [text] = events.Tensors("recipe/text_summary")
    assert b"name: study" in text.tensor_proto.string_val[0]
    assert len(events.Tensors("custom_scalars__config__")) == 1  # a resumed phase has one layout, too
    data = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    read = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info.hparams
    assert read["learning_rate"].number_value == 1e-5 and read["condition"].string_value == "none"


@pytest.mark.processes
def test_weights_and_biases_writes_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    watch(tmp_path, "wandb")
    runs = sorted((tmp_path / "wandb").glob("offline-run-*-target-mnli-1*"))  # it numbers those of one second
    assert len(runs) == 3
    written = b"".join(path.read_bytes() for run in runs for path in run.glob("*.wandb"))
    for word in (b"train/loss", b"test/xnli/de", b"none/seed1/xnli", b"name: study", b"learning_rate"):
        assert word in written, word


@pytest.mark.processes
def test_trackio_keeps_them_in_its_data_base(tmp_path: Path) -> None:
    """In a process of its own: the package keeps its folder from its first import on."""
    pytest.importorskip("trackio")
    program = (
        "import sys; from pathlib import Path; from test_trackers import watch; watch(Path(sys.argv[1]), 'trackio')"
    )
    paths = [str(Path(__file__).parent), *sys.path]
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(paths)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=environment, check=True, timeout=300)
    with sqlite3.connect(tmp_path / "study.db") as data_base:
        rows = [(step, json.loads(values)) for step, values in data_base.execute("SELECT step, metrics FROM metrics")]
        config = json.loads(data_base.execute("SELECT config FROM configs").fetchone()[0])
        runs = {name for (name,) in data_base.execute("SELECT run_name FROM metrics")}
    assert runs == {"none/seed1/xnli"} and config["recipe"] == "name: study\n" and config["learning_rate"] == 1e-5
    assert [(step, v["train/loss"]) for step, v in rows if "train/loss" in v] == [
        (1, 2.0),
        (2, 1.0),
        (2, 1.0),
        (3, 0.0),
    ]
    assert [(step, v) for step, v in rows if "test/xnli/de" in v] == [(2, {**MEANS, **LANGUAGES})]


def test_a_package_that_is_not_there_is_told_before_anything_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"report_to: wandb needs a package: pip install 'stilts-ds\[wandb\]'"):
        check_trackers(["wandb"])
