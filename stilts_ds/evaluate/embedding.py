"""Sentence vectors: how texts are cut into batches, and the forward pass of one batch.

Evaluation and `stilts embed` make the same batches of the same texts, whatever the number of ranks, so that a vector
has the same bits wherever it is computed: a chunk is CHUNK consecutive sentences, whose batches hold sentences of like
length; a rank has whole chunks.

Shapes: N sentences of a side, n of this rank, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stilts_ds.model.backbone import Layer
from stilts_ds.model.pooling import pool
from stilts_ds.rows.batch import pack_rows
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer

CHUNK = 4096  # sentences: enough to sort by length, few enough to share among ranks and to do again after a stop
# Tokens of a forward pass on a CPU: its largest intermediate tensor (of 4 H numbers a token) then stays below the 32 MB
# from which glibc asks the system for new, zeroed pages at every allocation.
CPU_TOKENS = 2048


def share_of(count: int, rank: int, size: int) -> tuple[int, int]:
    """The sentences first..stop of `count` that a rank embeds: whole chunks, as even as those allow."""
    chunks = -(-count // CHUNK)
    first, stop = (chunks * boundary // size * CHUNK for boundary in (rank, rank + 1))
    return min(first, count), min(stop, count)


def batch_count(first: int, stop: int, batch_size: int) -> int:
    """Batches of the chunks first..stop."""
    # Each chunk's last batch may be short: counting sentences alone would give too few batches.
    sizes = [min(stop, begin + CHUNK) - begin for begin in range(first, stop, CHUNK)]
    return sum(-(-size // batch_size) for size in sizes)


def batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of the items of one chunk of `lengths` [n]: longest first, neighbours of like length."""
    # Stable: rows of equal length keep their order, so every machine makes the same batches.
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def passes(lengths: np.ndarray, tokens: int) -> Iterator[slice]:
    """Slices of a batch of rows of `lengths` [n] that have at most so many tokens, or one row that has more. A batch
    without rows is one slice."""
    first = filled = 0
    for number, length in enumerate(lengths.tolist()):
        if filled + length > tokens and number > first:
            yield slice(first, number)
            first, filled = number, 0
        filled += length
    yield slice(first, len(lengths))


@dataclass(frozen=True)
class Embedder:
    """A model that makes sentence vectors: `forward` is a MultiTask's, `layer` a hidden_states index (0: the embedding
    output), `pooling` one of stilts_ds.model.pooling. With `layer` "all" a sentence has a vector of each of L + 1
    hidden states, and [.., H] below is [.., L + 1, H]. `cuts`: whether a batch may take several passes on a CPU, which
    other ranks that share the model would not make."""

    forward: Callable[..., Any]
    tokenizer: Tokenizer
    device: torch.device
    batch_size: int
    layer: Layer = -1
    pooling: str = "mean"
    cuts: bool = True

    def __call__(self, rows: Rows, items: Sequence[int]) -> torch.Tensor:
        """Vectors of some rows, [len(items), H] float32 on the CPU."""
        if self.device.type != "cpu" or not self.cuts:
            return self._of_pass(rows, items)
        lengths = rows.item_lengths[list(items)]
        return torch.cat([self._of_pass(rows, items[some]) for some in passes(lengths, CPU_TOKENS)])

    @torch.no_grad()
    def _of_pass(self, rows: Rows, items: Sequence[int]) -> torch.Tensor:
        batch = pack_rows([(rows, int(item)) for item in items], self.tokenizer).to(self.device)
        hidden = self.forward(batch, "hidden", self.layer)
        if self.layer == "all":
            vectors = torch.stack([pool(state, batch.offsets, self.pooling) for state in hidden], 1)
        else:
            vectors = pool(hidden, batch.offsets, self.pooling)
        # Without items the batch has a row of special tokens, whose vector is nobody's.
        return vectors.cpu()[: len(items)]

    def width(self) -> int:
        """The hidden size H, from a row without a text."""
        batch = pack_rows([], self.tokenizer).to(self.device)
        with torch.no_grad():
            return int(self.forward(batch, "hidden", self.layer).shape[1])

    def chunk(self, rows: Rows, first: int, stop: int, between: Callable[[], None]) -> torch.Tensor:
        """Vectors [stop - first, H] of the rows first..stop, at most a chunk; calls `between` before each batch."""
        vectors = None
        for items in batches(rows.item_lengths[first:stop], self.batch_size):
            between()
            of_batch = self(rows, (items + first).tolist())
            if vectors is None:  # the width is known from the first batch on
                vectors = torch.empty(stop - first, *of_batch.shape[1:])
            vectors[torch.from_numpy(items)] = of_batch
        return self._of_pass(rows, []) if vectors is None else vectors
