"""Training equals a single-process torch reference at every ZeRO stage, and resumes bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import time
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
import ranks
import torch
from engine_runs import PROGRAM, ZERO, run, settings, some_slow
from streams import StreamsOnly

from stilts_ds.config import TrainingPart
from stilts_ds.engine import streams
from stilts_ds.engine.optim import learning_rate

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    "ratio, rates",
    [
        (0.1, [1.0]),
        (1.0, [1.0]),
        (0.1, [0.0, 1.0]),
        (1.0, [0.0, 0.5]),
        (0.0, [1.0, 0.5]),
        (0.5, [0.0, 0.5, 1.0, 0.5]),
        (0.1, [0.0, 1.0, 0.75, 0.5, 0.25]),
    ],
)
def test_the_rate_rises_and_falls_and_the_only_step_of_a_phase_trains(ratio: float, rates: list[float]) -> None:
    """A phase of one step had rate 0; all longer ones keep the schedule that they had."""
    setting = TrainingPart(learning_rate=1.0, warmup_ratio=ratio)
    assert [learning_rate(step, len(rates), setting) for step in range(len(rates))] == rates


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = {}
    for unit in ("example", "step"):
        out = tmp_path_factory.mktemp("reference") / "out.pt"
        run(PROGRAM, out, settings(out.parent, -1, unit))
        found[unit] = torch.load(out, weights_only=True)
    return found


CELLS = [(0, 1, "example", False), (0, 2, "example", False), (0, 2, "step", False)]
CELLS += [(stage, size, "example", False) for stage in (1, 2, 3) for size in (1, 2)]
CELLS += [(stage, 2, "step", False) for stage in (1, 2, 3)] + [(stage, 2, "example", True) for stage in (1, 2, 3)]
CELLS += [(2, 4, "example", False), (3, 4, "example", False)]
# What the others cover too: run with -m slow.
OFTEN_ENOUGH = [(1, 2, "step", False), (2, 2, "step", False), (2, 2, "example", True), (2, 4, "example", False)]
OFTEN_ENOUGH += [
    (0, 4, "example", False),
    (1, 4, "example", False),
    (1, 3, "step", True),
    (2, 3, "step", True),
    (3, 3, "step", True),
    (3, 3, "step", False),
    (0, 3, "step", False),
]
CELLS += OFTEN_ENOUGH[4:]


@pytest.mark.parametrize("stage, size, unit, offload", some_slow(CELLS, OFTEN_ENOUGH))
def test_training_equals_the_reference(
    stage: int, size: int, unit: str, offload: bool, tmp_path: Path, references: dict[str, Any]
) -> None:
    """Different tasks (or the same) on the ranks, idle heads, accumulation, clipping, unequal token counts."""
    out = tmp_path / "out.pt"
    run(PROGRAM, out, settings(tmp_path, stage, unit, offload), ranks=size)
    ours, reference = torch.load(out, weights_only=True), references[unit]
    assert ours["linear"], "what this process computes afterwards would be rounded otherwise"
    assert not ours["compiler"], "torch's compiler was imported, which takes a rank longer than all of this training"
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-5)
    for name, expected in reference["parameters"].items():
        if "key.bias" not in name:  # attention's key bias has no gradient in exact arithmetic
            torch.testing.assert_close(ours["parameters"][name], expected, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("stage, size", some_slow([(0, 1), (1, 2), (3, 2)], [(1, 2)]))
def test_training_only_the_touched_vocabulary_equals_training_all_of_it(stage: int, size: int, tmp_path: Path) -> None:
    """Rows outside the data included: they only decay. (Strongly here, so that a wrong factor shows.)"""
    given = json.loads(settings(tmp_path, stage))
    given |= {"vocabulary": 200, "without": ["mlm"]}
    given["training"] |= {"weight_decay": 10.0}
    run(PROGRAM, tmp_path / "all.pt", json.dumps(given | {"stage": -1}))
    run(PROGRAM, tmp_path / "touched.pt", json.dumps(given | {"touched": True}), ranks=size)
    all_rows, touched = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("all", "touched"))
    assert touched["curve"] == pytest.approx(all_rows["curve"], rel=1e-5)
    for name, expected in all_rows["parameters"].items():
        if "key.bias" not in name:
            torch.testing.assert_close(touched["parameters"][name], expected, rtol=0, atol=1e-5, msg=name)


RESUMED = [(0, "fp32", False), *product((1, 2, 3), ("fp32", "bf16"), (False, True))]
SELDOM = [cell for cell in RESUMED if cell not in [(0, "fp32", False), (1, "bf16", False), (3, "fp32", True)]]


@pytest.mark.parametrize("stage, dtype, offload", some_slow(RESUMED, SELDOM))
def test_a_stopped_run_continues_bit_for_bit(stage: int, dtype: str, offload: bool, tmp_path: Path) -> None:
    given = json.loads(settings(tmp_path, stage, offload=offload, dropout=0.1))
    given["engine"]["dtype"] = dtype
    given["training"]["save_steps"] = 2
    run(PROGRAM, tmp_path / "whole.pt", json.dumps(given), ranks=2)
    shutil.rmtree(tmp_path / "phase" / "checkpoints" / "step-000006")  # as if the job had ended after step 4
    run(PROGRAM, tmp_path / "parts.pt", json.dumps(given), ranks=2)
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert a["curve"] == b["curve"] and a["norms"] == b["norms"]
    for name, value in a["parameters"].items():
        assert torch.equal(value, b["parameters"][name]), name


def test_a_checkpoint_is_written_whenever_rank_0_finds_the_last_one_too_old(tmp_path: Path) -> None:
    """At every step here. Rank 1, whose clock stands still, saves with it; and the run continues bit for bit."""
    given = json.loads(settings(tmp_path, 2, dropout=0.1, frozen_clock=1))
    run(PROGRAM, tmp_path / "whole.pt", json.dumps(given), ranks=2)
    assert not list((tmp_path / "phase").glob("checkpoints/step-*"))  # the default of save_steps is far away
    given["training"]["save_minutes"] = 1e-9
    run(PROGRAM, tmp_path / "parts.pt", json.dumps(given), ranks=2)
    tags = sorted(path.parent.name for path in (tmp_path / "phase").glob("checkpoints/*/manifest.json"))
    assert tags == ["step-000005", "step-000006"]
    shutil.rmtree(tmp_path / "phase" / "checkpoints" / tags[-1])
    run(PROGRAM, tmp_path / "parts.pt", json.dumps(given), ranks=2)
    a, b = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert a["curve"] == b["curve"] and a["norms"] == b["norms"]


# Every stage hands over to every other and to itself, at 1 to 4 ranks: (stage, ranks) one after the other.
CHAIN = [
    (0, 1),
    (0, 2),
    (1, 3),
    (1, 1),
    (2, 2),
    (2, 4),
    (3, 1),
    (3, 3),
    (0, 4),
    (2, 1),
    (0, 3),
    (3, 2),
    (1, 2),
    (3, 4),
    (2, 3),
    (1, 4),
    (0, 2),
]


@pytest.mark.parametrize(
    "chain", [pytest.param(CHAIN[1::3] + CHAIN[:1], id="six"), pytest.param(CHAIN, id="all", marks=pytest.mark.slow)]
)
def test_any_stage_and_number_of_ranks_continues_the_same_curve(chain: list[tuple[int, int]], tmp_path: Path) -> None:
    """Two steps at each place; the last one ends. Losses and weights as in one undisturbed process of plain torch."""
    given = json.loads(settings(tmp_path, -1))
    given["training"] |= {"max_steps": 2 * len(chain), "logging_steps": 1}
    run(PROGRAM, tmp_path / "reference.pt", json.dumps(given))
    for number, (stage, size) in enumerate(chain, start=1):
        here = json.loads(settings(tmp_path, stage)) | {"training": given["training"], "stop_at": 2 * number}
        run(PROGRAM, tmp_path / "out.pt", json.dumps(here), ranks=size)
    ours, reference = (torch.load(tmp_path / n, weights_only=True) for n in ("out.pt", "reference.pt"))
    assert len(ours["curve"]) == 2 * len(chain)
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-6)
    for name, expected in reference["parameters"].items():
        if "key.bias" not in name:
            torch.testing.assert_close(ours["parameters"][name], expected, rtol=0, atol=1e-5, msg=name)


def test_a_signal_saves_and_the_next_start_continues(tmp_path: Path) -> None:
    given = json.loads(settings(tmp_path, 2, dropout=0.1))
    given["training"] |= {"max_steps": 400, "logging_steps": 1}
    processes = forked.start(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    metrics = tmp_path / "phase" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 3) and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)  # one rank only: all of them stop at the same step
    outputs = [p.communicate(timeout=400)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert all("stopped by SIGTERM" in output for output in outputs)
    (tag,) = (tmp_path / "phase" / "checkpoints").glob("step-*")
    assert int(tag.name[5:]) == len(metrics.read_text().splitlines())


@pytest.mark.parametrize(
    "stage, dtype", [(0, "fp32"), (1, "bf16"), pytest.param(2, "fp32", marks=pytest.mark.slow), (3, "fp32")]
)
def test_nan_on_one_rank_changes_no_weight_on_any_and_ends_the_run(stage: int, dtype: str, tmp_path: Path) -> None:
    """Three steps in a row are skipped, the fourth is one too many; that is found when three more are logged."""
    given = json.loads(settings(tmp_path, stage, nan_rank=1))
    given["engine"]["dtype"] = dtype
    processes = forked.start(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode for process in processes), outputs
    assert "4 steps in a row had a non-finite gradient, up to step 4" in outputs[0], outputs
    assert outputs[0].count("weights kept") == 6 and not any("weights changed" in output for output in outputs), outputs


BAD = [(0, False, 0), (0, False, 3), (1, False, 3), (1, True, 3), (2, False, 0), (3, False, 0), (3, True, 3)]
ALSO_BAD = [(0, False, 3), (1, True, 3), (2, False, 0), (3, False, 0), (3, True, 3)]


@pytest.mark.parametrize("stage, offload, bad", some_slow(BAD, ALSO_BAD))
def test_a_skipped_step_is_as_if_it_had_not_been(stage: int, offload: bool, bad: int, tmp_path: Path) -> None:
    """NaN on the last rank in one step: weights, moments and Adam's step number stay, also if a stop comes next."""
    given = json.loads(settings(tmp_path, stage, offload=offload, bad_step=bad))
    run(PROGRAM, tmp_path / "reference.pt", json.dumps(given | {"stage": -1}))
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given | {"stop_at": bad + 1}), ranks=2)
    assert (tmp_path / f"phase/checkpoints/step-{bad + 1:06d}/manifest.json").exists()
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)
    ours, reference = (torch.load(tmp_path / n, weights_only=True) for n in ("out.pt", "reference.pt"))
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-5, nan_ok=True)
    for name, expected in reference["parameters"].items():
        if "key.bias" not in name:
            torch.testing.assert_close(ours["parameters"][name], expected, rtol=0, atol=1e-5, msg=name)


