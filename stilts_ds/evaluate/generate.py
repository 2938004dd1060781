"""A model goes on from prompts: sampled token by token, each prompt read once for all of its samples.

Which tokens a sample has depends on the model, its prompt and its number, and on nothing beside it: not on the batch,
the ranks or the order. So every sample draws from a generator of its own, and the sizes that could round a sample's
numbers otherwise are kept (stilts_ds.model.decoding.STABLE_ROWS). Samples that are complete leave the batch.

Legend: P prompts, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from stilts_ds.families.decoding import Decoding
from stilts_ds.families.generate.rows import never_written
from stilts_ds.model.decoding import STABLE_ROWS, KeyValueCache
from stilts_ds.rows.batch import Batch, Targets
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer


@dataclass
class Sample:
    """What has been written of one sample. `uniform` are the numbers in [0, 1) that choose its tokens, one each."""

    uniform: np.ndarray
    ids: list[int] = field(default_factory=list)


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
    ordered = -np.sort(-logits, axis=1)
    weights = np.exp((ordered.astype(np.float64) - ordered[:, :1]) / temperature)
    bounds = np.cumsum(weights, axis=1)
    size = ((bounds - weights) < top_p * bounds[:, -1:]).sum(axis=1, keepdims=True)
    mass = np.take_along_axis(bounds, size - 1, axis=1)
    rank = np.minimum((bounds <= uniform * mass).sum(axis=1, keepdims=True), size - 1)
    value = np.take_along_axis(ordered, rank, axis=1)
    is_equal = logits == value
    tokens = is_equal.argmax(axis=1)
    # The token of that rank: of those as likely as it, the one behind so many equals.
    equals_before = (rank - (ordered > value).sum(axis=1, keepdims=True))[:, 0]
    for row in np.flatnonzero(equals_before):
        tokens[row] = np.flatnonzero(is_equal[row])[equals_before[row]]
    return tokens


@dataclass(frozen=True)
class Generator:
    """Writes with one head of a model, whose forward pass (stilts_ds.model.multitask) this rank can run alone."""

    forward: Callable[..., Any]
    tokenizer: Tokenizer
    device: torch.device
    head: str
    decoding: Decoding

    @torch.no_grad()
    def write(self, rows: Rows, items: Sequence[int]) -> list[list[list[int]]]:
        """The ids of each sample of these prompts, without their ends: [P][samples]."""
        decoding = self.decoding
        prompts = [np.asarray(rows.input_ids[rows.starts[item] : rows.starts[item + 1]]) for item in items]
        samples = [
            [
                Sample(uniform_numbers(decoding.names[item], number, decoding.most_tokens))
                for number in range(decoding.samples)
            ]
            for item in items
        ]
        cache = KeyValueCache([len(prompt) for prompt in prompts])
        logits = self._read(prompts, None if rows.prefix is None else [int(rows.prefix[item]) for item in items], cache)
        # A prompt's samples begin from the same logits.
        alive = samples
        stay = self._extend(prompts, alive, np.repeat(logits, decoding.samples, axis=0))
        cache.leave(stay)
        while any(stay):
            alive = [[of_prompt[position] for position in positions] for of_prompt, positions in zip(alive, stay)]
            stay = self._extend(prompts, alive, self._step(prompts, alive, cache))
            cache.leave(stay)
        return [[sample.ids for sample in of_prompt] for of_prompt in samples]

    def _extend(
        self, prompts: Sequence[np.ndarray], alive: Sequence[Sequence[Sample]], logits: np.ndarray
    ) -> list[list[int]]:
        """Give each sample its next token by its logits [N, V]. Returns the positions, among each prompt's samples, of
        those that are not complete."""
        decoding = self.decoding
        uniform = np.array([sample.uniform[len(sample.ids)] for of_prompt in alive for sample in of_prompt])
        tokens = iter(choose(logits, decoding.temperature, decoding.top_p, uniform).tolist())
        return [
            [
                position
                for position, sample in enumerate(of_prompt)
                if not self._is_complete(sample, next(tokens), len(prompt))
            ]
            for of_prompt, prompt in zip(alive, prompts)
        ]

    def _is_complete(self, sample: Sample, token: int, prompt: int) -> bool:
        """Take the token, unless the row of a prompt of so many tokens is full or the token ends it."""
        decoding = self.decoding
        if decoding.is_full(len(sample.ids), prompt) or token == decoding.end:
            return True
        sample.ids.append(token)
        return decoding.is_full(len(sample.ids), prompt) or decoding.is_complete(sample.ids)

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

    def _step(
        self, prompts: Sequence[np.ndarray], alive: Sequence[Sequence[Sample]], cache: KeyValueCache
    ) -> np.ndarray:
        """Logits [N, V] of the token behind the newest of each sample, prompt after prompt."""
        pairs = [(len(prompt), sample) for prompt, of_prompt in zip(prompts, alive) for sample in of_prompt]
        newest = [sample.ids[-1] for _, sample in pairs]
        position = [length + len(sample.ids) - 1 for length, sample in pairs]
        missing = max(0, STABLE_ROWS - len(pairs))
        ids, places = np.array(newest + newest[:1] * missing), np.array(position + position[:1] * missing)
        batch = self._batch(ids, places, [1] * len(ids), cache)
        return self._logits(batch, np.arange(len(pairs)))

    def _batch(self, ids: np.ndarray, position: np.ndarray, lengths: Sequence[int], cache: KeyValueCache) -> Batch:
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        row = np.repeat(np.arange(len(lengths)), lengths)
        # Where a model tells segments apart, the program is the second one; prompts are first segments.
        types = np.full(len(ids), 0 if cache.samples is None else 1)
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
        logits[:, never_written(self.tokenizer, logits.shape[1])] = -np.inf
        return logits
