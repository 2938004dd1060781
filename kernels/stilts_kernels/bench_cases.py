"""What the benchmark measures: data, the methods compared, and the correctness gate each must pass first.

Nothing but torch is needed; FAISS and numpy are measured where they are installed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from stilts_kernels.mining import MinedPairs, Neighbours, mine_cpu, pairs_from, two_way
from stilts_kernels.panels import EXTRA_COLUMNS
from stilts_kernels.rows import Rows, normalize
from stilts_kernels.screen import Index, fastest_screen, topk_cpu

GATE_ROWS = 256
TILE = 4096


@dataclass(frozen=True)
class Case:
    """One measured problem. kind: topk (one way) or mine (both ways, k neighbours, ratio margin, max matching).

    `goal` is the ratio FAISS / ours to reach. data: gaussian, bitext (half the queries have a translation) or
    anisotropic (like XLM-R: cosines about 0.956, two outlier dimensions).
    """

    name: str
    kind: str
    queries: int
    rows: int
    dim: int
    k: int
    goal: float | None = None
    data: str = "gaussian"

    @property
    def gflop(self) -> float:
        return 2e-9 * self.queries * self.rows * self.dim


CASES = [
    Case("tatoeba", "topk", 1000, 1000, 1024, 1),
    Case("topk-d1024-k4", "topk", 512, 100_000, 1024, 4, 1.5),
    Case("topk-d1024-k16", "topk", 512, 100_000, 1024, 16, 1.35),
    Case("topk-d384-k4", "topk", 1024, 100_000, 384, 4, 1.3),
    Case("topk-d384-k16", "topk", 1024, 100_000, 384, 16, 1.15),
    Case("anisotropic", "topk", 300, 20_000, 1024, 4, None, "anisotropic"),
    Case("anisotropic-k16", "topk", 300, 20_000, 1024, 16, None, "anisotropic"),
    Case("two-way", "mine", 4096, 32_768, 1024, 4, 2.2, "bitext"),
    Case("bucc-10k", "mine", 10_000, 10_000, 1024, 4, None, "bitext"),
]
LARGE = [
    Case("bucc-100k", "mine", 100_000, 100_000, 1024, 4, None, "bitext"),
    Case("bucc-1m", "mine", 1_000_000, 1_000_000, 1024, 4, None, "bitext"),
    Case("ccmatrix-shard", "topk", 16_384, 1_048_576, 1024, 16),
]
QUICK = [
    Case("quick-topk", "topk", 128, 8192, 256, 4),
    Case("quick-anisotropic", "topk", 100, 6000, 256, 4, None, "anisotropic"),
    Case("quick-two-way", "mine", 512, 4096, 128, 4, None, "bitext"),
]

Method = Callable[[], Any]


def optional(name: str) -> ModuleType | None:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def make_data(case: Case, seed: int = 1) -> tuple[Tensor, Tensor]:
    """(queries, bank) of unit rows, float32."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(case.rows, case.dim, generator=generator)
    queries = torch.randn(case.queries, case.dim, generator=generator)
    if case.data == "bitext":
        count = min(case.queries, case.rows) // 2
        queries[:count] = bank[:count] + 0.8 * queries[:count]
    if case.data == "anisotropic":
        queries, bank = (side.mul_(0.2145).add_(shared_mean(case.dim)) for side in (queries, bank))
    return normalize(queries), normalize(bank)