LOOKS = [(0, "fp32"), (1, "bf16"), (2, "fp32"), (3, "bf16")]


@pytest.mark.parametrize("stage, dtype", some_slow(LOOKS, LOOKS[2:]))
def test_no_step_looks_at_a_value_on_the_device(stage: int, dtype: str, tmp_path: Path) -> None:
    """On a GPU each look would have the host wait. Our part and DeepSpeed's, clipping and accumulation included."""
    given = json.loads(settings(tmp_path, stage, dropout=0.1, no_waiting=True))
    given["engine"]["dtype"] = dtype
    run(PROGRAM, tmp_path / "out.pt", json.dumps(given), ranks=2)


def on_streams(folder: Path, stage: int, size: int, dtype: str, **more: Any) -> list[dict[str, Any]]:
    """Train with the shipped configuration (and small buckets) on streams; what each rank found."""
    given = json.loads(settings(folder, stage, dropout=0.1, **more))
    config = json.loads((ranks.ROOT / "ds_configs" / f"zero{stage}.json").read_text())
    config["zero_optimization"] |= ZERO[stage]
    Path(given["engine"]["ds_config"]).write_text(json.dumps(config))
    given["engine"]["dtype"] = dtype
    given["training"] |= {"max_steps": 4, "eval_steps": 2, "save_steps": 3}
    run(PROGRAM, folder / "out.pt", json.dumps(given), ranks=size)
    return [json.loads((folder / f"streams-{rank}.json").read_text()) for rank in range(size)]


