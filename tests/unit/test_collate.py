"""Batches: masking is fixed by (seed, step, position), targets are counted exactly, padding changes no loss."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pieces
import pytest
import small
import torch
from row_builder import RowsBuilder

from stilts_ds.batches.collate import Collator, TaskRows
from stilts_ds.config import TrainingPart
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.families.registry import get_family
from stilts_ds.families.text.record import Text
from stilts_ds.families.text.rows import encode_text, mask_tokens, masked_count
from stilts_ds.rows.batch import pack_rows
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer, TokenTemplate

STUB = small.tokenizer_stub()
# BERT's special tokens stand in the middle of its vocabulary, [PAD] in front, an ordinary token at the very end.
BERT_LIKE = SimpleNamespace(
    template=TokenTemplate((11,), (12,), (12,), (12,)),
    pad=0,
    unk=10,
    mask=13,
    special=frozenset({0, 10, 11, 12, 13}),
    vocabulary=40,
)


def text_rows(lengths: list[int], seed: int = 0) -> Rows:
    rng, out = np.random.default_rng(seed), RowsBuilder()
    for example, length in enumerate(lengths):
        ids = [0, *rng.integers(4, small.VOCABULARY - 1, length - 2).tolist(), 2]
        out.add_row(ids, length, example)
        out.end_item()
    return out.rows()


def collator(rows: Rows, seed: int = 3, probability: float = 0.15) -> Collator:
    return Collator({"mlm": TaskRows("mlm", 0, get_family("text"), "mlm", rows)}, STUB, probability, seed)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoder", [STUB, BERT_LIKE])
def test_masking_is_80_10_10_and_spares_special_tokens(encoder: Any) -> None:
    rng = np.random.default_rng(1)
    ordinary = np.array(sorted(set(range(encoder.vocabulary)) - encoder.special))
    replaced = {"mask": 0, "random": 0, "kept": 0}
    drawn: set[int] = set()
    for _ in range(4000):
        ids = np.array([*encoder.template.prefix, *rng.choice(ordinary, 20), *encoder.template.single_suffix])
        masked, chosen = mask_tokens(ids, encoder, 5, rng)
        assert len(set(chosen.tolist())) == 5 and chosen.min() >= 1 and chosen.max() <= 20
        assert (np.delete(masked, chosen) == np.delete(ids, chosen)).all()
        for position in chosen:
            now, before = masked[position], ids[position]
            kind = "mask" if now == encoder.mask else "kept" if now == before else "random"
            replaced[kind] += 1
            drawn |= {int(now)} if kind == "random" else set()
    total = 4000 * 5
    by_chance = 0.1 / len(ordinary)  # a random token that happens to be the old one looks kept
    for kind, share in {"mask": 0.8, "random": 0.1 - by_chance, "kept": 0.1 + by_chance}.items():
        assert abs(replaced[kind] - share * total) < 4 * (share * (1 - share) * total) ** 0.5, kind
    assert drawn == set(ordinary.tolist())


@pytest.mark.parametrize("length, count", [(2, 0), (3, 1), (8, 1), (12, 2), (102, 15), (256, 38)])
def test_a_fixed_share_of_a_row_is_masked_and_at_least_one_token(length: int, count: int) -> None:
    assert masked_count(length, 0.15) == count
    batch = collator(text_rows([length]))([(0, "mlm", 0)], 0, {"mlm": 1.0})
    assert len(batch.heads["mlm"].gold) == count


def test_positions_are_masked_alike_often() -> None:
    rows = text_rows([22] * 3000)
    batch = collator(rows)([(i, "mlm", i) for i in range(3000)], 0, {"mlm": 1.0})
    counts = torch.bincount(batch.position[batch.heads["mlm"].tokens], minlength=22)
    assert counts[0] == counts[21] == 0 and counts.sum() == 9000
    assert (abs(counts[1:21] - 450.0) < 4.5 * (3000 * 0.15 * 0.85) ** 0.5).all()


def masks(batch: Any, row: int) -> tuple[list[int], list[int], list[int]]:
    targets = batch.heads["mlm"]
    mine = batch.row[targets.tokens] == row
    places = batch.position[targets.tokens[mine]].tolist()
    return batch.input_ids[batch.row == row].tolist(), places, targets.gold[mine].tolist()


def test_an_items_masks_depend_on_seed_step_and_position_alone() -> None:
    rows = text_rows([30, 50, 40, 60])
    made = collator(rows)
    together = made([(0, "mlm", 0), (1, "mlm", 1), (2, "mlm", 2)], 7, {"mlm": 1.0})
    alone = collator(rows)([(1, "mlm", 1)], 7, {"mlm": 0.3})
    other_order = made([(2, "mlm", 2), (1, "mlm", 1)], 7, {"mlm": 1.0})
    assert masks(together, 1) == masks(alone, 0) == masks(other_order, 1)
    for changed in (
        made([(1, "mlm", 1)], 8, {"mlm": 1.0}),
        made([(2, "mlm", 1)], 7, {"mlm": 1.0}),
        collator(rows, seed=4)([(1, "mlm", 1)], 7, {"mlm": 1.0}),
    ):
        assert masks(changed, 0) != masks(alone, 0)


def test_gold_is_the_token_under_the_mask_and_the_rows_stay_untouched() -> None:
    rows = text_rows([40, 25])
    before = rows.input_ids.copy()
    batch = collator(rows)([(0, "mlm", 1), (1, "mlm", 0)], 0, {"mlm": 1.0})
    for batch_row, item in ((0, 1), (1, 0)):
        original = before[rows.starts[item] : rows.starts[item + 1]]
        _, positions, gold = masks(batch, batch_row)
        assert original[positions].tolist() == gold
    assert (rows.input_ids == before).all()


def test_a_text_of_unknown_words_has_the_targets_it_is_counted_with() -> None:
    encoder = Tokenizer(pieces.xlmr_tokenizer(), "xlmr")
    rows = encode_text([Text("1", "☃ ☃ ☃"), Text("2", "the ☃ cat"), Text("3", "")], encoder, (), TrainingPart())
    made = Collator({"mlm": TaskRows("mlm", 0, get_family("text"), "mlm", rows)}, encoder, 0.5, 0)
    for item in range(3):
        batch = made([(0, "mlm", item)], 0, {"mlm": 1.0})
        assert len(batch.heads["mlm"].gold) == made.tasks["mlm"].target_count(item, 0.5)


def test_each_items_target_count_is_what_the_batch_holds() -> None:
    tasks = small.tasks()
    made = Collator(tasks, STUB, 0.15, 0)  # type: ignore[arg-type]
    for name, task in tasks.items():
        for item in range(len(task.rows)):
            targets = made([(item, name, item)], 0, {name: 0.25}).heads[name]
            expected = task.target_count(item, 0.15)
            assert len(targets.gold) == len(targets.weight) == len(targets.task) == expected > 0
            assert (targets.weight == 0.25).all() and (targets.task == task.index).all()


def mixed_items(count: int) -> list[tuple[int, str, int]]:
    names = sorted(small.tasks())
    return [(i, names[i % len(names)], i // len(names)) for i in range(count)]


def test_a_mixed_batch_holds_the_tokens_and_targets_of_its_items() -> None:
    tasks = small.tasks()
    batch = Collator(tasks, STUB, 0.15, 0)(mixed_items(24), 0, dict.fromkeys(tasks, 1.0))  # type: ignore[arg-type]
    row = 0
    for _, name, item in mixed_items(24):
        rows = tasks[name].rows
        for r in range(rows.items[item], rows.items[item + 1]):
            ids = rows.input_ids[rows.starts[r] : rows.starts[r + 1]].tolist()
            mine = batch.row == row
            assert batch.position[mine].tolist() == list(range(len(ids))) and batch.lengths[row] == len(ids)
            assert batch.offsets[row : row + 2].diff() == len(ids) and batch.starts[row] == batch.offsets[row]
            assert name == "mlm" or batch.input_ids[mine].tolist() == ids
            row += 1
    assert row == len(batch.lengths) and set(batch.heads) == set(tasks)
    assert len(batch.heads["copa"].tokens) == 2 * len(batch.heads["copa"].gold)
    assert batch.padded_tokens == row * max(batch.lengths)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", sorted(small.tasks()))
def test_the_other_rows_of_a_batch_change_no_loss(name: str, packed: bool) -> None:
    """Each item's loss alone equals its part of a batch of all kinds whose longest row is far longer."""
    tasks, model = small.tasks(), small.model(packed=packed).eval()
    long = small.tasks(length=60)["nli2" if name != "nli2" else "nli"]
    tasks[long.name] = long
    made = Collator(tasks, STUB, 0.15, 0)  # type: ignore[arg-type]
    ones = dict.fromkeys(tasks, 1.0)
    items = [(i, name, i) for i in range(6)] + [(6 + i, long.name, i) for i in range(6)]
    index = tasks[name].index
    with torch.no_grad():
        _, sums, counts = model(made(items, 0, ones))
        alone = [model(made([item], 0, ones)) for item in items[:6]]
    assert counts[index] == sum(each[2][index] for each in alone)
    torch.testing.assert_close(sums[index], sum(each[1][index] for each in alone), rtol=1e-5, atol=1e-6)
    assert max(tasks[name].rows.row_lengths[:12]) < 16 < max(long.rows.row_lengths[:6])


