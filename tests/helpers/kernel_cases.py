"""Data and checks shared by the kernel tests: values against the float64 reference, never index lists (ties)."""

from __future__ import annotations

import torch
from stilts_kernels.topk import reference
from torch import Tensor


def gaussian(rows: int, dim: int, seed: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def anisotropic(rows: int, dim: int, seed: int) -> Tensor:
    """Unit vectors like XLM-R's sentence means: a large shared mean, two outlier dimensions, cosines about 0.956."""
    mean = torch.ones(dim) * 0.2
    mean[[3, dim // 2]] = torch.tensor([6.0, -4.0])
    mean *= dim**0.5 / mean.norm()
    noise = gaussian(rows, dim, seed) * 0.2145
    return torch.nn.functional.normalize(mean + noise, dim=1)


def poison_allocator(count: int = 1 << 20) -> None:
    """Leaves NaN in the memory the next allocations are likely to reuse, so unwritten outputs show."""
    for size in (count, count // 8, count // 64, 1024):
        torch.full((size,), float("nan"))


def check_topk(queries: Tensor, bank: Tensor, k: int, metric: str, values: Tensor, indices: Tensor) -> None:
    """Values equal the reference to float32 rounding, indices point at them, none repeats, ties rise in index."""
    scores = reference.scores(queries, bank, metric)
    expected, _ = reference.topk_of(scores, k)
    tolerance = 2.0**-23 * expected.abs() + 1e-30 + 1e-13 * scores.abs().max()
    assert values.shape == indices.shape == (len(queries), k)
    assert values.dtype == torch.float32 and indices.dtype == torch.int64
    assert ((values.double() - expected).abs() <= tolerance).all()
    assert ((scores.gather(1, indices) - expected).abs() <= tolerance).all()
    assert all(len(set(row)) == k for row in indices.tolist())


def check_tie_rule(bank: Tensor, indices: Tensor) -> None:
    """Of equal bank rows the lower index is taken first, and in order."""
    _, group = torch.unique(bank, dim=0, return_inverse=True)
    for found in indices.tolist():
        for number in set(group[found].tolist()):
            members = (group == number).nonzero()[:, 0].tolist()
            taken = [index for index in found if group[index] == number]
            assert taken == members[: len(taken)]
