"""A model goes on from prompts: sampled token by token, each prompt read once for all of its samples.

Which tokens a sample has depends on the model, its prompt and its number, and on nothing beside it: not on the batch,
the ranks or the order. So every sample draws from a generator of its own, and the sizes that could round a sample's
numbers otherwise are kept (stilts_ds.model.decoding.STABLE_ROWS). Samples that are complete leave the batch.

Legend: P prompts, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from stilts_ds.errors import UserError
from stilts_ds.families.decoding import Decoding
from stilts_ds.families.generate.rows import never_written
from stilts_ds.model.decoding import STABLE_ROWS, KeyValueCache
from stilts_ds.rows.batch import Batch, Targets
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer


def uniform_numbers(name: str, sample: int, count: int) -> np.ndarray:
    """The numbers that choose the tokens of one sample of the prompt of that name."""
    digest = hashlib.sha256(f"{name}\n{sample}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little")).random(count)


# Rows whose probabilities, in float64, stand in memory together: 128 MB of XLM-R's.
CHOSEN_TOGETHER = 64


def choose(logits: np.ndarray, temperature: float, top_p: float, uniform: np.ndarray) -> np.ndarray:
    """A token for each row of logits [N, V]: the likeliest at temperature 0, else the one that the row's number in
    `uniform` [N] falls on among the fewest likeliest ones that together have a probability of `top_p` (Holtzman et
    al. 2020, arXiv 1904.09751, section 3.1)."""
    if not temperature:
        return np.asarray(logits.argmax(axis=1))
    chosen = []
    for first in range(0, len(logits), CHOSEN_TOGETHER):
        rows = slice(first, first + CHOSEN_TOGETHER)
        chosen.append(_fall_on(logits[rows], temperature, top_p, uniform[rows, None]))
    return np.concatenate(chosen)


def _fall_on(logits: np.ndarray, temperature: float, top_p: float, uniform: np.ndarray) -> np.ndarray:
    """The token of each row of logits [n, V] that its number [n, 1] in [0, 1) falls on: likelier ones first, equals by
    index."""
    # Values alone are sorted, in the precision that they have: several times as fast as sorting tokens by them, and
    # twice as fast as sorting probabilities.
    ordered = np.sort(logits, axis=1)[:, ::-1]
    weights = ordered.astype(np.float64)
    weights -= weights[:, :1].copy()
    weights /= temperature
    np.exp(weights, out=weights)
    bounds = torch.from_numpy(weights).cumsum(1)  # numpy's takes as long as all else here
    numbers = torch.from_numpy(uniform)
    # A token is among the fewest while those before it have too little together.
    last = torch.searchsorted(bounds, top_p * bounds[:, -1:])
    drawn = torch.searchsorted(bounds, numbers * bounds.gather(1, last), right=True)
    rank = torch.minimum(drawn, last).numpy()
    value = np.take_along_axis(ordered, rank, axis=1)
    is_equal = logits == value
    tokens = is_equal.argmax(axis=1)
    # The token of that rank: of those as likely as it, the one behind so many equals.
    has_equals = np.take_along_axis(ordered, np.maximum(rank - 1, 0), axis=1) == value
    for row in np.flatnonzero(has_equals & (rank > 0)):
        equals_before = rank[row, 0] - np.count_nonzero(ordered[row] > value[row])
        tokens[row] = np.flatnonzero(is_equal[row])[equals_before]
    return tokens


@dataclass
class Samples:
    """What is being written: N samples, prompt after prompt, all of them with `written` tokens or complete.

    By sample: the number of its `prompt`, how many tokens that has, the numbers in [0, 1) that choose its tokens
    (`uniform`, [N, most_tokens]), its `ids` and their count (`length`).
    """

    decoding: Decoding
    prompt: np.ndarray
    prompt_length: np.ndarray
    uniform: np.ndarray
    ids: np.ndarray
    length: np.ndarray
    written: int = 0

    @classmethod
    def of(cls, names: Sequence[str], lengths: np.ndarray, decoding: Decoding) -> Samples:
        """New ones of each prompt, by its name and how many tokens it has."""
        numbers = range(decoding.samples)
        most = decoding.most_tokens
        uniform = np.stack([uniform_numbers(name, number, most) for name in names for number in numbers])
        prompt = np.repeat(np.arange(len(names)), decoding.samples)
        ids = np.zeros((len(prompt), most), np.int64)
        return cls(decoding, prompt, lengths[prompt], uniform, ids, np.zeros(len(prompt), np.int64))

    def take(self, order: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Give the samples in `order` their next tokens; returns which of them are complete. One whose row is full
        takes none, and neither does one whose token ends it."""
        decoding = self.decoding
        ended = decoding.is_full(self.written, self.prompt_length[order]) | (tokens == decoding.end)
        taking = order[~ended]
        self.ids[taking, self.written] = tokens[~ended]
        self.written += 1
        self.length[taking] = self.written
        complete = ended | decoding.is_full(self.written, self.prompt_length[order])
        if decoding.is_complete is not None:
            for place in np.flatnonzero(~complete).tolist():
                complete[place] = decoding.is_complete(self.ids[order[place], : self.written].tolist())
        return complete

    def by_prompt(self, prompts: int) -> list[list[list[int]]]:
        """The ids of each prompt's samples."""
        written = [row[:length].tolist() for row, length in zip(self.ids, self.length.tolist())]
        count = self.decoding.samples
        return [written[number * count : (number + 1) * count] for number in range(prompts)]