def shared_mean(dim: int) -> Tensor:
    """A mean of length sqrt(dim) with two outlier dimensions; noise of 0.2145 a dimension gives cosines near 0.956."""
    mean = torch.full((dim,), 0.2)
    mean[[3, dim // 2]] = torch.tensor([6.0, -4.0])
    return mean * (dim**0.5 / mean.norm())


def topk_methods(queries: Tensor, bank: Tensor, k: int) -> dict[str, Method]:
    """What answers the same question: ours with a prepared bank and from scratch, and the usual tools."""
    index = Index(bank)
    methods: dict[str, Method] = {
        "ours": lambda: topk_cpu(queries, index, k),
        "ours, bank unprepared": lambda: topk_cpu(queries, bank, k),
        "torch matmul + topk": lambda: torch_topk(queries, bank, k),
    }
    faiss, numpy = optional("faiss"), optional("numpy")
    if faiss is not None:
        faiss.omp_set_num_threads(torch.get_num_threads())
        flat = faiss.IndexFlatIP(bank.shape[1])
        flat.add(bank.numpy())
        methods["faiss IndexFlatIP"] = lambda: from_numpy(flat.search(queries.numpy(), k))
    if numpy is not None:
        methods["numpy matmul + argpartition"] = lambda: numpy_topk(numpy, queries.numpy(), bank.numpy(), k)
    return methods


def mine_methods(source: Tensor, target: Tensor, k: int) -> dict[str, Method]:
    """Two-way search, ratio margin and matching; the scoring after FAISS is our own vectorised one."""
    methods: dict[str, Method] = {"ours": lambda: mine_cpu(source, target, k, "ratio", "max", "inner")}
    faiss = optional("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(torch.get_num_threads())
        methods["faiss both ways"] = lambda: faiss_mine(faiss, source, target, k)
    return methods


def faiss_mine(faiss: ModuleType, source: Tensor, target: Tensor, k: int) -> MinedPairs:
    """Two exact FAISS searches, then the same margin and matching as ours."""
    found = []
    for queries, bank in ((source, target), (target, source)):
        flat = faiss.knn(queries.numpy(), bank.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
        values, indices = from_numpy(flat)
        found.append(Neighbours(values.double(), indices))
    return pairs_from(found[0], found[1], "ratio", "max")


def from_numpy(found: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def torch_topk(queries: Tensor, bank: Tensor, k: int, step: int = 256) -> tuple[Tensor, Tensor]:
    """Whole rows of scores, `step` queries at a time."""
    parts = [torch.topk(queries[start : start + step] @ bank.T, k, dim=1) for start in range(0, len(queries), step)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def numpy_topk(numpy: ModuleType, queries: Any, bank: Any, k: int, step: int = 256) -> tuple[Tensor, Tensor]:
    values, indices = [], []
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ bank.T
        best = numpy.argpartition(scores, bank.shape[0] - k, axis=1)[:, -k:]
        value = numpy.take_along_axis(scores, best, 1)
        order = numpy.argsort(-value, axis=1)
        values.append(numpy.take_along_axis(value, order, 1))
        indices.append(numpy.take_along_axis(best, order, 1))
    return from_numpy((numpy.concatenate(values), numpy.concatenate(indices)))


def matmul_methods(case: Case) -> dict[str, Method]:
    """The bare products of the case's shape in tiles, nothing kept: the measured peaks."""
    names = ["float32"] if fastest_screen() == "float32" else ["float32", "bfloat16"]
    return {f"{name} matmul alone": bare_matmul(case, getattr(torch, name)) for name in names}


def bare_matmul(case: Case, dtype: torch.dtype) -> Method:
    step = min(1024, case.queries)
    left = torch.randn(step, case.dim + EXTRA_COLUMNS, dtype=dtype)
    right = torch.randn(min(TILE, case.rows), case.dim + EXTRA_COLUMNS, dtype=dtype)
    out = torch.empty(len(right), step, dtype=dtype)
    times = max(1, round(case.queries * case.rows / out.numel()))
    return lambda: [torch.mm(right, left.T, out=out) for _ in range(times)]


def gate_topk(queries: Tensor, bank: Tensor, k: int, found: tuple[Tensor, Tensor]) -> float:
    """Recall against float64, by value: the share of returned indices whose float64 score is among the k best."""
    right = 0
    for start in range(0, len(queries), GATE_ROWS):
        scores = queries[start : start + GATE_ROWS].double() @ bank.double().T
        least = scores.topk(k, dim=1).values[:, -1:] * (1 - 1e-12) - 1e-15
        indices = found[1][start : start + GATE_ROWS].sort(dim=1).values
        good = scores.gather(1, indices) >= least
        good[:, 1:] &= indices[:, 1:] != indices[:, :-1]
        right += int(good.sum())
    return right / (len(queries) * k)


def gate_mine(source: Tensor, target: Tensor, k: int) -> float:
    """Recall of both directions of the search that `mine` scores, every row and column."""
    forward, backward = two_way(Rows(source, "source"), Rows(target, "target"), k, k)
    ahead = gate_topk(source, target, k, (forward.values, forward.indices))
    back = gate_topk(target, source, k, (backward.values, backward.indices))
    return (ahead * len(source) + back * len(target)) / (len(source) + len(target))
