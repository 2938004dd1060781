"""A batch for the encoder: rows one after the other without padding, and what each output head reads of them.

Shapes: B rows, T tokens in all of them, m tokens that a head reads, n targets of a head. A target is what one loss term
belongs to: an item (pair, choice), a window (span), a word (tag), a masked token (text).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import accumulate
from typing import Any, TypeVar

import numpy as np
import torch

from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer


@dataclass
class Targets:
    """What one head reads off a batch.

    tokens [m] are places among the batch's T tokens: a row's first (pair, choice: all choices' rows in order), a
    labelled or masked one (tag, text), or every token of a window, window after window (span). gold is [n] or, for
    span, [n, 2]: first and last answer token inside the window. weight [n] multiplies each target's loss; task [n] is
    the index of the target's task in the list of training tasks, for the loss by task. cells [m, 2] say for span in
    which window and where inside it each of `tokens` stands. pool [n] says for trained retrieval which targets choose
    among each other's candidates: those of one number.
    """

    tokens: torch.Tensor
    gold: torch.Tensor
    weight: torch.Tensor
    task: torch.Tensor
    cells: torch.Tensor | None = None
    pool: torch.Tensor | None = None
    longest: int = 1  # tokens of the longest window


@dataclass
class Batch:
    """Rows for the encoder. On [T]: input_ids, token_type_ids (for models that have them), row (which one a token
    stands in) and position (inside it, from 0); offsets [B + 1] and, on the host, lengths of the rows. mask_keys
    [1 + B], in training: what dropout masks are drawn from, of the step and of each row (stilts_ds.model.masks).
    disturbance [T, E], in robust training: what is added to the word embeddings (stilts_ds.model.disturb). prefix, on
    the host: how many first tokens of each row see each other both ways, where those behind them see left; None where
    all rows are as the model reads them. cache, in decoding: keys and values of the tokens before these
    (stilts_ds.model.decoding)."""

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    row: torch.Tensor
    position: torch.Tensor
    offsets: torch.Tensor
    lengths: tuple[int, ...]
    heads: dict[str, Targets] = field(default_factory=dict)
    mask_keys: torch.Tensor | None = None
    disturbance: torch.Tensor | None = None
    prefix: tuple[int, ...] | None = None
    cache: Any = None

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
    moved = {}
    for attribute in fields(value):
        current = getattr(value, attribute.name)
        if isinstance(current, torch.Tensor):
            # Only from pinned memory is a copy to the GPU asynchronous.
            pinned = current.pin_memory() if device.type == "cuda" else current
            current = pinned.to(device, non_blocking=True)
        elif isinstance(current, dict):
            current = {name: _moved(targets, device) for name, targets in current.items()}
        moved[attribute.name] = current
    return type(value)(**moved)


def pack_rows(rows_of: Sequence[tuple[Rows, int]], tokenizer: Tokenizer) -> Batch:
    """Put the given (rows, row index) one after the other. Without rows: one row of special tokens, so that every rank
    runs the encoder the same number of times."""
    empty = np.asarray([*tokenizer.template.prefix, *tokenizer.template.single_suffix], np.int32)
    rows_ids = [rows.input_ids[rows.starts[r] : rows.starts[r + 1]] for rows, r in rows_of] or [empty]
    lengths = np.array([len(row_ids) for row_ids in rows_ids])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    row = np.repeat(np.arange(len(rows_ids)), lengths)
    # From 0 in each row: the encoder adds its own offset (XLM-R's positions begin at 2).
    position = np.arange(offsets[-1]) - offsets[row]
    # A row without a second segment has it begin at its end.
    second = np.array([rows.second[r] for rows, r in rows_of] or lengths)
    arrays = (np.concatenate(rows_ids), position >= second[row], row, position, offsets)
    tensors = [torch.from_numpy(np.asarray(array, np.int64)) for array in arrays]
    prefix = _prefix(rows_of, lengths)
    return Batch(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], tuple(lengths.tolist()), prefix=prefix)


def _prefix(rows_of: Sequence[tuple[Rows, int]], lengths: np.ndarray) -> tuple[int, ...] | None:
    """The prefix of each row, None where no row has one: beside others, a row without one is prefix alone."""
    if all(rows.prefix is None for rows, _ in rows_of):
        return None
    pairs = zip(rows_of, lengths.tolist())
    return tuple(length if rows.prefix is None else int(rows.prefix[r]) for (rows, r), length in pairs)


def window_cells(lengths: Sequence[int]) -> tuple[torch.Tensor | None, int]:
    """(window, place inside it) of each token of windows that stand one after the other, [m, 2], and the longest."""
    if not lengths:
        return None, 1
    window = np.repeat(np.arange(len(lengths)), lengths)
    position = np.concatenate([np.arange(length) for length in lengths])
    return torch.from_numpy(np.stack([window, position], 1)), max(lengths)
