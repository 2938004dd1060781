"""What the benchmark measures: data, the methods compared, and the correctness gate each must pass first.

Nothing but torch is needed (and triton on a GPU); FAISS and numpy are measured where they are installed, FAISS on a GPU
where its build has one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import torch
from stilts_kernels import Index, MinedPairs, normalize, topk
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.match import pairs_from
from stilts_kernels.mining.two_way import two_way
from stilts_kernels.topk.bounds import EXTRA_COLUMNS
from stilts_kernels.topk.cpu import topk_cpu
from stilts_kernels.topk.screen import multiplies_bfloat16
from torch import Tensor

from stilts_bench.device import CPU

# Queries of a gate at a time: 256 rows of float64 scores of a million take 2 GB.
GATE_ROWS = 256
GATE_ALL, GATE_SAMPLE = 16_384, 1024  # sides of more rows are gated on evenly spaced ones
TILE = 4096


@dataclass(frozen=True)
class BenchmarkCase:
    """One measured problem. kind: topk (one way) or mine (both ways, k neighbours, ratio margin, max matching).

    `goals` are the ratios FAISS / ours to reach, by the screen, `unprepared` the same with the bank's preparation in
    our time. data: gaussian, bitext (half the queries have a translation) or anisotropic (like XLM-R: cosines about
    0.956, two outlier dimensions).
    """

    name: str
    kind: str
    queries: int
    rows: int
    dim: int
    k: int
    goals: dict[str, float] = field(default_factory=dict)
    unprepared: dict[str, float] = field(default_factory=dict)
    data: str = "gaussian"
    once: bool = False  # hours long: one run of each method gives its result, time and memory

    def at_most(self, size: int) -> BenchmarkCase:
        """This case with no side longer than `size`, under a name that says so; its goals hold for the full size."""
        if max(self.queries, self.rows) <= size:
            return self
        name, queries, rows = f"{self.name}-max{size}", min(self.queries, size), min(self.rows, size)
        return replace(self, name=name, queries=queries, rows=rows, goals={}, unprepared={})

    @property
    def gflop(self) -> float:
        # A product and a sum for each number of each pair. Both directions share them: each score is computed once.
        return 2e-9 * self.queries * self.rows * self.dim


def by_screen(avx2: float, vnni: float, amx: float, **others: float) -> dict[str, float]:
    """Goals by the screens of a CPU, as `last_report()` names them."""
    return {"avx2": avx2, "avx-vnni": vnni, "avx512-vnni": vnni, "amx": amx, **others}


# By k, of rows that share a large mean as an encoder's do: the made-up ones below, and `--embeddings`.
ANISOTROPIC_GOALS = {4: by_screen(2.2, 2.5, 2.8), 16: by_screen(1.8, 2, 2.3)}

CASES = [
    BenchmarkCase("tatoeba", "topk", 1000, 1000, 1024, 1),
    BenchmarkCase(
        "topk-d1024-k4", "topk", 512, 100_000, 1024, 4, by_screen(2.2, 3, 4.5, float32=1), by_screen(1.6, 2, 4)
    ),
    BenchmarkCase("topk-d1024-k16", "topk", 512, 100_000, 1024, 16, by_screen(2.2, 3, 3.5), by_screen(1.7, 2, 3)),
    BenchmarkCase("topk-d384-k4", "topk", 1024, 100_000, 384, 4, by_screen(2.2, 3, 3.8)),
    BenchmarkCase("topk-d384-k16", "topk", 1024, 100_000, 384, 16, by_screen(2.1, 2.8, 2.8)),
    BenchmarkCase("anisotropic", "topk", 300, 20_000, 1024, 4, ANISOTROPIC_GOALS[4], data="anisotropic"),
    BenchmarkCase("anisotropic-k16", "topk", 300, 20_000, 1024, 16, ANISOTROPIC_GOALS[16], data="anisotropic"),
    BenchmarkCase("two-way", "mine", 4096, 32_768, 1024, 4, by_screen(2.6, 3.5, 4.5), data="bitext"),
    BenchmarkCase("bucc-10k", "mine", 10_000, 10_000, 1024, 4, data="bitext"),
]
LARGE = [
    BenchmarkCase("bucc-100k", "mine", 100_000, 100_000, 1024, 4, data="bitext"),
    BenchmarkCase("bucc-1m", "mine", 1_000_000, 1_000_000, 1024, 4, data="bitext", once=True),
    BenchmarkCase("ccmatrix-shard", "topk", 16_384, 1_048_576, 1024, 16),
]
QUICK = [
    BenchmarkCase("quick-topk", "topk", 128, 8192, 256, 4),
    BenchmarkCase("quick-anisotropic", "topk", 100, 6000, 256, 4, data="anisotropic"),
    BenchmarkCase("quick-two-way", "mine", 512, 4096, 128, 4, data="bitext"),
]

Method = Callable[[], Any]


def optional(name: str) -> ModuleType | None:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def make_data(case: BenchmarkCase, seed: int = 1, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """(queries, bank) of unit rows: float32 on a CPU, bfloat16 on a GPU."""
    queries, bank = make_rows(case, seed)
    if device.type == "cpu":
        return queries, bank
    # The dtype in which models on GPUs give their vectors.
    return queries.to(device, torch.bfloat16), bank.to(device, torch.bfloat16)


def make_rows(case: BenchmarkCase, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(case.rows, case.dim, generator=generator)
    queries = torch.randn(case.queries, case.dim, generator=generator)
    if case.data == "bitext":
        count = min(case.queries, case.rows) // 2
        # Half of the queries are noisy copies of bank rows; the others have no translation, as in a real corpus.
        queries[:count] = bank[:count] + 0.8 * queries[:count]
    if case.data == "anisotropic":
        queries, bank = (side.mul_(0.2145).add_(shared_mean(case.dim)) for side in (queries, bank))
    return normalize(queries), normalize(bank)


def shared_mean(dim: int) -> Tensor:
    """A mean of length sqrt(dim) with two outlier dimensions; noise of 0.2145 a dimension gives cosines near 0.956."""
    mean = torch.full((dim,), 0.2)
    # XLM-R's hidden states have few dimensions that dwarf all others; a screen that scales by the largest suffers most.
    mean[[3, dim // 2]] = torch.tensor([6.0, -4.0])
    return mean * (dim**0.5 / mean.norm())


def topk_methods(queries: Tensor, bank: Tensor, k: int) -> dict[str, Method]:
    """What answers the same question: ours with a prepared bank and from scratch, and the usual tools."""
    if bank.is_cuda:
        return gpu_topk_methods(queries, bank, k)
    # Made outside of the timed call, as FAISS's index is.
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


def gpu_topk_methods(queries: Tensor, bank: Tensor, k: int) -> dict[str, Method]:
    """Ours, torch, and FAISS where its build has a GPU; all start from rows in GPU memory."""
    methods: dict[str, Method] = {
        "ours": lambda: topk(queries, bank, k),
        "torch matmul + topk": lambda: torch_topk(queries, bank, k, 1024),
    }
    faiss = optional("faiss")
    if faiss is not None and hasattr(faiss, "StandardGpuResources"):
        optional("faiss.contrib.torch_utils")  # lets FAISS read torch's GPU memory
        resources = faiss.StandardGpuResources()
        flat = faiss.GpuIndexFlatIP(resources, bank.shape[1])
        flat.add(bank.float())
        methods["faiss IndexFlatIP"] = lambda: flat.search(queries.float(), k)
    return methods


def mine_methods(source: Tensor, target: Tensor, k: int) -> dict[str, Method]:
    """Two-way search, ratio margin and matching; the scoring after FAISS is our own vectorised one."""
    methods: dict[str, Method] = {"ours": lambda: our_mine(source, target, k)}
    if target.is_cuda:
        return {**methods, "torch matmul + topk both ways": lambda: torch_mine(source, target, k)}
    faiss = optional("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(torch.get_num_threads())
        methods["faiss both ways"] = lambda: faiss_mine(faiss, source, target, k)
    return methods


def our_mine(source: Tensor, target: Tensor, k: int) -> tuple[Neighbours, Neighbours, MinedPairs]:
    """The steps of `mine`, which returns the pairs alone; the gate wants the neighbours too."""
    neighbours = [Neighbours(*side) for side in both_ways(source, target, k)]
    pairs = pairs_from(neighbours[0], neighbours[1], "ratio", "max")
    return neighbours[0], neighbours[1], MinedPairs(*(column.cpu() for column in pairs))


def torch_mine(source: Tensor, target: Tensor, k: int) -> MinedPairs:
    """Two searches that write their scores, then the same margin and matching as ours."""
    ahead, back = torch_topk(source, target, k, 1024), torch_topk(target, source, k, 1024)
    neighbours = [Neighbours(values.double().cpu(), indices.cpu()) for values, indices in (ahead, back)]
    return pairs_from(neighbours[0], neighbours[1], "ratio", "max")


def faiss_mine(faiss: ModuleType, source: Tensor, target: Tensor, k: int) -> MinedPairs:
    """Two exact FAISS searches, then the same margin and matching as ours."""
    neighbours = []
    for queries, bank in ((source, target), (target, source)):
        flat = faiss.knn(queries.numpy(), bank.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
        values, indices = from_numpy(flat)
        neighbours.append(Neighbours(values.double(), indices))
    return pairs_from(neighbours[0], neighbours[1], "ratio", "max")


def from_numpy(arrays: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(arrays[0]), torch.from_numpy(arrays[1])


def torch_topk(queries: Tensor, bank: Tensor, k: int, step: int = 256) -> tuple[Tensor, Tensor]:
    """Whole rows of scores, `step` queries at a time."""
    blocks = [torch.topk(block @ bank.T, k, dim=1) for block in queries.split(step)]
    return torch.cat([block.values for block in blocks]), torch.cat([block.indices for block in blocks])


def numpy_topk(numpy: ModuleType, queries: Any, bank: Any, k: int, step: int = 256) -> tuple[Tensor, Tensor]:
    values, indices = [], []
    for start in range(0, len(queries), step):
        scores = queries[start : start + step] @ bank.T
        # Unordered, so the k best are sorted afterwards: what users of numpy write.
        best = numpy.argpartition(scores, bank.shape[0] - k, axis=1)[:, -k:]
        value = numpy.take_along_axis(scores, best, 1)
        order = numpy.argsort(-value, axis=1)
        values.append(numpy.take_along_axis(value, order, 1))
        indices.append(numpy.take_along_axis(best, order, 1))
    return from_numpy((numpy.concatenate(values), numpy.concatenate(indices)))


def matmul_methods(case: BenchmarkCase, device: torch.device = CPU) -> dict[str, Method]:
    """The bare products of the case's shape in tiles, nothing kept: the measured peaks, the fastest last."""
    names = ["float32"] if device.type == "cpu" else []
    names += ["bfloat16"] if device.type != "cpu" or multiplies_bfloat16() else []
    return {f"{name} matmul alone": bare_matmul(case, getattr(torch, name), device) for name in names}


