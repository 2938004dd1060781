"""Trained retrieval: the loss by hand, and pools that no number of ranks or micro-batches takes apart."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from engine_runs import PROGRAM, run, settings, some_slow

from stilts_ds.batches.collate import Collator
from stilts_ds.batches.mixture import deal, micro_batch_count
from stilts_ds.config import TrainingPart, parse_recipe
from stilts_ds.errors import UserError
from stilts_ds.families.build import build_head
from stilts_ds.families.ranking.head import INITIAL_SCALE
from stilts_ds.model.heads import HeadShape
from stilts_ds.named_tasks import check_tasks
from stilts_ds.planner import make_plan
from stilts_ds.rows.batch import Targets

POOLS = {"train_batch_size": 16, "per_device_train_batch_size": 5, "pool_size": 4}
CELLS = [(stage, ranks) for stage in (0, 1, 2, 3) for ranks in (1, 2, 4)]


def targets(pool: list[int]) -> Targets:
    none = torch.zeros(len(pool), dtype=torch.long)
    return Targets(torch.arange(2 * len(pool)), none, torch.ones(len(pool)), none, pool=torch.tensor(pool))


def logits(queries: list[list[float]], candidates: list[list[float]], scale: float) -> torch.Tensor:
    rows = [row for pair in zip(queries, candidates) for row in pair]
    return torch.tensor([[*row, scale] for row in rows], dtype=torch.float64)


def head() -> Any:
    return build_head(small.RANKED[1], HeadShape(8, 8, 0.0, 60, 1e-5))


def test_the_loss_is_the_softmax_from_query_to_candidate() -> None:
    """Rows only: the same with the candidates choosing among the queries would be another number."""
    given = logits([[1, 0], [0, 1]], [[1, 0], [0.6, 0.8]], 10)
    losses = head().losses(given, targets([0, 0]))
    assert losses.mean().item() == pytest.approx(0.00924266714535272, abs=5e-8)  # float32
    by_hand = [math.log(1 + math.exp(6 - 10)), math.log(1 + math.exp(0 - 8))]
    assert losses.tolist() == pytest.approx(by_hand, abs=5e-8)
    assert sum(by_hand) / 2 == pytest.approx(0.00924266714535272, abs=1e-16)


def test_a_query_sees_the_candidates_of_its_own_pool_only() -> None:
    generator = np.random.default_rng(3)
    queries, candidates = generator.normal(size=(2, 6, 8)).tolist()
    apart = head().losses(logits(queries, candidates, 2), targets([7, 4, 7, 4, 7, 4]))
    for places in ([0, 2, 4], [1, 3, 5]):
        chosen = logits([queries[i] for i in places], [candidates[i] for i in places], 2)
        torch.testing.assert_close(apart[places], head().losses(chosen, targets([0, 0, 0])))


def test_vectors_have_length_one_and_the_scale_begins_at_100() -> None:
    out = head()(torch.randn(6, 8))
    assert out[:, :-1].norm(dim=1).tolist() == pytest.approx([1] * 6, abs=1e-6)
    assert out[:, -1].tolist() == [INITIAL_SCALE] * 6 == [100.0] * 6


# --- what a step is --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks, micro_batches", [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1), (3, 2)])
@pytest.mark.parametrize("padded", [False, True])
def test_a_pool_stays_on_one_rank_in_one_micro_batch(ranks: int, micro_batches: int, padded: bool) -> None:
    lengths = np.random.default_rng(5).integers(4, 90, 24).tolist()
    dealt = deal(lengths, ranks, micro_batches, padded, pool=4)
    parts = [part for rank in dealt for part in rank]
    assert sorted(place for part in parts for place in part) == list(range(24))
    for part in parts:
        assert len(part) % 4 == 0 and len({place // 4 for place in part}) == len(part) // 4
    assert max(map(len, dealt)) <= micro_batches


def test_micro_batches_hold_whole_pools() -> None:
    setting = TrainingPart(**POOLS)
    assert [micro_batch_count(setting, ranks, 4) for ranks in (1, 2, 4)] == [4, 2, 1]
    roomy = TrainingPart(train_batch_size=64, per_device_train_batch_size=15, pool_size=4)
    assert micro_batch_count(roomy, 2, 4) == 3  # eight pools on a rank, three at a time


def test_the_pool_is_the_place_in_the_step_whatever_the_rank_has_of_it() -> None:
    tasks = small.tasks(small.RANKED)
    collate = Collator(tasks, small.tokenizer_stub(), 0.15, 3, pool_size=4)
    batch = collate([(place, "reqa", place) for place in (8, 9, 10, 11, 4, 5, 6, 7)], 0, {"reqa": 1.0})
    assert batch.heads["reqa"].pool.tolist() == [2] * 4 + [1] * 4
    assert collate([(0, "nli", 0)], 0, {"nli": 1.0}).heads["nli"].pool is None


# --- training --------------------------------------------------------------------------------------------------------


def ranked(folder: Path, stage: int) -> str:
    given = json.loads(settings(folder, stage, unit="step", ranked=True))
    given["training"] |= POOLS
    return json.dumps(given)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("reference") / "out.pt"
    run(PROGRAM, out, ranked(out.parent, -1))
    return torch.load(out, weights_only=True)


@pytest.mark.processes
@pytest.mark.parametrize("stage, ranks", some_slow(CELLS, [cell for cell in CELLS if cell not in ((0, 1), (3, 2))]))
def test_losses_and_weights_are_those_of_one_process(
    stage: int, ranks: int, tmp_path: Path, reference: dict[str, Any]
) -> None:
    run(PROGRAM, tmp_path / "out.pt", ranked(tmp_path, stage), ranks=ranks)
    ours = torch.load(tmp_path / "out.pt", weights_only=True)
    assert ours["curve"] == pytest.approx(reference["curve"], rel=1e-5)
    moved = ours["parameters"]["heads.reqa.scale"]
    assert moved.item() != INITIAL_SCALE
    for key, expected in reference["parameters"].items():
        if "key.bias" not in key:
            torch.testing.assert_close(ours["parameters"][key], expected, rtol=1e-7, atol=1e-5, msg=key)


# --- settings that cannot work ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training, problem",
    [
        ({"pool_size": 5}, "train_batch_size=16 is no multiple of pool_size=5"),
        ({"pool_size": 8, "per_device_train_batch_size": 6}, "per_device_train_batch_size=6 is less than pool_size=8"),
        ({"pool_size": 1}, "pool_size"),
    ],
)
def test_pools_that_cannot_be_formed_are_refused(training: dict[str, Any], problem: str) -> None:
    values = {"name": "x", "targets": ["lareqa"], "task_training": {"reqa_squad": training}}
    with pytest.raises(UserError, match=problem):
        make_plan(parse_recipe(values, "here"), "model", lambda task: "data")


def test_examples_of_several_tasks_in_one_step_make_no_pools() -> None:
    values = {"name": "x", "targets": ["xnli"], "intermediate": {"both": ["reqa_squad", "mnli"]},
              "sampling": {"unit": "example"}}  # fmt: skip
    with pytest.raises(UserError, match="intermediate.both: reqa_squad needs steps of its own; set sampling.unit=step"):
        check_tasks(parse_recipe(values, "here"))
