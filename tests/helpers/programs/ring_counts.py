"""What real ranks count while they mine: `ring_counts.py FOLDER SOURCE TARGET WIDTH BLOCK FAILS_AT` prints JSON.

For 1 to 4 ranks over gloo, two runs each: one whole, one in which every rank is stopped while it searches for the
FAILS_AT-th time, and that is then continued. `sent`: bytes that all ranks sent round the ring; `gathered`: bytes of
vectors of means and margins that rank 0 received; `hops`: searches of a rank.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.common.collectives import Collectives, TorchCollectives
from stilts_kernels.mining import ring
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.ranks import neighbours_ranks, pairs_on_first
from stilts_kernels.mining.state import SearchState


class Counted(TorchCollectives):
    """gloo, with the bytes that this rank sent round the ring and received of other ranks' rows."""

    sent = gathered = 0

    def shift(self, outgoing: torch.Tensor, incoming: torch.Tensor) -> Any:
        if self.size > 1:
            self.sent += outgoing.nbytes
        return super().shift(outgoing, incoming)

    def _gather_alike(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        if tensor.dtype != torch.uint8 and tensor.numel() > 1:  # no agreements, no counts of rows
            self.gathered += (self.size - 1) * tensor.nbytes
        return super()._gather_alike(tensor)

    def collect(self, tensor: torch.Tensor, owner: int) -> list[torch.Tensor]:
        self.gathered += (self.size - 1) * tensor.nbytes
        return super().collect(tensor, owner)


def rank_of(place: tuple[int, int], folder: Path, shape: tuple[int, ...], fails_at: int, results: Any) -> None:
    rank, size = place
    source_rows, target_rows, width, block = shape
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    ranks = Counted(torch.distributed.group.WORLD)
    Layout.target_rows = block  # type: ignore[assignment, method-assign]
    sides = [
        torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))[
            rows * rank // size : rows * (rank + 1) // size
        ]
        for seed, rows in ((1, source_rows), (2, target_rows))
    ]
    searched: list[int] = []
    search_block = ring.search_block

    def searched_block(*arguments: Any) -> Any:
        searched.append(1)
        if len(searched) == fails_at:
            raise ValueError("stopped here")
        return search_block(*arguments)

    ring.search_block = searched_block

    def mine() -> None:
        state = SearchState(folder, "question", seconds=0.0)
        pairs_on_first(ranks, *neighbours_ranks(*sides, 4, ranks, state=state), "ratio", "max")

    restarts = 0
    try:
        mine()
    except ValueError:
        restarts = 1
        mine()
    results.put([rank, ranks.sent, ranks.gathered, len(searched), restarts])
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def counts(folder: Path, size: int, shape: tuple[int, ...], fails_at: int) -> dict[str, int]:
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [
        context.Process(target=rank_of, args=((rank, size), folder, shape, fails_at, results)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    told = sorted(results.get(timeout=400) for _ in processes)
    for process in processes:
        process.join()
    return {
        "sent": sum(sent for _, sent, *_ in told),
        "gathered": told[0][2],
        "hops": told[0][3],
        "restarts": told[0][4],
    }


def main(folder: str, *numbers: str) -> None:
    torch.set_num_threads(1)
    *shape, fails_at = map(int, numbers)
    assert Collectives.size == 1
    told = {
        f"{size} {'stopped' if stop else 'whole'}": counts(
            Path(folder) / f"{size}-{stop}", size, tuple(shape), fails_at if stop else 0
        )
        for size in (1, 2, 3, 4)
        for stop in (False, True)
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
