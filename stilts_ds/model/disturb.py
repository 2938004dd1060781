"""Disturbances of word embeddings, for robust training: drawn at random, or climbing the loss.

FreeLB (Zhu et al. 2020, arXiv 1909.11764, algorithm 1; their code's rule where both differ): a row's first disturbance
is uniform in +-magnitude / sqrt(L E), each further one lies `step_size` further along the gradient over the norm
of the gradient, and is shortened to `radius`. Norms are those of a row, so that no row's disturbance depends on the
rows beside it.

What is drawn depends on the key that the batch has for the row, and so on (seed, step, example, row), whatever ranks
and micro-batches are. Dropout's masks hang on the same keys: they are the same for all disturbances of a step.

Legend: B rows, T tokens of all of them, L tokens of one row, E channels of the word embeddings.
"""

from __future__ import annotations

import math

import torch
from stilts_kernels.dropout.hashing import fold, shift_right
from torch import Tensor

from stilts_ds.robust import AdversarialSteps, RandomStep, Robust
from stilts_ds.rows.batch import Batch

# Folded into a row's key, so that disturbances and dropout, which folds positions into it, draw other numbers.
ELEMENTS, LENGTHS = 1 << 40, (1 << 40) + 1
BITS = 24  # of a random number: as many as a float32 holds


def uniform(keys: Tensor) -> Tensor:
    """A number in [0, 1) for each key, float32."""
    return shift_right(keys, 64 - BITS).to(torch.float32) * 2.0**-BITS


def row_norms(values: Tensor, batch: Batch) -> Tensor:
    """The norm [B] of each row's part of `values` [T, E].

    Rows are laid side by side and summed there: adding them up in place would round in another order in each run on a
    GPU.
    """
    squares = values.float().square().sum(-1)
    longest = max(batch.lengths)
    table = squares.new_zeros(len(batch.lengths) * longest)
    table = table.index_copy(0, batch.row * longest + batch.position, squares)
    return table.view(-1, longest).sum(-1).sqrt()


def shortened(delta: Tensor, batch: Batch, radius: float | None) -> Tensor:
    """The disturbance with rows that are longer than `radius` cut to it; None: as it is."""
    if radius is None:
        return delta
    norms = row_norms(delta, batch)
    factors = torch.where(norms > radius, radius / norms.clamp_min(torch.finfo(norms.dtype).tiny), 1.0)
    return delta * factors[batch.row][:, None]


def ascended(delta: Tensor, gradient: Tensor, batch: Batch, step_size: float, radius: float | None) -> Tensor:
    """FreeLB's step, row by row. A row without a gradient, which no target depends on, stays where it is."""
    norms = row_norms(gradient, batch)
    factors = torch.where(norms > 0, step_size / norms.clamp_min(torch.finfo(norms.dtype).tiny), 0.0)
    return shortened(delta + gradient.float() * factors[batch.row][:, None], batch, radius)


def first_disturbance(robust: Robust | None, batch: Batch, width: int) -> Tensor | None:
    """What is added to a batch's word embeddings [T, width] at first; None where nothing is."""
    if isinstance(robust, AdversarialSteps):
        return _uniform_in_cube(robust, batch, width)
    return _uniform_in_ball(robust.radius, batch, width) if isinstance(robust, RandomStep) else None


def _element_keys(batch: Batch, width: int) -> Tensor:
    """A key for each element of a row: [T, width]."""
    assert batch.mask_keys is not None
    rows = fold(batch.mask_keys[1:], ELEMENTS)
    tokens = fold(rows[batch.row], batch.position)
    return fold(tokens[:, None], torch.arange(width, device=tokens.device))


def _sizes(batch: Batch, width: int) -> Tensor:
    """Elements of each row: [B], float32."""
    return (batch.offsets[1:] - batch.offsets[:-1]).to(torch.float32) * width


def _uniform_in_cube(robust: AdversarialSteps, batch: Batch, width: int) -> Tensor:
    drawn = 2 * uniform(_element_keys(batch, width)) - 1
    scale = robust.magnitude / _sizes(batch, width).sqrt()
    return shortened(drawn * scale[batch.row][:, None], batch, robust.radius)


def _uniform_in_ball(radius: float, batch: Batch, width: int) -> Tensor:
    """A direction from normal numbers (Box and Muller 1958), and a length whose power of the dimension is uniform."""
    assert batch.mask_keys is not None
    keys = _element_keys(batch, width)
    # 1 - u is never 0, whose logarithm there is none of.
    normal = (-2 * (1 - uniform(fold(keys, 0))).log()).sqrt() * (2 * math.pi * uniform(fold(keys, 1))).cos()
    drawn = uniform(fold(batch.mask_keys[1:], LENGTHS))
    lengths = radius * drawn ** (1 / _sizes(batch, width))
    factors = lengths / row_norms(normal, batch).clamp_min(torch.finfo(torch.float32).tiny)
    return normal * factors[batch.row][:, None]