ON_STREAMS = [(2, 2, "fp32"), (3, 2, "bf16"), (0, 2, "fp32"), (1, 2, "bf16"), (3, 1, "fp32"), (2, 1, "bf16")]


@pytest.mark.parametrize("stage, size, dtype", some_slow(ON_STREAMS, ON_STREAMS[2:]))
def test_no_step_waits_for_streams_and_none_races(stage: int, size: int, dtype: str, tmp_path: Path) -> None:
    """DeepSpeed's own code for GPUs, on streams that know what is ordered (tests/helpers/streams.py). At stage 3 the
    host is held two gathers ahead of a device that never catches up; waits for a stream or the device would empty it.
    """
    for found in on_streams(tmp_path, stage, size, dtype, ordered=True):
        assert found["streams"] == (0, 1, 1, 2)[stage]  # of DeepSpeed's own: it does run its code for GPUs
        assert found["races"] == {}
        assert all(stage == 3 and wait.startswith("an event in ") for wait in found["waits"])


@pytest.mark.long
@pytest.mark.parametrize(
    "stage, race",
    [
        pytest.param(2, "independent_gradient_partition_epilogue", marks=pytest.mark.slow),
        (3, "c10d._allgather_base_.default after aten.copy_.default"),  # weights are gathered while they are updated
    ],
)
def test_without_an_order_among_streams_they_race(stage: int, race: str, tmp_path: Path) -> None:
    found = on_streams(tmp_path, stage, 2, "bf16", ordered=False)
    assert any(race in each for rank in found for each in rank["races"])


@pytest.mark.parametrize("stage", [0, 2])
def test_streams_that_are_not_found_are_told(
    stage: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A DeepSpeed that keeps them elsewhere would wait as it likes, in silence. Stage 0 has none."""
    monkeypatch.setattr(streams, "get_accelerator", StreamsOnly)
    config = {"zero_optimization": {"stage": stage}}
    streams.Streams(SimpleNamespace(optimizer=SimpleNamespace(), config=config))
    assert ("keeps its streams elsewhere" in caplog.text) == (stage > 0)


def test_an_infinite_gradient_leaves_the_weights_alone(tmp_path: Path) -> None:
    """A learning rate is no reason to lose a model: weights poisoned on purpose stop the run, naming examples."""
    for stage in (0, 1):
        given = json.loads(settings(tmp_path, stage, poison=True))
        out = tmp_path / f"{stage}" / "out.pt"
        out.parent.mkdir()
        process = forked.start(PROGRAM, out, json.dumps(given), ranks=1)[0]
        output = process.communicate(timeout=400)[0]
        assert process.returncode != 0
        assert "steps in a row had a non-finite gradient" in output and "nli[" in output
