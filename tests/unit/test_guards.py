"""Memory that does not suffice is explained; a task at chance is named once, and one that learns is not."""

from __future__ import annotations

import errno
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from stilts_ds.config import ModelPart, TrainingPart
from stilts_ds.engine.guards import WINDOW, ChanceWatch, explain_memory, memory_explained
from stilts_ds.engine.weights import encoder_of_ranks
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError, is_full_disk, no_room
from stilts_ds.model import encoder
from stilts_ds.model.heads import HeadSpec
from stilts_ds.rows.batch import Batch

TOKENS = torch.zeros(100, dtype=torch.long)
BATCH = Batch(TOKENS, TOKENS, TOKENS, TOKENS, torch.tensor([0, 40, 100]), (40, 60))
SETTING = TrainingPart(per_device_train_batch_size=8, train_batch_size=32)
HEADS = {
    "mnli": HeadSpec("nli", "pair", ("e", "n", "c")),
    "copa": HeadSpec("copa", "choice", width=4),
    "squad": HeadSpec("squad", "span"),
}


def test_a_real_failure_to_allocate_names_the_batch_and_what_to_change() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(1 << 58)
    told = explain_memory(found.value, BATCH, SETTING)
    assert isinstance(told, UserError)
    for part in (
        "2 rows and 100 tokens, at most 60 in a row",
        "per_device_train_batch_size (8;",
        "stays 32",
        "gradient_checkpointing",
    ):
        assert part in str(told)


def test_a_gpus_error_is_known_by_its_type() -> None:
    assert isinstance(explain_memory(torch.OutOfMemoryError("CUDA"), BATCH, SETTING), UserError)


def test_any_other_error_is_not_about_memory() -> None:
    assert explain_memory(RuntimeError("Connection closed by peer"), BATCH, SETTING) is None


@pytest.mark.parametrize(
    "problem",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: x"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        SafetensorError("Error: I/O error: Cannot allocate memory (os error 12)"),
    ],
)
def test_memory_that_runs_out_outside_a_micro_batch_says_when_and_what_to_change(problem: Exception) -> None:
    explained = partial(memory_explained, "while it is saved", "take fewer")
    with pytest.raises(UserError, match="out of memory while it is saved; take fewer"), explained():
        raise problem
    with pytest.raises(RuntimeError, match="Connection closed"), explained():
        raise RuntimeError("Connection closed by peer")
    # What was explained already is not explained again.
    with pytest.raises(UserError, match="^out of memory elsewhere$"), explained():
        raise UserError("out of memory elsewhere")


def test_a_model_that_memory_has_no_room_for_is_not_said_to_be_damaged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3 bytes")

    network = SimpleNamespace(from_pretrained=from_pretrained)
    monkeypatch.setattr(encoder, "check_folder", lambda path: None)
    monkeypatch.setattr(encoder, "_network_class", lambda path, setting, revision: (network, {}))
    alone = World(0, 0, 1, torch.device("cpu"), None, None)
    with pytest.raises(UserError, match=rf"^out of memory while {tmp_path} was loaded; rank 0 holds the whole model"):
        encoder_of_ranks(tmp_path, ModelPart(name_or_path=str(tmp_path)), None, "fp32", alone)


def test_a_full_disk_is_known_by_its_number_its_text_or_its_cause() -> None:
    full, other = OSError(errno.ENOSPC, "x"), RuntimeError("Connection closed by peer")
    assert is_full_disk(full) and is_full_disk(RuntimeError("Error: I/O error: No space left on device (os error 28)"))
    assert no_room(OSError(errno.EDQUOT, "x")) != no_room(full)
    assert is_full_disk(RuntimeError("Error: I/O error: Disk quota exceeded (os error 122)"))
    assert not is_full_disk(other) and not is_full_disk(OSError(errno.EACCES, "x"))
    other.__cause__ = full
    assert is_full_disk(other)
    other.__cause__ = other  # as after `raise problem from problem`
    assert not is_full_disk(other)


@pytest.mark.parametrize("share, told", [(0.97, []), (0.99, ["mnli"]), (1.2, ["mnli"])])
def test_a_task_is_at_chance_when_its_mean_loss_is(share: float, told: list[str]) -> None:
    watch = ChanceWatch(HEADS)
    for step in range(WINDOW):
        watch.add([("mnli", share * math.log(3) + (0.1 if step % 2 else -0.1)), ("squad", 9.0)])
        if step < WINDOW - 1:
            assert watch.stuck() == []
    found = watch.stuck()
    assert [sentence.split()[0] for sentence in found] == told
    assert watch.stuck() == []  # once
    if told:
        assert f"{share * math.log(3):.3f}" in found[0] and "1.099" in found[0]


def test_a_choice_is_guessed_among_its_answers() -> None:
    watch = ChanceWatch(HEADS)
    for _ in range(WINDOW):
        watch.add([("copa", math.log(4))])
    assert [sentence.split()[0] for sentence in watch.stuck()] == ["copa"]