@dataclass(frozen=True)
class Generator:
    """Writes with one head of a model, whose forward pass (stilts_ds.model.multitask) this rank can run alone."""

    forward: Callable[..., Any]
    tokenizer: Tokenizer
    device: torch.device
    head: str
    decoding: Decoding

    @torch.inference_mode()
    def write(self, rows: Rows, items: Sequence[int]) -> list[list[list[int]]]:
        """The ids of each sample of these prompts, without their ends: [P][samples]."""
        decoding = self.decoding
        prompts = [np.asarray(rows.input_ids[rows.starts[item] : rows.starts[item + 1]]) for item in items]
        names = [decoding.names[item] for item in items]
        samples = Samples.of(names, np.array([len(prompt) for prompt in prompts]), decoding)
        cache = KeyValueCache([len(prompt) for prompt in prompts])
        logits = self._read(prompts, None if rows.prefix is None else [int(rows.prefix[item]) for item in items], cache)
        cache.begin(samples.prompt)
        # A prompt's samples begin from the same logits.
        logits = logits[samples.prompt[cache.order]]
        while True:
            order = cache.order
            tokens = self._choose(logits, samples.uniform[order, samples.written])
            cache.leave(samples.take(order, tokens))
            if not len(cache.order):
                return samples.by_prompt(len(prompts))
            logits = self._step(samples, cache)

    def _choose(self, logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        return choose(logits, self.decoding.temperature, self.decoding.top_p, uniform)

    def _read(self, prompts: Sequence[np.ndarray], prefix: Sequence[int] | None, cache: KeyValueCache) -> np.ndarray:
        """Logits [P, V] of the token behind each prompt; the cache keeps what the prompts are."""
        filling = np.full(STABLE_ROWS, self.tokenizer.template.single_suffix[0])
        rows = [*prompts, filling]
        lengths = [len(row) for row in rows]
        position = np.concatenate([np.arange(length) for length in lengths])
        batch = self._batch(np.concatenate(rows), position, lengths, cache)
        if prefix is not None:
            batch.prefix = (*prefix, len(filling))
        last = np.cumsum(lengths)[:-1] - 1
        return self._logits(batch, last)

    def _step(self, samples: Samples, cache: KeyValueCache) -> np.ndarray:
        """Logits [N, V] of the token behind the newest of each sample, in the cache's order."""
        order = cache.order
        ids = samples.ids[order, samples.written - 1]
        position = samples.prompt_length[order] + samples.written - 1
        filled = np.concatenate([np.arange(len(order)), np.zeros(max(0, STABLE_ROWS - len(order)), np.int64)])
        batch = self._batch(ids[filled], position[filled], [1] * len(filled), cache)
        logits = self._logits(batch, np.arange(len(order)))
        cache.written += 1
        return logits

    def _batch(self, ids: np.ndarray, position: np.ndarray, lengths: Sequence[int], cache: KeyValueCache) -> Batch:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        row = np.repeat(np.arange(len(lengths)), lengths)
        # Where a model tells segments apart, the program is the second one; prompts are first segments.
        types = np.full(len(ids), int(cache.samples))
        arrays = (ids, types, row, position, offsets)
        tensors = [torch.from_numpy(np.asarray(array, np.int64)) for array in arrays]
        return Batch(tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], tuple(lengths), cache=cache)

    def _logits(self, batch: Batch, read: np.ndarray) -> np.ndarray:
        """Logits [N, V] of each place that is read, in float32 on the host; tokens that no program holds have none."""
        # The output layer, too, is a product whose rows are not few.
        filled = np.concatenate([read, np.repeat(read[:1], max(0, STABLE_ROWS - len(read)))])
        none = torch.zeros(0, dtype=torch.long)
        batch.heads[self.head] = Targets(torch.from_numpy(filled.astype(np.int64)), none, none.float(), none)
        logits: np.ndarray = self.forward(batch.to(self.device), "next")[self.head][: len(read)].cpu().numpy()
        # NaN would still be chosen from, and the programs would look like a bad model's.
        if not np.isfinite(logits).all():
            raise UserError("the model's outputs are not finite; its weights are damaged, train it again")
        logits[:, never_written(self.tokenizer, logits.shape[1])] = -np.inf
        return logits
