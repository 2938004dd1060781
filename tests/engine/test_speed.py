"""What a run says of its speed is counted right, batches are made ahead without changing them, a trace is written."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from conftest import SMALL, stilts
from torch.utils.flop_counter import FlopCounterMode

from stilts_ds.batches.collate import Collator
from stilts_ds.batches.feed import Feed
from stilts_ds.batches.mixture import Mixture
from stilts_ds.config import SamplingPart, TrainingPart
from stilts_ds.engine.stopwatch import PARTS, Speed

CPU = torch.device("cpu")
SETTING = TrainingPart(train_batch_size=12, per_device_train_batch_size=3, max_steps=6)


def feed(rank: int = 0, world_size: int = 2, packed: bool = True) -> Feed:
    tasks = small.tasks()
    mixture = Mixture({n: len(t.rows) for n, t in tasks.items()}, SETTING, SamplingPart(unit="example"), 3)
    return Feed(mixture, Collator(tasks, small.tokenizer_stub(), 0.15, 3), 2, rank, world_size, packed)  # type: ignore[arg-type]


def same(a: Any, b: Any) -> bool:
    return a.items == b.items and all(
        torch.equal(x.input_ids, y.input_ids)
        and n == m
        and x.heads.keys() == y.heads.keys()
        and all(torch.equal(x.heads[h].gold, y.heads[h].gold) for h in x.heads)
        for (x, n), (y, m) in zip(a.batches, b.batches, strict=True)
    )


@pytest.mark.parametrize("order", [range(6), (3, 4, 5), (2, 2, 5, 0, 1)])
def test_a_step_s_batches_are_the_same_whenever_they_are_made(order: Any) -> None:
    made = feed()
    try:
        assert all(same(made(step), feed().make(step)) for step in order)
    finally:
        made.close()


def test_the_next_step_is_made_in_the_background_and_the_one_after_the_last_is_not() -> None:
    made = feed()
    makers: dict[int, str] = {}
    whole = made.make

    def make(step: int) -> Any:
        makers[step] = threading.current_thread().name
        return whole(step)

    made.make = make  # type: ignore[method-assign]
    for step in range(6):
        made(step)
    made.close()
    assert sorted(makers) == list(range(6)) and all(name.startswith("batches") for name in makers.values())


def test_an_error_in_the_background_reaches_the_step_that_needs_it() -> None:
    made = feed()
    made(0)
    made.collate.tasks = {}
    made.ahead = None
    with pytest.raises(KeyError):
        made(1)
    made.close()


@pytest.mark.parametrize("packed", [True, False])
def test_ranks_share_a_step_s_examples_and_the_largest_micro_batch_is_known(packed: bool) -> None:
    both = [feed(rank, packed=packed) for rank in range(2)]
    for step in range(6):
        data = [each.make(step) for each in both]
        assert data[0].items == data[1].items and sum(n for d in data for _, n in d.batches) == 12
        batches = [batch for d in data for batch, _ in d.batches]
        computed = max(len(b.input_ids) if packed else b.padded_tokens for b in batches)
        # A question's choices count as its rows times their longest where rows are padded: at most what is computed.
        assert both[0].largest(step) == computed if packed else both[0].largest(step) <= 2 * computed


def test_operations_are_those_of_the_encoder_s_matrix_products() -> None:
    """Against torch's own counter, which sees every product of forward and backward."""
    model = small.model(packed=False, specs=[], hidden=32, layers=3, heads=4)
    speed = Speed(model.backbone.operations(), CPU, "fp32", world_size=2)
    rows, length = 4, 40
    ids = torch.full((rows, length), 5)
    model.encoder.set_attn_implementation("eager")  # the counter does not see inside fused attention
    with FlopCounterMode(display=False) as counter:
        model.encoder(ids).last_hidden_state.sum().backward()
    found = speed.tags(
        {"real": rows * length, "computed": 200, "squares": rows * length**2},
        {"data": 0.1, "forward": 0.5, "backward": 1.0, "update": 0.2},
        2.0,
    )
    # The first layer's inputs need gradients (embeddings are trained), so all products have both backward halves.
    assert found["train/mfu"] * speed.peak * 2.0 == pytest.approx(counter.get_total_flops(), rel=1e-3)
    assert found["train/tokens_per_second"] == 80
    assert [found[f"time/{part}_share"] for part in (*PARTS, "other")] == pytest.approx([0.05, 0.25, 0.5, 0.1, 0.1])
    assert "80 tokens/s" in speed.summary() and "padding 20.0%" in speed.summary()
    assert "data 5.0%, forward 25.0%, backward 50.0%, update 10.0%, other 10.0%" in speed.summary()


def test_the_log_ends_with_where_the_time_went_and_a_profile_is_written_on_request(tmp_path: Path) -> None:
    stilts(
        "run",
        "quickstart",
        *SMALL,
        "intermediate={nli: [mnli, ccg]}",
        "targets=[tatoeba]",
        "evaluation.retrieval_layer=2",
        "intermediate_training.max_steps=6",
        "engine.profile=true",
        cwd=tmp_path,
    )
    (phase,) = (tmp_path / "runs/quickstart/phases").glob("intermediate-*")
    said = (tmp_path / "runs/quickstart/logs/rank-0.log").read_text(encoding="utf-8")
    assert "padding 0.0%; time: data " in said
    lines = [json.loads(line) for line in (phase / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    shares = [sum(line[f"time/{part}_share"] for part in (*PARTS, "other")) for line in steps]
    assert np.allclose(shares, 1) and all(line["train/padding_fraction"] == 0 for line in steps)
    events = json.loads((phase / "profile.json").read_text())["traceEvents"]
    names = {event.get("name") for event in events}
    assert "aten::addmm" in names and len([e for e in events if e.get("name", "").startswith("ProfilerStep#")]) >= 3
