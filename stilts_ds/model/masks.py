"""Dropout masks as a function of (seed, step, example, row, position, site, channel), whatever ranks and batches are.

A batch brings a key for each of its rows, made from the seed, the step, the row's example in the global batch and its
place in the example (`row_keys`). While a model trains on the batch, `Masks` stands in for torch's dropout and its
attention with dropout: the element of a tensor draws from the key of its row, its position in the row, the channel and
the number of the call in the forward pass, which is the layer and the site. In attention probabilities it draws from
the row, the head, the query's position and the key's. So the masks are the same packed and padded, in every split over
micro-batches and ranks, when activations are computed again, and after a restart.

Legend: B rows, T tokens of all of them, L tokens of the longest, h heads, C channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from stilts_kernels.dropout.function import dropout
from stilts_kernels.dropout.hashing import fold
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from stilts_ds.rows.batch import Batch

SCHEME = 1  # of masks; another one draws others, and checkpoints name theirs
STREAM = 4  # of the seed; batches/ draws its own from 0 to 3
# Sites are numbered in each kind of tensor by itself, so that other kinds can come and go.
TOKENS, PLANES, HEADS, SHARED = (kind << 20 for kind in range(4))


def row_keys(seed: int, step: int, rows: Sequence[tuple[int, int]]) -> Tensor:
    """The step's key, for tensors that belong to no row, then one for each row: int64 [1 + B].

    `rows` are (position of the example in the global batch, row inside the example).
    """
    of_step = fold(fold(fold(torch.zeros(1, dtype=torch.int64), STREAM), seed), step)
    example, row = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return torch.cat([fold(of_step, 0), fold(fold(fold(of_step, 1), example), row)])


@dataclass
class Pass:
    """One forward pass over a batch: the keys of its tensors, and how many calls of each kind there were."""

    rows: Tensor  # [B]
    step: Tensor  # [1]
    tokens: Tensor  # [T]
    packed: bool
    longest: int
    calls: Counter[int] = field(default_factory=Counter)
    read: Tensor | None = None  # places among the T tokens of what a head reads

    def draw(self, x: Tensor, rate: float) -> Tensor:
        """Dropout of a tensor whose axes its shape tells."""
        kind, keys, planes = self._layout(x)
        return dropout(x.reshape(planes), keys, self.number(kind), rate).view(x.shape)

    def number(self, kind: int) -> int:
        """The site of a call: the next number of its kind."""
        self.calls[kind] += 1
        return kind + self.calls[kind] - 1

    def plane_keys(self, *middle: int) -> Tensor:
        """A key for each row and, as for the heads of attention, index of the axes after it: [B * middle]."""
        keys = self.rows
        for size in middle:
            keys = fold(keys[..., None], torch.arange(size, device=keys.device))
        return keys.flatten()

    def _layout(self, x: Tensor) -> tuple[int, Tensor, tuple[int, int, int]]:
        """(kind of site, keys [K], shape [K, height, width]) of a tensor."""
        shape, rows, width = tuple(x.shape), len(self.rows), x.shape[-1]
        if self.read is not None:
            return HEADS, self.tokens[self.read], (shape[0], 1, width)
        if self.packed and x.dim() == 3 and shape[:2] == (1, len(self.tokens)):
            return TOKENS, self.tokens, (shape[1], 1, width)
        if not self.packed and x.dim() == 3 and shape[:2] == (rows, self.longest):
            return TOKENS, self.plane_keys(self.longest), (rows * self.longest, 1, width)
        if not self.packed and x.dim() > 2 and shape[0] == rows:
            keys = self.plane_keys(*shape[1:-2])
            return PLANES, keys, (len(keys), shape[-2], width)
        # Tensors of no row, such as embeddings of distances: one mask for all rows of a step.
        return SHARED, self.step, (1, x.numel() // width, width)


class Masks(TorchFunctionMode):
    """The masks of one model. Inside `of(batch)` calls of torch's dropout, in modules as in functions, take them; so
    does scaled-dot-product attention with dropout, which is computed step by step then."""

    def __init__(self) -> None:
        super().__init__()
        self.current: Pass | None = None
        self.stands_in: dict[Callable[..., Any], Callable[..., Tensor]] = {
            functional.dropout: self.dropout,
            functional.scaled_dot_product_attention: self.attention,
        }

    @contextmanager
    def of(self, batch: Batch, packed: bool) -> Iterator[None]:
        """A forward pass over `batch`, whose rows have keys."""
        assert batch.mask_keys is not None
        step, rows = batch.mask_keys[:1], batch.mask_keys[1:]
        tokens = fold(rows[batch.row], batch.position)
        with self._use(Pass(rows, step, tokens, packed, max(batch.lengths))):
            yield

    @contextmanager
    def reading(self, tokens: Tensor) -> Iterator[None]:
        """A head that reads the given places among the batch's tokens."""
        if self.current is None:
            yield
            return
        self.current.read = tokens
        yield
        self.current.read = None

    def again(self) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        """Contexts of a part of the model whose activations are computed again in the backward pass, as
        torch.utils.checkpoint takes them: the second time its sites have the numbers of the first."""
        if self.current is None:
            return nullcontext(), nullcontext()
        first_pass = self.current
        return nullcontext(), self._use(Pass(**{**vars(first_pass), "calls": Counter(first_pass.calls)}))

    @contextmanager
    def _use(self, current: Pass) -> Iterator[None]:
        before, self.current = self.current, current
        try:
            with self:
                yield
        finally:
            self.current = before

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = self.stands_in.get(function, function)
        return ours(*args, **(kwargs or {}))

    @torch.compiler.disable
    def dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """As torch.nn.functional.dropout; never in place, which no caller relies on."""
        del inplace
        if not training or p == 0:
            return x
        assert self.current is not None
        return self.current.draw(x, p)

    @torch.compiler.disable
    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As torch.nn.functional.scaled_dot_product_attention, [B, h, L, d] each."""
        if dropout_p == 0:
            return functional.scaled_dot_product_attention(
                query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        assert self.current is not None
        if enable_gqa:  # heads that share keys and values
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        keys, site = self.current.plane_keys(query.shape[1]), self.current.number(PLANES)
        drop = partial(dropout, keys=keys, site=site, rate=dropout_p)
        return attend(query, key, value, drop, scale, attn_mask)

    def attention_sites(self, heads: int) -> tuple[Tensor, int]:
        """Keys of the batch's attention [B, h] and the number of the site, for attention over packed rows."""
        assert self.current is not None
        return self.current.plane_keys(heads).view(-1, heads), self.current.number(PLANES)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    drop: Callable[[Tensor], Tensor],
    scale: float | None,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention with dropout of its probabilities, [B, h, L, d] each; `drop` is given them as [B * h, L, L]."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    given = query.dtype
    exact = torch.promote_types(given, torch.float32)
    if query.device.type == "cpu":  # where torch, too, computes attention of half precision in float32
        query, key, value = query.to(exact), key.to(exact), value.to(exact)
    scores = (query * scale) @ key.transpose(-2, -1)
    if mask is not None:
        # Finite: padding that sees nothing must not become NaN, which would reach rows as 0 * NaN in the next layer.
        lowest = torch.finfo(scores.dtype).min
        masked = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
        scores = masked.clamp_min(lowest)
    probabilities = scores.softmax(-1, dtype=exact).to(value.dtype)
    kept = drop(probabilities.flatten(0, 1))
    return (kept.view(probabilities.shape) @ value).to(given)
