"""Keys and values of the tokens before those of a batch, so that a token more costs one token's computation.

A prompt goes through the network once, and all of its samples share its keys and values; each sample owns those of the
tokens that it has written. Legend: P prompts, n samples of a prompt that are still being written, h heads of queries,
k heads of keys, d size of a head, T tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional

# A matrix product of few rows is rounded otherwise than one of many: below this many, rows of nothing are added, so
# that what a sample's tokens are does not depend on how many others are beside it.
STABLE_ROWS = 16

ROOM = 32  # tokens for which memory is taken at once

KeysValues = tuple[torch.Tensor, torch.Tensor]


@dataclass
class KeyValueCache:
    """`prompts`: how many tokens each prompt has; `samples`: how many samples of it are being written. The tokens of a
    batch are the prompts' (while `samples` is None), or one of each sample, prompt after prompt. Tokens behind these
    only fill up the batch."""

    prompts: Sequence[int]
    samples: list[int] | None = None
    written: int = 0  # tokens that each sample has here already
    # By attention layer: of each prompt [k, tokens, d], and of its samples [n, k, room, d], with room for more tokens.
    of_prompts: dict[nn.Module, list[KeysValues]] = field(default_factory=dict)
    of_samples: dict[nn.Module, list[KeysValues | None]] = field(default_factory=dict)

    @property
    def longest(self) -> int:
        """Most tokens that stand before those of a batch."""
        if self.samples is None:
            return 0
        return max(self.prompts) + self.written

    def keep_prompts(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep what a layer made of the prompts, [1, k, T, d] each."""
        sizes = [*self.prompts, key.shape[2] - sum(self.prompts)]
        parts = zip(key[0].split(sizes, dim=1), value[0].split(sizes, dim=1))
        self.of_prompts[layer] = [(keys.contiguous(), values.contiguous()) for keys, values in parts][:-1]
        self.of_samples[layer] = [None] * len(self.prompts)

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
        assert self.samples is not None
        queries, keys, values = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        seen, begin = [], 0
        for number, samples in enumerate(self.samples):
            if not samples:
                continue
            new = slice(begin, begin + samples)
            begin += samples
            continuation = self._append(layer, number, keys[new], values[new])
            prompt = self.of_prompts[layer][number]
            if window is not None:
                prompt, continuation = _windowed(prompt, continuation, window)
            seen.append(shared_attention(queries[new] * scale, prompt, continuation))
        seen.append(torch.zeros_like(queries[begin:]))
        return torch.cat(seen)[None]

    def _append(self, layer: nn.Module, number: int, key: torch.Tensor, value: torch.Tensor) -> KeysValues:
        """The keys and values of a prompt's samples with those of their new tokens, [n, k, d] each."""
        kept = self.of_samples[layer][number]
        if kept is None:
            kept = _with_room(key[:, :, None]), _with_room(value[:, :, None])
        elif self.written == kept[0].shape[2]:
            kept = _with_room(kept[0]), _with_room(kept[1])
        # In place: to copy all earlier tokens for each new one would cost as much as attention itself.
        kept[0][:, :, self.written], kept[1][:, :, self.written] = key, value
        self.of_samples[layer][number] = kept
        tokens = self.written + 1
        return kept[0][:, :, :tokens], kept[1][:, :, :tokens]

    def leave(self, stay: Sequence[torch.Tensor]) -> None:
        """Go on with the samples of each prompt that `stay` names by their places among those that there were."""
        if self.samples is not None:
            self.written += 1
        self.samples = [len(places) for places in stay]
        for layer, of_samples in self.of_samples.items():
            for number, places in enumerate(stay):
                kept = of_samples[number]
                if not len(places):
                    of_samples[number] = None
                    keys, values = self.of_prompts[layer][number]
                    self.of_prompts[layer][number] = keys[:, :0].clone(), values[:, :0].clone()  # lets go of memory
                elif kept is not None and len(places) < len(kept[0]):
                    of_samples[number] = (kept[0][places], kept[1][places])


def _with_room(kept: torch.Tensor) -> torch.Tensor:
    """A copy [n, k, room, d] with room for ROOM tokens more than [n, k, tokens, d]."""
    return functional.pad(kept, (0, 0, 0, ROOM))


def _windowed(prompt: KeysValues, continuation: KeysValues, window: int) -> tuple[KeysValues, KeysValues]:
    """The last `window` tokens of a prompt and what was written behind it."""
    tokens, written = prompt[0].shape[1], continuation[0].shape[2]
    first = max(0, tokens + written - window)
    prompt = prompt[0][:, min(first, tokens) :], prompt[1][:, min(first, tokens) :]
    skipped = max(0, first - tokens)
    return prompt, (continuation[0][:, :, skipped:], continuation[1][:, :, skipped:])


def shared_attention(query: torch.Tensor, prompt: KeysValues, continuation: KeysValues) -> torch.Tensor:
    """Attention of one token of each sample to the prompt, which is in memory once, and to the sample's own tokens.

    query [n, h, d], scaled; prompt [k, tokens, d] and continuation [n, k, tokens, d], keys and values each; to
    [n, h, d].
    """
    samples, heads, size = query.shape
    shared = prompt[0].shape[0]
    groups = heads // shared  # heads of queries that share keys and values
    # The samples' queries are the rows of one product with the prompt's keys.
    rows = query.reshape(samples, shared, groups, size).transpose(0, 1).reshape(shared, samples * groups, size)
    to_prompt = (_filled(rows) @ prompt[0].transpose(1, 2))[:, : samples * groups]
    to_prompt = to_prompt.reshape(shared, samples, groups, -1).transpose(0, 1)
    to_continuation = query.reshape(samples, shared, groups, size) @ continuation[0].transpose(2, 3)
    scores = torch.cat([to_prompt, to_continuation], dim=-1)
    probabilities = scores.softmax(-1, dtype=torch.promote_types(query.dtype, torch.float32)).to(query.dtype)
    tokens = prompt[0].shape[1]
    of_prompt = probabilities[..., :tokens].transpose(0, 1).reshape(shared, samples * groups, tokens)
    seen = (_filled(of_prompt) @ prompt[1])[:, : samples * groups]
    seen = seen.reshape(shared, samples, groups, size).transpose(0, 1)
    seen = seen + probabilities[..., tokens:] @ continuation[1]
    return seen.reshape(samples, heads, size)


def _filled(rows: torch.Tensor) -> torch.Tensor:
    """Rows [k, m, d] with rows of zeros, where they are fewer than STABLE_ROWS."""
    missing = STABLE_ROWS - rows.shape[1]
    return functional.pad(rows, (0, 0, 0, missing)) if missing > 0 else rows
