"""Trackers: what TensorBoard, Weights & Biases and Trackio are given, read back from what they wrote."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.errors import UserError
from stilts_ds.monitor import Monitor
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
        monitor = Monitor(folder / "metrics.jsonl", tracking(folder, *names), "phase", start, 0, 3)
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


def test_trackio_is_given_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in of its three functions: the package needs a web server."""
    calls: list[tuple[Any, ...]] = []
    fake: Any = types.ModuleType("trackio")
    fake.init = lambda **given: calls.append(("init", given["project"], given["name"], given["config"]["recipe"]))
    fake.log = lambda values, step: calls.append(("log", dict(values), step))
    fake.finish = lambda: calls.append(("finish",))
    monkeypatch.setitem(sys.modules, "trackio", fake)
    watch(tmp_path, "trackio")
    assert calls[0] == ("init", "study", "none/seed1/xnli", "name: study\n")
    assert ("log", {**MEANS, **LANGUAGES}, 2) in calls and calls[-1] == ("finish",)
    assert sum(call[0] == "log" for call in calls) == 5


def test_a_package_that_is_not_there_is_told_before_anything_is_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"report_to: wandb needs a package: pip install 'stilts-ds\[wandb\]'"):
        check_trackers(["wandb"])