def test_the_weighted_sum_is_the_loss() -> None:
    tasks, model = small.tasks(), small.model().eval()
    weights = {name: 0.1 * (i + 1) for i, name in enumerate(tasks)}
    with torch.no_grad():
        total, sums, counts = model(Collator(tasks, STUB, 0.15, 0)(mixed_items(24), 0, weights))  # type: ignore[arg-type]
    expected = sum(weights[name] * sums[task.index] for name, task in tasks.items())
    torch.testing.assert_close(total, expected)
    assert (counts > 0).all()


def test_a_rank_without_items_gets_a_row_of_special_tokens_and_no_targets() -> None:
    batch = Collator(small.tasks(), STUB, 0.15, 0)([], 0, {})  # type: ignore[arg-type]
    assert batch.input_ids.tolist() == [0, 2] and batch.lengths == (2,) and not batch.heads
    total, sums, counts = small.model()(batch)
    assert total.item() == 0 and not sums.any() and not counts.any()


def test_token_types_mark_the_second_segment_and_nothing_else() -> None:
    encoder = Tokenizer(pieces.bert_tokenizer(), "bert")
    pairs = [Pair("1", "the cat", "on mat", "x"), Pair("2", "the", "a b c d", "x")]
    rows = encode_pair(pairs, encoder, ("x",), TrainingPart())
    texts = encode_text([Text("3", "the cat")], encoder, (), TrainingPart())
    batch = pack_rows([(rows, 0), (rows, 1), (texts, 0)], encoder)
    theirs = pieces.bert_tokenizer()([["the cat", "on mat"], ["the", "a b c d"]])
    for row in range(2):
        assert batch.token_type_ids[batch.row == row].tolist() == theirs["token_type_ids"][row]
        assert batch.input_ids[batch.row == row].tolist() == theirs["input_ids"][row]
    assert not batch.token_type_ids[batch.row == 2].any()
