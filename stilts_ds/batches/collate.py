"""Items of any tasks to one padded batch for the encoder, grouped by output head.

Shapes: B rows, L the longest of them, n targets of a head. A target is what one loss term belongs to: an item (pair,
choice), a window (span), a word (tag), a masked token (text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch

from stilts_ds.batches.encode import Encoder
from stilts_ds.batches.rows import Rows


@dataclass
class Targets:
    """What one head reads off a batch.

    rows [m] are batch rows (for choice, the rows of all choices in order); tokens [n] are positions inside those rows
    for tag and text; gold is [n] or, for span, [n, 2]; weight [n] multiplies each target's loss; task [n] is the index
    of the target's task in the list of training tasks, for the loss by task.
    """

    rows: torch.Tensor
    gold: torch.Tensor
    weight: torch.Tensor
    task: torch.Tensor
    tokens: torch.Tensor | None = None

    def to(self, device: torch.device) -> Targets:
        return Targets(*(None if t is None else t.to(device, non_blocking=True) for t in self._tensors()))  # type: ignore[arg-type]

    def _tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.rows, self.gold, self.weight, self.task, self.tokens


@dataclass
class Batch:
    """input_ids and attention_mask [B, L]; token types only for models that have them."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    heads: dict[str, Targets] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        ids, mask, types = (t.to(device, non_blocking=True) for t in
                            (self.input_ids, self.attention_mask, self.token_type_ids))
        return Batch(ids, mask, types, {name: targets.to(device) for name, targets in self.heads.items()})

    @property
    def real_tokens(self) -> int:
        return int(self.attention_mask.sum())


def pad_rows(rows_of: Sequence[tuple[Rows, int]], encoder: Encoder) -> Batch:
    """Pad the given (rows, row index) to the longest. Without rows: one row of special tokens, so that every rank
    runs the encoder the same number of times."""
    empty = np.asarray([*encoder.template.prefix, *encoder.template.single_suffix], np.int32)
    parts = [rows.input_ids[rows.starts[r] : rows.starts[r + 1]] for rows, r in rows_of] or [empty]
    lengths = np.array([len(part) for part in parts])
    ids = np.full((len(parts), lengths.max()), encoder.pad, np.int64)
    types = np.zeros_like(ids)
    for i, part in enumerate(parts):
        ids[i, : len(part)] = part
    for i, (rows, r) in enumerate(rows_of):
        types[i, rows.second[r] : lengths[i]] = 1
    mask = np.arange(ids.shape[1])[None, :] < lengths[:, None]
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64)), torch.from_numpy(types))


def target_count(family: str, rows: Rows, item: int, mlm_probability: float) -> int:
    """Loss terms of an item: what a step's loss is divided by. Known to every rank without communication."""
    if family == "tag":
        assert rows.token_label is not None
        first, last = rows.starts[rows.items[item]], rows.starts[rows.items[item + 1]]
        return int((rows.token_label[first:last] >= 0).sum())
    if family == "text":
        return masked_count(int(rows.row_lengths[rows.items[item]]), mlm_probability)
    return 1


def masked_count(length: int, probability: float) -> int:
    """Masked tokens of a row: a fixed share of its length less <s> and </s>, at least one."""
    return max(1, round(probability * (length - 2))) if length > 2 else 0


