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

import torch
from torch import nn
from torch.nn import functional

# A matrix product of few rows is rounded otherwise than one of many: below this many, rows of nothing are added, so
# that what a sample's tokens are does not depend on how many others are beside it.
STABLE_ROWS = 16
# A group's prompts are filled up to the next multiple of so many tokens. It depends on a prompt's own length alone, and
# so do the sizes of the sums that its samples are computed by.
PROMPT_STEP = 16

ROOM = 32  # tokens for which memory is taken at once

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Group:
    """Prompts of one filled-up length, by their `numbers`, and the samples of them that are being written."""

    def __init__(self, numbers: Sequence[int], lengths: Sequence[int]) -> None:
        self.numbers = list(numbers)
        self.lengths = list(lengths)
        self.tokens = PROMPT_STEP * -(-max(lengths) // PROMPT_STEP)
        # By attention layer: of the prompts [P, k, L, d], and of the samples [N, k, room, d], with room to go on.
        self.of_prompts: dict[nn.Module, KeysValues] = {}
        self.of_samples: dict[nn.Module, KeysValues] = {}
        self.places = self.rows = torch.zeros(0, dtype=torch.long)
        self.most = 0

    def keep_prompts(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor, starts: Sequence[int]) -> None:
        """Keep what a layer made of the prompts, which begin at `starts` in keys and values [k, T, d]."""
        heads, _, size = key.shape
        shape = len(self.numbers), heads, self.tokens, size
        kept = key.new_zeros(shape), value.new_zeros(shape)
        for row, (number, length) in enumerate(zip(self.numbers, self.lengths)):
            tokens = slice(starts[number], starts[number] + length)
            kept[0][row, :, :length], kept[1][row, :, :length] = key[:, tokens], value[:, tokens]
        self.of_prompts[layer] = kept

    def leave(self, stay: Sequence[Sequence[int]], before: Sequence[int] | None) -> None:
        """Go on with the samples that `stay` names for each prompt of the batch, of the `before` that there were."""
        device = next(iter(self.of_prompts.values()))[0].device
        if before is not None:
            kept = _places([before[number] for number in self.numbers], [stay[number] for number in self.numbers])
            if len(kept) < sum(before[number] for number in self.numbers):
                self.of_samples = _selected(self.of_samples, torch.tensor(kept, dtype=torch.long, device=device))
        remaining = [row for row, number in enumerate(self.numbers) if stay[number]]
        if len(remaining) < len(self.numbers):  # lets go of memory
            self.of_prompts = _selected(self.of_prompts, torch.tensor(remaining, dtype=torch.long, device=device))
            self.numbers, self.lengths = ([kept[row] for row in remaining] for kept in (self.numbers, self.lengths))
        self._place([len(samples) for samples in stay], device)

    def _place(self, samples: Sequence[int], device: torch.device) -> None:
        """Where the group's samples are in a batch of so many of each prompt, and where in a table of `most` rows for
        each of the group's prompts."""
        starts = [0, *accumulate(samples)]
        places = [range(starts[number], starts[number + 1]) for number in self.numbers]
        self.most = max(map(len, places), default=0)
        rows = [row * self.most + index for row, of_prompt in enumerate(places) for index in range(len(of_prompt))]
        self.places = torch.tensor([place for of_prompt in places for place in of_prompt], device=device)
        self.rows = torch.tensor(rows, device=device)

    def attend(
        self, layer: nn.Module, query: torch.Tensor, new: KeysValues, written: int, window: int | None
    ) -> torch.Tensor:
        """Attention of one new token of each sample to its prompt, which is in memory once, and to the sample's own
        tokens: query [N, h, d], scaled, keys and values [N, k, d] to [N, h, d]."""
        samples, heads, size = query.shape
        keys, values = self.of_prompts[layer]
        of_samples = self._append(layer, new, written)
        if window is not None:
            of_samples = of_samples[0][:, :, -window:], of_samples[1][:, :, -window:]
        grouped = query.view(samples, keys.shape[1], heads // keys.shape[1], size)
        # The samples' queries are the rows of one product with their prompt's keys.
        to_prompt = self._rows(self._table(grouped) @ keys.transpose(2, 3) + self._sight(written, window, query), heads)
        to_sample = grouped @ of_samples[0].transpose(2, 3)
        scores = torch.cat([to_prompt, to_sample], dim=-1)
        probabilities = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
        of_prompt, of_sample = probabilities.split([self.tokens, scores.shape[-1] - self.tokens], dim=-1)
        seen = self._rows(self._table(of_prompt) @ values, heads) + of_sample @ of_samples[1]
        return seen.view(samples, heads, size)

    def _append(self, layer: nn.Module, new: KeysValues, written: int) -> KeysValues:
        """The keys and values of the samples with those of their new tokens, [N, k, written + 1, d] each."""
        kept = self.of_samples.get(layer)
        if kept is None:
            kept = _with_room(new[0][:, :, None]), _with_room(new[1][:, :, None])
        elif written == kept[0].shape[2]:
            kept = _with_room(kept[0]), _with_room(kept[1])
        # In place: to copy all earlier tokens for each new one would cost as much as attention itself.
        kept[0][:, :, written], kept[1][:, :, written] = new
        self.of_samples[layer] = kept
        return kept[0][:, :, : written + 1], kept[1][:, :, : written + 1]

    def _sight(self, written: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """0 where a new token sees a token of its prompt, else minus infinity: [P, 1, 1, L]."""
        length = torch.tensor(self.lengths, device=like.device)[:, None]
        token = torch.arange(self.tokens, device=like.device)
        seen = token < length
        if window is not None:
            seen &= token >= length + written + 1 - window
        return like.new_zeros(seen.shape).masked_fill_(~seen, -torch.inf)[:, None, None]

    def _table(self, of_samples: torch.Tensor) -> torch.Tensor:
        """[N, k, g, x] to [P, k, rows, x]: the samples of each prompt below each other, and rows of zeros where there
        are fewer samples than of others, or fewer than STABLE_ROWS."""
        _, heads, groups, size = of_samples.shape
        prompts = len(self.numbers)
        table = of_samples.new_zeros(prompts * self.most, heads, groups, size)
        table[self.rows] = of_samples
        table = table.view(prompts, self.most, heads, groups, size).transpose(1, 2)
        table = table.reshape(prompts, heads, self.most * groups, size)
        missing = STABLE_ROWS - table.shape[2]
        return functional.pad(table, (0, 0, 0, missing)) if missing > 0 else table

    def _rows(self, table: torch.Tensor, heads: int) -> torch.Tensor:
        """What `_table` put there, [P, k, rows, x] to [N, k, g, x]; `heads` are those of queries."""
        prompts, shared, _, size = table.shape
        groups = heads // shared
        table = table[:, :, : self.most * groups].reshape(prompts, shared, self.most, groups, size)
        return table.transpose(1, 2).reshape(prompts * self.most, shared, groups, size)[self.rows]


@dataclass
class KeyValueCache:
    """`prompts`: how many tokens each prompt has; `samples`: how many samples of it are being written. The tokens of a
    batch are the prompts' (while `samples` is None), or one of each sample, prompt after prompt. Tokens behind these
    only fill up the batch."""

    prompts: Sequence[int]
    samples: list[int] | None = None
    written: int = 0  # tokens that each sample has here already
    groups: list[Group] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = defaultdict(list)
        for number, length in enumerate(self.prompts):
            numbers[-(-length // PROMPT_STEP)].append(number)
        self.groups = [Group(of_group, [self.prompts[number] for number in of_group]) for of_group in numbers.values()]

    @property
    def longest(self) -> int:
        """Most tokens that stand before those of a batch."""
        if self.samples is None:
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

    def leave(self, stay: Sequence[Sequence[int]]) -> None:
        """Go on with the samples of each prompt that `stay` names by their places among those that there were."""
        for group in self.groups:
            group.leave(stay, self.samples)
        self.groups = [group for group in self.groups if group.numbers]
        if self.samples is not None:
            self.written += 1
        self.samples = [len(places) for places in stay]


def _places(before: Sequence[int], stay: Sequence[Sequence[int]]) -> list[int]:
    """The places, in a row of so many of each prompt, of those that `stay` names by their places in their prompt's."""
    starts = [0, *accumulate(before)]
    return [start + place for start, places in zip(starts, stay) for place in places]


def _selected(kept: dict[nn.Module, KeysValues], places: torch.Tensor) -> dict[nn.Module, KeysValues]:
    return {layer: (keys[places], values[places]) for layer, (keys, values) in kept.items()}


def _with_room(kept: torch.Tensor) -> torch.Tensor:
    """A copy [N, k, room, d] with room for ROOM tokens more than [N, k, tokens, d]."""
    return functional.pad(kept, (0, 0, 0, ROOM))
