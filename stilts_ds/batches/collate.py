"""Items of any tasks to one batch for the encoder, rows one after the other without padding, grouped by output head.

Shapes: B rows, T tokens in all of them, n targets of a head. A target is what one loss term belongs to: an item (pair,
choice), a window (span), a word (tag), a masked token (text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import accumulate
from typing import TypeVar

import numpy as np
import torch

from stilts_ds.batches.encode import Encoder
from stilts_ds.batches.rows import Rows


@dataclass
class Targets:
    """What one head reads off a batch.

    tokens [m] are places among the batch's T tokens: a row's first (pair, choice: all choices' rows in order), a
    labelled or masked one (tag, text), or every token of a window, window after window (span). gold is [n] or, for
    span, [n, 2]: first and last answer token inside the window. weight [n] multiplies each target's loss; task [n] is
    the index of the target's task in the list of training tasks, for the loss by task. cells [m, 2] say for span in
    which window and where inside it each of `tokens` stands.
    """

    tokens: torch.Tensor
    gold: torch.Tensor
    weight: torch.Tensor
    task: torch.Tensor
    cells: torch.Tensor | None = None
    longest: int = 1  # tokens of the longest window


@dataclass
class Batch:
    """Rows for the encoder. On [T]: input_ids, token_type_ids (for models that have them), row (which one a token
    stands in) and position (inside it, from 0); offsets [B + 1] and, on the host, lengths of the rows."""

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    offsets: torch.Tensor
    lengths: tuple[int, ...]
    heads: dict[str, Targets] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        return _moved(self, device)

    @property
    def starts(self) -> list[int]:
        """Place of each row's first token."""
        return list(accumulate(self.lengths, initial=0))[:-1]

    @property
    def padded_tokens(self) -> int:
        """Tokens that the encoder would compute with rows padded to the longest."""
        return len(self.lengths) * max(self.lengths)


Moved = TypeVar("Moved", Batch, Targets)


def _moved(value: Moved, device: torch.device) -> Moved:
    """A copy with every tensor on `device`. From pinned memory that takes no time of the host's."""
    found = {}
    for each in fields(value):
        part = getattr(value, each.name)
        if isinstance(part, torch.Tensor):
            pinned = part.pin_memory() if device.type == "cuda" else part
            part = pinned.to(device, non_blocking=True)
        elif isinstance(part, dict):
            part = {name: _moved(targets, device) for name, targets in part.items()}
        found[each.name] = part
    return type(value)(**found)


def pack_rows(rows_of: Sequence[tuple[Rows, int]], encoder: Encoder) -> Batch:
    """Put the given (rows, row index) one after the other. Without rows: one row of special tokens, so that every rank
    runs the encoder the same number of times."""
    empty = np.asarray([*encoder.template.prefix, *encoder.template.single_suffix], np.int32)
    parts = [rows.input_ids[rows.starts[r] : rows.starts[r + 1]] for rows, r in rows_of] or [empty]
    lengths = np.array([len(part) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(parts)), lengths)
    position = np.arange(offsets[-1]) - offsets[row]
    second = np.array([rows.second[r] for rows, r in rows_of] or lengths)
    arrays = (np.concatenate(parts), position >= second[row], row, position, offsets)
    tensors = [torch.from_numpy(np.asarray(array, np.int64)) for array in arrays]
    return Batch(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], tuple(lengths.tolist()))


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
        chosen = [(self.tasks[name], item) for _, name, item in items]
        first = [int(task.rows.items[item]) for task, item in chosen]
        last = [int(task.rows.items[item + 1]) for task, item in chosen]
        batch = pack_rows([(t.rows, r) for (t, _), a, b in zip(chosen, first, last) for r in range(a, b)], self.encoder)
        starts, row = batch.starts, 0
        drafts: dict[str, Draft] = {}
        for (position, name, _), (task, item), a, b in zip(items, chosen, first, last):
            begin, row = starts[row : row + b - a], row + b - a
            draft = drafts.setdefault(task.head, Draft(task.family))
            if task.family == "text":
                self._mask(draft, batch, begin[0], int(task.rows.row_lengths[a]), (step, position))
            else:
                draft.read(task.rows, item, a, begin)
            draft.end_item(weights[name], task.index)
        batch.heads = {head: draft.targets() for head, draft in drafts.items()}
        return batch

    def _mask(self, draft: Draft, batch: Batch, begin: int, length: int, place: tuple[int, int]) -> None:
        """Mask a row in the batch; the seed, the step and the place in the global batch decide where."""
        rng = np.random.default_rng([self.seed, 2, *place])
        draft.mask(batch, begin, length, self.encoder, masked_count(length, self.mlm_probability), rng)


class Draft:
    """A head's targets while a batch is being filled."""

    def __init__(self, family: str) -> None:
        self.family = family
        self.tokens: list[np.ndarray] = []
        self.gold: list[np.ndarray] = []
        self.weight: list[np.ndarray] = []
        self.task: list[np.ndarray] = []
        self.windows: list[int] = []

    def read(self, rows: Rows, item: int, row: int, starts: Sequence[int]) -> None:
        """Take in the targets of an item whose rows start at `starts`; `row` is its first among `rows`."""
        length = int(rows.starts[row + 1] - rows.starts[row])
        if self.family == "tag":
            assert rows.token_label is not None
            labels = rows.token_label[rows.starts[row] : rows.starts[row + 1]]
            labelled = np.flatnonzero(labels >= 0)
            self.tokens.append(labelled + starts[0])
            self.gold.append(labels[labelled])
        elif self.family == "span":
            assert rows.span is not None
            self.tokens.append(np.arange(starts[0], starts[0] + length))
            self.gold.append(rows.span[row : row + 1])
            self.windows.append(length)
        else:
            assert rows.label is not None
            self.tokens.append(np.asarray(starts))
            self.gold.append(rows.label[item : item + 1])

    def mask(
        self, batch: Batch, begin: int, length: int, encoder: Encoder, count: int, rng: np.random.Generator
    ) -> None:
        """Mask `count` tokens of the row at `begin`, in the batch, and take them as targets."""
        ids = batch.input_ids[begin : begin + length].numpy()
        masked, chosen = mask_tokens(ids, encoder, count, rng)
        self.tokens.append(chosen + begin)
        self.gold.append(ids[chosen])
        ids[:] = masked

    def end_item(self, weight: float, task: int) -> None:
        count = len(self.gold[-1])
        self.weight.append(np.full(count, weight, np.float32))
        self.task.append(np.full(count, task))

    def targets(self) -> Targets:
        tokens, gold, task = (torch.from_numpy(np.concatenate(each).astype(np.int64))
                              for each in (self.tokens, self.gold, self.task))
        return Targets(tokens, gold, torch.from_numpy(np.concatenate(self.weight)), task, *window_cells(self.windows))


def window_cells(lengths: Sequence[int]) -> tuple[torch.Tensor | None, int]:
    """(window, place inside it) of each token of windows that stand one after the other, [m, 2], and the longest."""
    if not lengths:
        return None, 1
    window = np.repeat(np.arange(len(lengths)), lengths)
    place = np.concatenate([np.arange(length) for length in lengths])
    return torch.from_numpy(np.stack([window, place], 1)), max(lengths)
