"""The counts of the simulation at any number of GPUs are what real ranks of this machine send, write and open."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path
from typing import Any

import forked
import pytest
import ranks
from engine_runs import TRAINING, run
from safetensors import safe_open
from stilts_bench.scale import main as bench_scale

from stilts_ds.engine import open_files as limit
from stilts_ds.engine.open_files import allow_open_files, open_files
from stilts_ds.errors import UserError
from stilts_ds.planning.scale import (
    MODELS,
    Rates,
    Traffic,
    Work,
    beating,
    best_model,
    checkpoint_bytes,
    checkpoint_files,
    limits,
    parts,
    saving,
    sending_weights,
    step,
    tensors_of,
)

STEPS, SAVES = 6, 3
SMALL = 100  # bytes that norms and padding add to a step


def counted(folder: Path, stage: int, count: int) -> tuple[dict[str, Any], Work]:
    zero: dict[str, int] = {"stage": stage}
    if stage == 3:
        # As a large model is treated: DeepSpeed would keep small parameters whole, and gathered ones for the next pass.
        kept = ("param_persistence_threshold", "max_live_parameters", "max_reuse_distance", "prefetch_bucket_size")
        zero |= dict.fromkeys((f"stage3_{name}" for name in kept), 0)
    (folder / "zero.json").write_text(json.dumps({"zero_optimization": zero}))
    training = {**TRAINING, "max_steps": STEPS, "save_steps": STEPS // SAVES, "save_total_limit": SAVES}
    given = {"stage": stage, "engine": {"ds_config": str(folder / "zero.json")}, "training": training}
    printed = run(ranks.PROGRAMS / "count_messages.py", folder / "out.pt", json.dumps(given), ranks=count)
    [line] = [line for line in printed.splitlines() if line.startswith("COUNTS ")]
    told = json.loads(line.removeprefix("COUNTS "))
    sizes = [math.prod(shape) for shape in told["parameters"]]
    # A step of 12 examples in micro-batches of three at most.
    return told["counts"], Work(sum(sizes), len(sizes), stage, micro_batches=math.ceil(12 / count / 3))


def total(part: dict[str, list[int]], *names: str) -> tuple[int, int]:
    """Calls and payload of some collectives."""
    found = [part.get(name, [0, 0]) for name in names]
    return sum(calls for calls, _ in found), sum(payload for _, payload in found)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("stage", "count"),
    [
        (1, 1),
        (1, 2),
        *[pytest.param(*cell, marks=pytest.mark.long) for cell in [(0, 2), (1, 4), (2, 2), (2, 4), (3, 2), (3, 4)]],
    ],
)
def test_what_ranks_send_and_write_is_what_the_simulation_counts(stage: int, count: int, tmp_path: Path) -> None:
    counts, work = counted(tmp_path, stage, count)

    sent = sending_weights(work, count)
    assert total(counts["build"], "broadcast") == (sent.calls, sent.payload)

    gathers = ("all_gather_into_tensor",)
    reduces = ("all_reduce",) if stage < 3 else ("reduce_scatter_tensor",)
    measured = total(counts["step"], *reduces, *gathers)[1]
    expected = STEPS * step(work, count).payload
    if count == 1:  # nothing is gathered of others
        expected = STEPS * work.parameters * 4
    if stage < 3:
        assert expected <= measured <= expected + STEPS * SMALL
    else:  # each parameter is padded to a multiple of the ranks
        assert expected <= measured <= expected * 1.02

    kinds = ("all_reduce", *gathers)
    saved, best = saving(work, count), best_model(work, count)
    calls, payload = total(counts["save"], *kinds)
    assert calls == SAVES * saved.calls
    assert SAVES * saved.payload <= payload <= SAVES * saved.payload * (1.01 if stage == 3 else 1)
    calls, payload = total(counts["select"], *kinds)
    if stage == 3:  # predicting dev gathers, too
        assert calls >= best.calls and payload >= best.payload
    else:
        assert (calls, payload) == (best.calls, best.payload)
    # The only objects of a save: whether all ranks wrote their part, and whether all of it is there.
    assert total(counts["save"], "all_gather")[0] == SAVES * 2 * 2
    assert counts["ask"] == {"all_reduce": [STEPS, STEPS * 24]}

    folders = sorted((tmp_path / "phase" / "checkpoints").glob("step-*"))
    assert len(folders) == SAVES
    for folder in folders:
        files = list(folder.iterdir())
        assert len(files) == checkpoint_files(count)
        numbers = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                numbers += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
        assert 4 * numbers == checkpoint_bytes(work)


@pytest.mark.processes
@pytest.mark.parametrize("count", [2, 4])
def test_a_rank_opens_as_many_files_as_the_simulation_says(count: int) -> None:
    processes = forked.start(ranks.PROGRAMS / "open_files.py", ranks=count)
    told = [process.communicate(120)[0] for process in processes]
    opened = [int(output.split("OPEN ")[1].split()[0]) for output in told]
    # Some more or less in another environment; the next test is about what a rank adds.
    assert abs(opened[0] - open_files(count, first=True)) <= 10
    assert opened[0] - opened[1] == open_files(count, first=True) - open_files(count, first=False)


def test_a_rank_asks_for_as_many_open_files_as_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, bounds: asked.append((kind, bounds)))
    allow_open_files(64, first=True)
    assert asked == []
    allow_open_files(512, first=True)
    assert asked == [(resource.RLIMIT_NOFILE, (open_files(512, True) + limit.SPARE, 4096))]
    with pytest.raises(
        UserError, match=r"1000 ranks need 5237 open files in one process, and this machine allows 4096"
    ):
        allow_open_files(1000, first=True)


def test_the_models_have_their_papers_sizes() -> None:
    sizes = {name: round(shape.parameters / 1e6) for name, shape in MODELS.items()}
    assert sizes == {"Base": 277, "Large": 559, "XL": 3476, "XXL": 10696}
    assert tensors_of(MODELS["Base"]) == 5 + 16 * 12 + 2


def test_a_checkpoints_gathering_does_not_shrink_with_ranks_and_its_commit_grows() -> None:
    work, rates = Work.of(MODELS["Large"]), Rates()
    assert saving(work, 8) == Traffic(3 * 391, 12 * 558_840_832, 2 * 12 * 558_840_832 * 7 // 8)
    assert saving(work, 4096).sent > saving(work, 8).sent
    of_few, of_many = ({part.name: part for part in parts(work, count, rates)} for count in (8, 4096))
    assert of_many["checkpoint"].growing > 100 * of_few["checkpoint"].growing
    assert of_many["step"].seconds < 1.2 * of_few["step"].seconds


def test_what_is_met_first_is_the_batch_and_then_the_open_files() -> None:
    met = limits(Rates(), 32)
    assert [limit.ranks for limit in met] == sorted(limit.ranks for limit in met)
    assert met[0].ranks == 33 and met[1].ranks == 247 and "1024 files open" in met[1].what
    beats = next(limit.ranks for limit in met if "beats" in limit.what)
    assert beating(beats - 1, Rates()) <= 0.5 < beating(beats, Rates())


def test_the_command_prints_a_table_and_refuses_rates_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_scale(["--gpus", "8", "64"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n| ") == 4 * 4 and "| XXL, 3 | start-up | 37.4 to 42.1 | 775 | 0 | " in printed
    assert "33 ranks: a step of 32 examples" in printed
    with pytest.raises(UserError, match="--gpus 1: give 2 or more"):
        bench_scale(["--gpus", "1"])
    with pytest.raises(UserError, match="--network 0: give more than 0 GB"):
        bench_scale(["--network", "0"])
