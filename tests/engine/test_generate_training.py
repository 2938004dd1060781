"""Training on programs: the loss by hand in float64, the same at every ZeRO stage, and never all logits at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from engine_runs import PROGRAM, run, settings, some_slow
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from stilts_ds.batches.collate import Collator
from stilts_ds.model import heads
from stilts_ds.model.multitask import MultiTask
from stilts_ds.rows.batch import Batch

CELLS = [(stage, ranks) for stage in (0, 1, 2, 3) for ranks in (1, 2)]


def batch_of(count: int = 8) -> Batch:
    """Programs beside pairs."""
    tasks = small.tasks(small.CODED)
    items = [(i, ("code", "nli")[i % 2], i // 2) for i in range(count)]
    return Collator(tasks, small.tokenizer_stub(), 0.15, 0)(items, 0, {"code": 0.1, "nli": 0.2})


def losses_by_hand(batch: Batch) -> tuple[float, float]:
    """Weighted losses of programs and pairs in float64: each row alone through transformers' own attention, with the
    mask of a prefix language model written out."""
    model = small.model(specs=small.CODED, packed=False).double().eval()
    model.encoder.set_attn_implementation("eager")
    assert batch.prefix is not None
    hidden = []
    for start, length, prefix in zip(batch.starts, batch.lengths, batch.prefix):
        row, column = torch.arange(length)[:, None], torch.arange(length)
        sees = (column <= row) | (column < prefix)
        mask = torch.zeros(1, 1, length, length, dtype=torch.float64).masked_fill(~sees, -1e30)
        ids = batch.input_ids[None, start : start + length]
        hidden.append(model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state[0])
    states = torch.cat(hidden)
    losses = []
    for name, features in (("code", {"embedding": model.word_embedding}), ("nli", {})):
        targets = batch.heads[name]
        logits = model.head(name)(states[targets.tokens], **features)
        each = functional.cross_entropy(logits, targets.gold, reduction="none")
        losses.append((each * targets.weight).sum().item())
    return losses[0], losses[1]


def test_the_loss_is_that_of_a_prefix_language_model_in_float64() -> None:
    batch = batch_of()
    total, by_task, counts = small.model(specs=small.CODED).eval()(batch)
    code, nli = losses_by_hand(batch)
    assert total.item() == pytest.approx(code + nli, rel=1e-5)
    assert by_task.tolist() == pytest.approx([nli / 0.2, code / 0.1], rel=1e-5)
    # Every token of a solution and its end are targets, whatever stands in the prompt.
    assert counts.tolist() == [4, sum(n - p for n, p in zip(batch.lengths, batch.prefix or ()))]


def test_a_model_without_packed_rows_is_refused_with_the_setting() -> None:
    from stilts_ds.errors import UserError

    with pytest.raises(UserError, match="set model.attn_implementation to `packed`"):
        small.model(specs=small.CODED, packed=False)(batch_of())


class LargestLinear(TorchFunctionMode):
    """The most rows of logits that were ever computed at once."""

    rows = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is functional.linear and out.shape[-1] == small.VOCABULARY:
            self.rows = max(self.rows, out.shape[0])
        return out


def gradients(model: MultiTask, batch: Batch) -> dict[str, torch.Tensor]:
    model(batch)[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_chunks_change_no_gradient_and_no_more_logits_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = batch_of(24)
    assert len(batch.heads["code"].tokens) > 40
    whole = gradients(small.model(specs=small.CODED), batch)
    monkeypatch.setattr(heads, "CHUNK", 7)
    with LargestLinear() as largest:
        parts = gradients(small.model(specs=small.CODED), batch)
        foreseen = small.model(specs=small.CODED).eval()(batch, "logits")["code"]
    assert largest.rows == 7
    assert foreseen.shape == (len(batch.heads["code"].tokens), 1)
    logits = small.model(specs=small.CODED).eval()(batch, "next")["code"]
    assert torch.equal(foreseen[:, 0].long(), logits.argmax(-1))
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Plain torch, all weights, states and updates in float64."""
    folder = tmp_path_factory.mktemp("reference")
    run(PROGRAM, folder / "out.pt", settings(folder, -1, coded=True, double=True))
    return torch.load(folder / "out.pt")


@pytest.mark.parametrize("stage, ranks", some_slow(CELLS, [cell for cell in CELLS if cell not in ((1, 1), (3, 2))]))
def test_every_zero_stage_trains_on_programs_as_float64_does(
    stage: int, ranks: int, tmp_path: Path, reference: dict[str, Any]
) -> None:
    run(PROGRAM, tmp_path / "out.pt", json.dumps(json.loads(settings(tmp_path, stage, coded=True))), ranks=ranks)
    found = torch.load(tmp_path / "out.pt")
    assert next(iter(reference["parameters"].values())).dtype == torch.float64
    assert found["curve"] == pytest.approx(reference["curve"], abs=1e-5)
    for name, value in reference["parameters"].items():
        torch.testing.assert_close(found["parameters"][name].float(), value.float(), rtol=0, atol=1e-5)