def bare_matmul(case: BenchmarkCase, dtype: torch.dtype, device: torch.device) -> Method:
    """Products of random tiles, as many as the case has; tiles that fill the device."""
    height, width = (1024, TILE) if device.type == "cpu" else (8192, 8192)
    # A case smaller than a tile is multiplied as it is.
    step, width = min(height, case.queries), min(width, case.rows)
    left, right = (
        torch.randn(rows, case.dim + EXTRA_COLUMNS * (device.type == "cpu")).to(device, dtype) for rows in (step, width)
    )
    out = torch.empty(width, step, dtype=dtype, device=device)
    times = max(1, round(case.queries * case.rows / out.numel()))
    return lambda: [torch.mm(right, left.T, out=out) for _ in range(times)]


def gate_topk(queries: Tensor, bank: Tensor, k: int, result: tuple[Tensor, Tensor], rows: int | None = None) -> float:
    """Recall against float64, by value: the share of returned indices whose float64 score is among the k best.

    Of evenly spaced `rows` queries, or as many as `gated` says.
    """
    which = gated(len(queries)) if rows is None else torch.arange(rows) * len(queries) // rows
    right = 0
    for block in which.to(queries.device).split(GATE_ROWS):
        scores = scores_float64(queries[block], bank)
        # A hair of tolerance: the order of a float64 sum differs between libraries.
        least = scores.topk(k, dim=1).values[:, -1:] * (1 - 1e-12) - 1e-15
        indices = result[1][block].sort(dim=1).values
        good = scores.gather(1, indices) >= least
        # The same index twice counts once.
        good[:, 1:] &= indices[:, 1:] != indices[:, :-1]
        right += int(good.sum())
    return right / (len(which) * k)


