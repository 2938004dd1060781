"""Keys and values of the tokens before those of a batch, so that a token more costs one token's computation.

A prompt goes through the network once, and all of its samples share its keys and values; each sample owns those of the
tokens that it has written. Prompts of about one length attend together: a call of torch's for each prompt would take
longer than what it computes. Legend: P prompts of a group, L tokens that stand for each of them, N samples of a group
that are still being written, h heads of queries, k heads of keys, g = h / k, d size of a head, T tokens of a batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# A matrix product of few rows is rounded otherwise than one of many: below this many, rows of nothing are added, so
# that what a sample's tokens are does not depend on how many others are beside it.
STABLE_ROWS = 16
# A group's prompts are filled up to the next multiple of so many tokens. It depends on a prompt's own length alone, and
# so do the sizes of the sums that its samples are computed by.
PROMPT_STEP = 16

# What samples have written is kept in blocks of so many tokens, each in memory of its own. Products of one row that
# skip over room for later tokens take up to five times as long as those that read all of a block.
BLOCK = 16

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Group:
    """Prompts of one filled-up length, by their `numbers`, and the samples of them that are being written.

    The group's samples are neighbours in a batch, in the order of `samples`: their `places` there, and the `owners`,
    the rows of their prompts. Where some are complete, the last ones move to their places: of all that is kept, little
    is copied.
    """

    def __init__(self, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        self.numbers = np.array(numbers)
        self.lengths = np.array(lengths)
        self.tokens = PROMPT_STEP * -(-max(lengths) // PROMPT_STEP)
        # By attention layer: of the prompts [P, k, L, d], and of the samples blocks of [room for N, k, BLOCK, d].
        self.of_prompts: dict[nn.Module, KeysValues] = {}
        self.of_samples: dict[nn.Module, list[KeysValues]] = {}
        self.samples = self.owners = np.zeros(0, np.int64)
        self.places = slice(0, 0)
        self.rows = torch.zeros(0, dtype=torch.long)
        self.most = 0
        self.is_table = False
        self._seen: torch.Tensor | None = None  # of all layers, as long as the prompts stay

    def keep_prompts(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor, starts: Sequence[int]) -> None:
        """Keep what a layer made of the prompts, which begin at `starts` in keys and values [k, T, d]."""
        heads, _, size = key.shape
        shape = len(self.numbers), heads, self.tokens, size
        kept = key.new_zeros(shape), value.new_zeros(shape)
        for row, (number, length) in enumerate(zip(self.numbers, self.lengths)):
            tokens = slice(starts[number], starts[number] + length)
            kept[0][row, :, :length], kept[1][row, :, :length] = key[:, tokens], value[:, tokens]
        self.of_prompts[layer] = kept

    @property
    def device(self) -> torch.device:
        return next(iter(self.of_prompts.values()))[0].device

    def begin(self, prompts: np.ndarray) -> None:
        """Take up the samples whose prompts [N] these are, as far as they are the group's."""
        row_of = {number: row for row, number in enumerate(self.numbers.tolist())}
        self.samples = np.flatnonzero(np.isin(prompts, self.numbers))
        self.owners = np.array([row_of[number] for number in prompts[self.samples].tolist()], np.int64)

    def leave(self, complete: np.ndarray) -> None:
        """Let go of the samples of the group that are `complete`, bool [N]."""
        remaining = int(np.count_nonzero(~complete))
        free = np.flatnonzero(complete[:remaining])
        last = remaining + np.flatnonzero(~complete[remaining:])
        for numbers in (self.samples, self.owners):
            numbers[free] = numbers[last]
        self.samples, self.owners = self.samples[:remaining], self.owners[:remaining]
        to, moved = (torch.from_numpy(places).to(self.device) for places in (free, last))
        for blocks in self.of_samples.values():
            for number, block in enumerate(blocks):
                for kept in block:
                    kept[to] = kept[moved]
                if 2 * remaining <= len(block[0]):  # lets go of memory
                    blocks[number] = block[0][:remaining].clone(), block[1][:remaining].clone()
        has_samples = np.bincount(self.owners, minlength=len(self.numbers)) > 0
        if not has_samples.all():
            self._keep_prompts_of(np.flatnonzero(has_samples))

    def _keep_prompts_of(self, rows: np.ndarray) -> None:
        new_row = np.zeros(len(self.numbers), np.int64)
        new_row[rows] = np.arange(len(rows))
        self.numbers, self.lengths, self.owners = self.numbers[rows], self.lengths[rows], new_row[self.owners]
        self._seen = None
        kept = torch.from_numpy(rows).to(self.device)
        for layer, (keys, values) in self.of_prompts.items():
            self.of_prompts[layer] = keys[kept], values[kept]

    def place(self, first: int) -> None:
        """The samples stand in a batch from place `first` on; each has a row in a table of `most` rows a prompt."""
        self.places = slice(first, first + len(self.samples))
        counts = np.bincount(self.owners, minlength=len(self.numbers))
        self.most = int(counts.max(initial=0))
        by_owner = np.argsort(self.owners, kind="stable")
        index = np.empty(len(self.owners), np.int64)
        # The how-manieth sample of its prompt each of them is.
        index[by_owner] = np.arange(len(by_owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self.owners * self.most + index
        self.rows = torch.from_numpy(rows).to(self.device)
        # As at the begin, and for as long as nothing ends: the samples are the table, and need not be copied into one.
        self.is_table = np.array_equal(rows, np.arange(len(self.numbers) * self.most))

    def attend(
        self, layer: nn.Module, query: torch.Tensor, new: KeysValues, written: int, window: int | None
    ) -> torch.Tensor:
        """Attention of one new token of each sample to its prompt, which is in memory once, and to the sample's own
        tokens: query [N, h, d], scaled, keys and values [N, k, d] to [N, h, d]."""
        samples, heads, size = query.shape
        keys, values = self.of_prompts[layer]
        blocks = self._append(layer, new, written)
        grouped = query.view(samples, keys.shape[1], heads // keys.shape[1], size)
        # The samples' queries are the rows of one product with their prompt's keys.
        to_prompt = self._rows(self._table(grouped) @ keys.transpose(2, 3) + self._sight(written, window, query), heads)
        to_blocks = [grouped @ block_keys.transpose(2, 3) for block_keys, _ in blocks]
        scores = torch.cat([to_prompt, *to_blocks], dim=-1)
        to_sample = scores[..., self.tokens :]
        to_sample[..., written + 1 :] = -torch.inf  # not written yet
        if window is not None:
            to_sample[..., : max(0, written + 1 - window)] = -torch.inf
        probabilities = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
        of_prompt, *of_blocks = probabilities.split([self.tokens, *(BLOCK for _ in blocks)], dim=-1)
        seen = self._rows(self._table(of_prompt) @ values, heads)
        for of_block, (_, block_values) in zip(of_blocks, blocks):
            seen = seen + of_block @ block_values
        return seen.reshape(samples, heads, size)

    def _append(self, layer: nn.Module, new: KeysValues, written: int) -> list[KeysValues]:
        """Keep the keys and values of the new tokens; the blocks of the samples, [N, k, BLOCK, d] each. What is behind
        the new tokens is zero."""
        blocks = self.of_samples.setdefault(layer, [])
        count, heads, size = new[0].shape
        if written == BLOCK * len(blocks):
            shape = count, heads, BLOCK, size
            blocks.append((new[0].new_zeros(shape), new[1].new_zeros(shape)))
        # In place: to copy all earlier tokens for each new one would cost as much as attention itself.
        for kept, of_token in zip(blocks[-1], new):
            kept[:count, :, written % BLOCK] = of_token
        return [(keys[:count], values[:count]) for keys, values in blocks]

    def _sight(self, written: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """0 where a new token sees a token of its prompt, else minus infinity: [P, 1, 1, L]."""
        if window is None and self._seen is not None and self._seen.dtype == like.dtype:
            return self._seen
        length = torch.from_numpy(self.lengths).to(like.device)[:, None]
        token = torch.arange(self.tokens, device=like.device)
        seen = token < length
        if window is not None:
            seen &= token >= length + written + 1 - window
        sight = like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None, None]
        if window is None:
            self._seen = sight
        return sight

    def _table(self, of_samples: torch.Tensor) -> torch.Tensor:
        """[N, k, g, x] to [P, k, rows, x]: the samples of each prompt below each other, and rows of zeros where there
        are fewer samples than of others, or fewer than STABLE_ROWS."""
        _, heads, groups, size = of_samples.shape
        prompts = len(self.numbers)
        table = of_samples
        if not self.is_table:
            table = of_samples.new_zeros(prompts * self.most, heads, groups, size)
            table[self.rows] = of_samples
        table = table.reshape(prompts, self.most, heads, groups, size).transpose(1, 2)
        # A product reads rows with strides in another order of sums: in memory the table always lies alike.
        table = table.reshape(prompts, heads, self.most * groups, size).contiguous()
        missing = STABLE_ROWS - table.shape[2]
        return functional.pad(table, (0, 0, 0, missing)) if missing > 0 else table

    def _rows(self, table: torch.Tensor, heads: int) -> torch.Tensor:
        """What `_table` put there, [P, k, rows, x] to [N, k, g, x]; `heads` are those of queries."""
        prompts, shared, _, size = table.shape
        groups = heads // shared
        table = table[:, :, : self.most * groups].reshape(prompts, shared, self.most, groups, size)
        samples = table.transpose(1, 2).reshape(prompts * self.most, shared, groups, size)
        return samples if self.is_table else samples[self.rows]


@dataclass
class KeyValueCache:
    """`prompts`: how many tokens each prompt has. The tokens of a batch are the prompts', until samples `begin`, and
    then one of each sample in `order`. Tokens behind these only fill up the batch."""

    prompts: Sequence[int]
    written: int = 0  # tokens that each sample has here already
    samples: bool = False  # whether they have begun
    groups: list[Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = defaultdict(list)
        for number, length in enumerate(self.prompts):
            numbers[-(-length // PROMPT_STEP)].append(number)
        self.groups = [Group(of_group, [self.prompts[number] for number in of_group]) for of_group in numbers.values()]

    @property
    def order(self) -> np.ndarray:
        """The numbers of the samples in the order of a batch, int [N]."""
        return np.concatenate([np.zeros(0, np.int64), *(group.samples for group in self.groups)])

    def begin(self, prompts: np.ndarray) -> None:
        """From now on samples are written: each of them behind the prompt whose number stands in `prompts` [N]."""
        self.samples = True
        for group in self.groups:
            group.begin(prompts)
        self._place()

    def leave(self, complete: np.ndarray) -> None:
        """Go on without the samples that are complete, bool [N] in `order`."""
        first = 0
        for group in self.groups:
            count = len(group.samples)
            group.leave(complete[first : first + count])
            first += count
        self.groups = [group for group in self.groups if len(group.samples)]
        self._place()

    def _place(self) -> None:
        first = 0
        for group in self.groups:
            group.place(first)
            first += len(group.samples)

    @property
    def longest(self) -> int:
        """Most tokens that stand before those of a batch."""
        if not self.samples:
            return 0
        return max(self.prompts) + self.written

    def keep_prompts(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep what a layer made of the prompts, [1, k, T, d] each."""
        starts = [0, *accumulate(self.prompts)]
        for group in self.groups:
            group.keep_prompts(layer, key[0], value[0], starts)

    def attend(
        self,
        layer: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """What one new token of each sample sees: query [1, h, T, d], key and value [1, k, T, d] to [1, T, h, d].

        `window`: the tokens, itself among them, that a token sees at most.
        """
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query * scale, key, value))
        seen = torch.zeros_like(queries, memory_format=torch.contiguous_format)
        for group in self.groups:
            new = keys[group.places], values[group.places]
            seen[group.places] = group.attend(layer, queries[group.places], new, self.written, window)
        return seen[None]
