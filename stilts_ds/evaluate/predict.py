"""Model outputs to predictions: sharded over ranks with exact row counts, decoded on rank 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from stilts_ds.batches.collate import Batch, Targets, pack_rows, window_cells
from stilts_ds.batches.encode import Encoder
from stilts_ds.batches.rows import Rows
from stilts_ds.config import EvaluationPart
from stilts_ds.engine.preempt import stop_if_requested
from stilts_ds.engine.world import World
from stilts_ds.errors import UserError
from stilts_ds.evaluate.retrieve import pool
from stilts_ds.evaluate.spans import Decoded, decode_spans
from stilts_ds.evaluate.tags import rejoin
from stilts_ds.examples.records import Choice, Pair, Span, Tagged

Forward = Callable[..., Any]
Output = Any  # per item: logits [C] (pair), [k] (choice), (start [L], end [L]) (span), label ids [words] (tag)


def shard(lengths: Sequence[int], batch_size: int, world: World) -> list[list[int]]:
    """This rank's batches of items: longest first, neighbours of like length, the same number on every rank.

    Every item stands in exactly one batch of one rank; ranks with fewer batches get empty ones at the end.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    mine = batches[world.rank :: world.size]
    return mine + [[]] * (math.ceil(len(batches) / world.size) - len(mine))


@torch.no_grad()
def outputs(
    forward: Forward, rows: Rows, head: str, family: str, encoder: Encoder, batch_size: int, world: World
) -> list[Output]:
    """Outputs of all items in order, on rank 0 ([] elsewhere). A collective."""
    found: dict[int, Output] = {}
    for items in shard(rows.item_lengths.tolist(), batch_size, world):
        stop_if_requested(world)
        batch = _batch(rows, items, head, family, encoder).to(world.device)
        logits = forward(batch, "logits")[head]
        found.update(zip(items, _split(logits, rows, items, family)))
    return _in_order(world.gather(found), len(rows))


@torch.no_grad()
def sentence_vectors(
    forward: Forward, rows: Rows, part: EvaluationPart, encoder: Encoder, world: World
) -> torch.Tensor:
    """Pooled hidden states [N, H] of one row a sentence, float32 on rank 0 (empty elsewhere). A collective."""
    found: dict[int, np.ndarray] = {}
    for items in shard(rows.item_lengths.tolist(), part.per_device_eval_batch_size, world):
        stop_if_requested(world)
        batch = pack_rows([(rows, i) for i in items], encoder).to(world.device)
        hidden = forward(batch, "hidden", part.retrieval_layer)
        vectors = pool(hidden, batch.offsets, part.retrieval_pooling)
        found.update(zip(items, vectors.cpu().numpy()))
    whole = _in_order(world.gather(found), len(rows))
    return torch.from_numpy(np.stack(whole)) if whole else torch.zeros(0)


def _in_order(parts: list[dict[int, Any]], count: int) -> list[Any]:
    if not parts:
        return []
    merged = {item: value for part in parts for item, value in part.items()}
    if sorted(merged) != list(range(count)):
        raise RuntimeError(f"{count} items went out, {len(merged)} came back")
    return [merged[item] for item in range(count)]


def _batch(rows: Rows, items: Sequence[int], head: str, family: str, encoder: Encoder) -> Batch:
    indices = [r for i in items for r in range(int(rows.items[i]), int(rows.items[i + 1]))]
    batch = pack_rows([(rows, r) for r in indices], encoder)
    if items:
        tokens, cells, longest = torch.tensor(batch.starts), None, 1
        if family == "tag":
            words = [_word_tokens(rows, row) + start for row, start in zip(indices, batch.starts)]
            tokens = torch.from_numpy(np.concatenate(words))
        elif family == "span":
            tokens = torch.arange(len(batch.input_ids))
            cells, longest = window_cells(batch.lengths)
        none = torch.zeros(0, dtype=torch.long)
        batch.heads[head] = Targets(tokens, none, none.float(), none, cells, longest)
    return batch


def _word_tokens(rows: Rows, row: int) -> np.ndarray:
    """Positions of the words' first pieces in a row."""
    assert rows.place is not None
    return np.flatnonzero(rows.place[rows.starts[row] : rows.starts[row + 1], 0] >= 0)


def _split(logits: torch.Tensor, rows: Rows, items: Sequence[int], family: str) -> list[Output]:
    """Cut a batch's logits into items."""
    if not items:
        return []
    values = logits.float().cpu().numpy()
    if not np.isfinite(values).all():
        raise UserError("the model's outputs are not finite; its weights are damaged, train it again")
    if family == "pair":
        return list(values)
    if family == "choice":
        return np.split(values[:, 0], np.cumsum([rows.items[i + 1] - rows.items[i] for i in items])[:-1])
    if family == "span":
        windows = np.split(values, np.cumsum([rows.row_lengths[i] for i in items])[:-1])
        return [(window[:, 0], window[:, 1]) for window in windows]
    best = values.argmax(-1)
    return np.split(best, np.cumsum([len(_word_tokens(rows, i)) for i in items])[:-1])


def decode(
    records: Sequence[Any],
    rows: Rows,
    found: Sequence[Output],
    family: str,
    labels: Sequence[str],
    part: EvaluationPart,
) -> Any:
    """Predictions in the values of the task's file kind (see stilts_ds.evaluate.formats)."""
    if family == "pair":
        return [labels[int(np.argmax(logits))] for logits in found]
    if family == "choice":
        return [int(np.argmax(scores)) for scores in found]
    if family == "tag":
        chunks = rows_by_example(rows)
        return [_tags(record, rows, found, chunks[i], labels) for i, record in enumerate(records)]
    decoded = decode_questions(records, rows, found, part)
    return {id: one.answer for id, one in decoded.items()}


def rows_by_example(rows: Rows) -> dict[int, list[int]]:
    """The rows of each record: a sentence's chunks, a question's windows."""
    found: dict[int, list[int]] = {}
    for row, example in enumerate(rows.example.tolist()):
        found.setdefault(example, []).append(row)
    return found


def decode_questions(
    records: Sequence[Span], rows: Rows, found: Sequence[Output], part: EvaluationPart
) -> dict[str, Decoded]:
    """The decoded answer of every question, with its candidates and the score of "no answer"."""
    windows = rows_by_example(rows)
    return {record.id: _decode_question(record, rows, found, windows[i], part) for i, record in enumerate(records)}


def _tags(record: Tagged, rows: Rows, found: Sequence[Output], chunk: list[int], labels: Sequence[str]) -> list[str]:
    assert rows.place is not None
    words = [rows.place[rows.starts[r] : rows.starts[r + 1], 0] for r in chunk]
    ids = rejoin(len(record.words), [(w[w >= 0], found[r]) for w, r in zip(words, chunk)])
    return [labels[i] for i in ids]


def _decode_question(
    record: Span, rows: Rows, found: Sequence[Output], windows: list[int], part: EvaluationPart
) -> Decoded:
    assert rows.place is not None
    read = [(*found[r], rows.place[rows.starts[r] : rows.starts[r + 1]]) for r in windows]
    return decode_spans(record.context, read, part.n_best, part.max_answer_length, part.null_threshold)


def labelled(records: Sequence[Any]) -> bool:
    """Whether a split has gold labels (XTREME's own test files have none)."""
    first = records[0]
    if isinstance(first, (Pair, Choice)):
        return all(r.label is not None for r in records)
    if isinstance(first, Tagged):
        return all(r.tags is not None for r in records)
    return all(r.answers or r.impossible for r in records)
