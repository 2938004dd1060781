"""Outputs of several splits on any number of ranks: what travels is small, and rank 0 gets each split as soon as it is
whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small
import torch
from hypothesis import given
from hypothesis import strategies as st
from row_builder import RowsBuilder

from stilts_ds.config import EvaluationPart, TrainingPart
from stilts_ds.engine.preempt import Stopped
from stilts_ds.evaluate import predict
from stilts_ds.evaluate.predict import GatheredOutputs, Predictor, deal
from stilts_ds.families.registry import FAMILIES
from stilts_ds.families.span.record import Span
from stilts_ds.rows.rows import Rows

SPAN = FAMILIES["span"]
WORDS = "red blue  green\u00a0grey "


@given(st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 5))
def test_batches_are_the_same_for_any_number_of_ranks_and_only_the_last_round_has_room(
    lengths: list[list[int]], batch_size: int, ranks: int
) -> None:
    [alone] = deal(lengths, batch_size, 1)
    dealt = deal(lengths, batch_size, ranks)
    assert len({len(batches) for batches in dealt}) == 1
    in_turn = [batch for batches in zip(*dealt) for batch in batches]
    assert [batch for batch in in_turn if batch[1]] == alone
    assert all(items for _, items in in_turn[: (len(dealt[0]) - 1) * ranks])
    for number, of_set in enumerate(lengths):
        items = [item for of, batch in alone for item in batch if of == number]
        assert sorted(items) == list(range(len(of_set)))
        assert [of_set[item] for item in items] == sorted(of_set, reverse=True)


def questions(count: int, seed: int) -> tuple[list[Span], Rows]:
    """Questions about one passage, of which some have two windows, and their rows."""
    rng = np.random.default_rng(seed)
    out = RowsBuilder(places=True, spans=True)
    records = []
    for number in range(count):
        records.append(Span(f"{seed}-{number}", "?", WORDS * (1 + number % 3), ()))
        for _ in range(1 + number % 2):
            length = int(rng.integers(4, 9))
            cuts = np.sort(rng.choice(len(records[-1].context), length, replace=False))
            place = np.stack([cuts[:-1], cuts[1:]], 1)
            out.add_row([0, 7, *rng.integers(4, 50, length - 1).tolist(), 2], 2, number)
            assert out.place is not None and out.span is not None
            out.place.append(np.concatenate([[(-1, -1)] * 2, place, [(-1, -1)]]))
            out.span.append((0, 0))
            out.end_item()
    return records, out.rows()


def split(records: list[Span], rows: Rows) -> Any:
    return SimpleNamespace(family=SPAN, records=lambda: records, rows=lambda setting: rows)


def world(rank: int, size: int, **calls: Any) -> Any:
    made = SimpleNamespace(rank=rank, size=size, first=rank == 0, device=torch.device("cpu"), **calls)
    made.on_rank_0 = lambda work: work() if made.first else None
    made.maximum = lambda numbers, prompt: [numbers[0], numbers[1], 1]
    return made


def logits_of(predictor: Predictor, rows: Rows, item: int, setting: TrainingPart) -> Any:
    batch, _ = predictor._batch(SPAN.trained, "squad", rows, [item], setting)
    with torch.no_grad():
        return SPAN.trained.output(predictor.forward(batch, "logits")["squad"].numpy())


@pytest.mark.parametrize("size, seconds", [(1, 60.0), (1, 0.0), (3, 60.0)])
def test_ranks_give_the_answers_of_one_and_send_only_the_best_span(
    monkeypatch: pytest.MonkeyPatch, size: int, seconds: float
) -> None:
    monkeypatch.setattr(predict, "GATHER_SECONDS", seconds)
    model, tokenizer = small.model(specs=small.SPECS).eval(), small.tokenizer_stub()
    evaluation, setting = EvaluationPart(), TrainingPart()
    sets = [questions(7, 0), questions(5, 1)]
    splits = [split(*of_set) for of_set in sets]

    def answers_of(outputs: Any, number: int) -> dict[str, str]:
        records, rows = sets[number]
        return SPAN.trained.decode(records, rows, outputs, (), evaluation)

    # One process, item after item: the logits of a row do not depend on what stands beside it.
    expected = []
    for number, (records, rows) in enumerate(sets):
        alone = Predictor(model, tokenizer, 1, world(0, 1))
        logits = [logits_of(alone, rows, item, setting) for item in range(len(rows))]
        expected.append(answers_of(SPAN.trained.condensed(records, rows, logits, evaluation), number))

    asked = [rows for _, rows in sets]
    dealt = deal([rows.item_lengths.tolist() for rows in asked], 2, size)
    assert SPAN.trained.condensing is not None
    texts = predict._texts(SPAN.trained.condensing, splits, asked, dealt)
    messages: list[list[Any]] = [[] for _ in range(size)]
    arrived: list[Any] = []
    for rank in reversed(range(size)):

        def gather(value: Any, rank: int = rank) -> list[Any]:
            messages[rank].append(value)
            return [of_rank[-1] for of_rank in messages] if rank == 0 else []

        at = world(rank, size, gather=gather, scatter=lambda values, rank=rank: texts[rank])
        arrived = list(Predictor(model, tokenizer, 2, at).split_outputs(splits, "squad", setting, evaluation))
    assert [answers_of(whole.outputs, splits.index(whole.split)) for whole in arrived] == expected
    assert any(answer for answers in expected for answer in answers.values())
    assert all(len(output) <= 2 for whole in arrived for output in whole.outputs)
    # Each passage travels once to a rank, however many of its questions that has.
    assert all(len(set(of_rank)) == len(of_rank) for of_rank, _ in texts)
    if seconds == 0:
        assert len(messages[0]) == len(dealt[0]) + 1


def test_a_stop_leaves_the_splits_that_are_whole_by_then() -> None:
    model, tokenizer = small.model(specs=small.SPECS).eval(), small.tokenizer_stub()
    evaluation, setting = EvaluationPart(), TrainingPart()
    splits = [split(*questions(7, 0)), split(*questions(5, 1))]
    of_first = -(-len(splits[0].rows(setting)) // 2)  # batches of two
    asked = iter(range(of_first + 2))
    at = world(0, 1, gather=lambda value: [value], scatter=lambda values: values[0])
    at.maximum = lambda numbers, prompt: [int(next(asked) > of_first), 0, 1]
    arrived = []
    with pytest.raises(Stopped, match="SIGUSR1"):
        arrived.extend(Predictor(model, tokenizer, 2, at).split_outputs(splits, "squad", setting, evaluation))
    assert [whole.split for whole in arrived] == splits[:1]


def test_an_item_that_did_not_come_back_is_an_error() -> None:
    gathered = GatheredOutputs([2], world(0, 1, gather=lambda value: [value]))
    gathered.add(0, 1, np.zeros(3))
    assert list(gathered.gather()) == []
    with pytest.raises(RuntimeError, match="2 items went out, 1 came back"):
        gathered.check_complete()
