"""Costs of mining in seconds, measured on small shapes of made-up vectors; stilts_ds.mining.scale reckons with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from stilts_kernels.common.canonical import canonical_scores
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.two_way import TwoWaySearch, two_way
from torch import Tensor

from stilts_ds.evaluate.embedding import Embedder
from stilts_ds.families.bitext.rows import encode_texts
from stilts_ds.mining.scale import CANDIDATES, Costs, IndexCosts

SMALL, LARGE = 8192, 24_576  # rows a side of the exact search
BANK, LISTS, QUERIES, PROBES = 65_536, 256, 1024, 16  # of the index
TIMES = 2  # the better of so many counts


def measured_costs(width: int, k: int, embed: float = 0.0) -> Costs:
    """The costs of this process, with torch's threads, for vectors of `width` numbers."""
    score, row, known_row = exact_costs(width, k)
    index = index_costs(width, k) if find_spec("faiss") is not None else None
    return Costs(score, row, known_row, embed, index)


def exact_costs(width: int, k: int) -> tuple[float, float, float]:
    """Seconds of a pair, of a row of either side, and of a row that knows neighbours: the first two are what two sizes
    of the search take, solved for both, the third what a further block takes above its pairs."""
    sides = [normal(LARGE, width, seed) for seed in (1, 2)]

    def search(count: int) -> float:
        rows = [Rows(side[:count], "rows", unit=True) for side in sides]
        return seconds_of(lambda: two_way(rows[0], rows[1], k, k))

    search(SMALL)  # chooses the screen
    small, large = search(SMALL), search(LARGE)
    # large = score * LARGE^2 + row * 2 LARGE, and the same of small.
    score = (large / LARGE - small / SMALL) / (LARGE - SMALL)
    known = further_block(sides[0][:SMALL], sides[1][: 2 * SMALL], k)
    row, known_row = (max(0.0, (seconds / SMALL - score * SMALL) / 2) for seconds in (small, known))
    return score, row, known_row


def further_block(source: Tensor, target: Tensor, k: int) -> float:
    """Seconds of the second half of the targets, when the first half is searched and both sides know k neighbours."""
    first, second = (Rows(half, "target", unit=True) for half in target.chunk(2))
    search = TwoWaySearch(Rows(source, "source", unit=True), k, k)
    forward, backward = search(first)
    # The first half's lists stand for those that the second brings from other ranks: all rows are drawn alike.
    return seconds_of(lambda: search(second, (forward.values, backward.values)))


def index_costs(width: int, k: int) -> IndexCosts:
    """Seconds of a comparison with a list, of a vector met in one, and of an exact score, each timed alone."""
    from stilts_ds.mining import candidates

    bank, queries = normal(BANK, width, 1), normal(QUERIES, width, 2)
    side = candidates.SideRows("bank", bank, torch.arange(BANK).numpy())
    with TemporaryDirectory() as folder:
        empty, full = Path(folder) / "empty", Path(folder) / "full"
        candidates.write_index(candidates.trained_index(side, LISTS), empty)
        candidates.write_index(candidates.filled_index(empty, side, slice(0, BANK)), full)
        index = candidates.OpenIndex([full], PROBES)
        rows = torch.nn.functional.normalize(queries).numpy()
        many = bank[: BANK // 4].numpy()
        compare = seconds_of(lambda: index.files[0].quantizer.search(many, 1)) / (len(many) * LISTS)
        distances, lists = index.files[0].quantizer.search(rows, PROBES)
        met = QUERIES * PROBES * BANK / LISTS
        scan = seconds_of(lambda: index.files[0].search_preassigned(rows, CANDIDATES * k, lists, distances)) / met
    query = torch.arange(QUERIES).repeat_interleave(CANDIDATES * k)
    row = torch.randint(0, BANK, (len(query),), generator=torch.Generator().manual_seed(3))
    left, right = Rows(queries, "queries"), Rows(bank, "bank", unit=True)
    candidate = seconds_of(lambda: canonical_scores(left, right, query, row)) / len(query)
    return IndexCosts(compare, scan, candidate)


def embedding_cost(embedder: Embedder, sentences: list[str], length: int) -> float:
    """Seconds of a sentence, tokens cut at `length`."""

    def embed() -> None:
        rows = encode_texts(iter(sentences), embedder.tokenizer, length)
        embedder.chunk(rows, 0, len(sentences), between=lambda: None)

    return seconds_of(embed) / len(sentences)


def seconds_of(work: Callable[[], Any]) -> float:
    """The least time of TIMES calls: CPU seconds over threads, which other programs on the machine disturb little."""
    taken = []
    for _ in range(TIMES):
        start = time.process_time()
        work()
        taken.append((time.process_time() - start) / torch.get_num_threads())
    return min(taken)


def normal(rows: int, width: int, seed: int) -> Tensor:
    """Vectors of independent normal numbers."""
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))