def scores_float64(queries: Tensor, bank: Tensor) -> Tensor:
    """Scores [Q, N], the bank widened a block at a time."""
    return torch.cat([queries.double() @ block.double().T for block in bank.split(TILE * 16)], dim=1)


def gated(rows: int) -> Tensor:
    """Numbers of the rows a gate looks at: all, or evenly spaced ones of a large side."""
    return torch.arange(rows) if rows <= GATE_ALL else torch.arange(GATE_SAMPLE) * rows // GATE_SAMPLE


def gate_mine(
    source: Tensor,
    target: Tensor,
    k: int,
    result: tuple[Neighbours, Neighbours, MinedPairs],
    rows: int | None = None,
) -> float:
    """Recall of both directions of the search that was scored."""
    forward, backward, _ = result
    ahead = gate_topk(source, target, k, forward, rows)
    back = gate_topk(target, source, k, backward, rows)
    counts = [rows or len(gated(len(side))) for side in (source, target)]
    return (ahead * counts[0] + back * counts[1]) / sum(counts)


def both_ways(source: Tensor, target: Tensor, k: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(values, indices) of each direction, on the path that `mine` takes."""
    sides = Rows(source, "source"), Rows(target, "target")
    if not target.is_cuda:
        return two_way(*sides, k, k)
    from stilts_kernels.topk.cuda import two_way_cuda

    return two_way_cuda(*sides, k, k)