def mask_tokens(
    ids: np.ndarray, encoder: Encoder, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Masked copy of a row and the masked positions: 80 % <mask>, 10 % random, 10 % kept (Devlin et al. 2019, 3.1).

    Any token of the text may be chosen, also an unknown one, so that there are exactly `count` of them (as in fairseq,
    which trained XLM-R); the row's own special tokens never are, and no special token is drawn at random.
    """
    inside = np.arange(len(encoder.template.prefix), len(ids) - len(encoder.template.single_suffix))
    chosen = np.sort(rng.permutation(inside)[:count])
    masked, dice = ids.copy(), rng.random(len(chosen))
    masked[chosen[dice < 0.8]] = encoder.mask
    random = chosen[(dice >= 0.8) & (dice < 0.9)]
    masked[random] = rng.choice(_ordinary_tokens(encoder.special, encoder.vocabulary), len(random))
    return masked, chosen


@lru_cache(maxsize=4)
def _ordinary_tokens(special: frozenset[int], vocabulary: int) -> np.ndarray:
    return np.setdiff1d(np.arange(vocabulary), list(special))


@dataclass(frozen=True)
class TaskRows:
    """One training task's rows and how its loss is formed."""

    name: str
    index: int
    family: str
    head: str
    rows: Rows


class Collator:
    """Builds training batches. `weights[task]` is the factor of each of the task's loss terms in this step."""

    def __init__(self, tasks: Mapping[str, TaskRows], encoder: Encoder, mlm_probability: float, seed: int) -> None:
        self.tasks, self.encoder, self.mlm_probability, self.seed = tasks, encoder, mlm_probability, seed

    def __call__(self, items: Sequence[tuple[int, str, int]], step: int, weights: Mapping[str, float]) -> Batch:
        """`items` are (position in the global batch, task, item); the position seeds an item's masking."""
        rows_of: list[tuple[Rows, int]] = []
        drafts: dict[str, _Draft] = {}
        for position, name, item in items:
            task = self.tasks[name]
            first, last = int(task.rows.items[item]), int(task.rows.items[item + 1])
            batch_rows = list(range(len(rows_of), len(rows_of) + last - first))
            rows_of += [(task.rows, r) for r in range(first, last)]
            drafts.setdefault(task.head, _Draft(task.family)).add(task, item, batch_rows, weights[name], position)
        batch = pad_rows(rows_of, self.encoder)
        for head, draft in drafts.items():
            batch.heads[head] = self._targets(draft, batch, step)
        return batch

    def _targets(self, draft: _Draft, batch: Batch, step: int) -> Targets:
        if draft.family == "text":
            self._mask(draft, batch, step)
        gold = torch.tensor(draft.gold, dtype=torch.long)
        return Targets(
            rows=torch.tensor(draft.rows, dtype=torch.long),
            gold=gold.reshape(-1, 2) if draft.family == "span" else gold,
            weight=torch.tensor(draft.weight, dtype=torch.float32),
            task=torch.tensor(draft.task, dtype=torch.long),
            tokens=torch.tensor(draft.tokens, dtype=torch.long) if draft.family in ("tag", "text") else None,
        )

    def _mask(self, draft: _Draft, batch: Batch, step: int) -> None:
        pending, draft.rows = draft.pending, []
        for row, position, index, weight in pending:
            length = int(batch.attention_mask[row].sum())
            ids = batch.input_ids[row, :length].numpy()
            rng = np.random.default_rng([self.seed, 2, step, position])
            masked, chosen = mask_tokens(ids, self.encoder, masked_count(length, self.mlm_probability), rng)
            draft.gold += [int(t) for t in ids[chosen]]
            draft.tokens += [int(p) for p in chosen]
            draft.rows += [row] * len(chosen)
            draft.weight += [weight] * len(chosen)
            draft.task += [index] * len(chosen)
            batch.input_ids[row, :length] = torch.from_numpy(masked)


class _Draft:
    """A head's targets while a batch is being filled."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.rows: list[int] = []
        self.tokens: list[int] = []
        self.gold: list[int] = []
        self.weight: list[float] = []
        self.task: list[int] = []
        self.pending: list[tuple[int, int, int, float]] = []

    def add(self, task: TaskRows, item: int, batch_rows: list[int], weight: float, position: int) -> None:
        rows, row = task.rows, int(task.rows.items[item])
        if self.family == "text":
            self.pending.append((batch_rows[0], position, task.index, weight))
            return
        if self.family == "tag":
            assert rows.token_label is not None
            labels = rows.token_label[rows.starts[row] : rows.starts[row + 1]]
            tokens = np.flatnonzero(labels >= 0)
            self.tokens += tokens.tolist()
            self.gold += labels[tokens].tolist()
            self.rows += batch_rows * len(tokens)
            count = len(tokens)
        else:
            source = rows.span[row] if self.family == "span" else rows.label[item : item + 1]  # type: ignore[index]
            self.gold += source.tolist()
            self.rows += batch_rows
            count = 1
        self.weight += [weight] * count
        self.task += [task.index] * count
