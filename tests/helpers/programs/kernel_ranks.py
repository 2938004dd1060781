"""Sharded search on real ranks, for test_kernels_ranks: `kernel_ranks.py mpi|gloo CASE OUT`; rank 0 writes OUT.

CASE `search`: ranks hold uneven shares (one even none of the queries) of the same data; OUT gets every result.
The bank also lies beside OUT as bank-*.npy files.
CASE `broken`: in turn the last rank has no bank, a NaN in it, another k, a file that is not there, and other queries
for the same files; OUT gets what each rank raised.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from stilts_kernels.common.collectives import FIRST_BYTES, collectives_of
from stilts_kernels.mining.files import topk_files
from stilts_kernels.mining.ranks import mine_ranks, topk_ranks

MEMORY = 40 << 20
FAULTS = ("missing", "nan", "k", "file", "queries")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    bank = torch.randn(701, 24, generator=generator)
    bank[350:360] = bank[:10]  # equal rows on different ranks: ties across shards
    queries = torch.randn(97, 24, generator=generator)
    queries[:40] = bank[:40] + 0.1 * queries[:40]
    return queries, bank


def item(rank: int) -> list[str]:
    """What a rank gives to all: rank 0's fits into the first exchange, rank 1's to the byte, others' do not."""
    return ["", "a" * (FIRST_BYTES - len('["", ""]')), "é" * FIRST_BYTES, "b" * 3 * FIRST_BYTES][rank : rank + 1] + [""]


def share(rows: torch.Tensor, rank: int, size: int, skew: int) -> torch.Tensor:
    """Uneven shares: the first rank's is `skew` rows long when there are several ranks."""
    edges = [0, *(skew + (len(rows) - skew) * i // (size - 1) for i in range(size))] if size > 1 else [0, len(rows)]
    return rows[edges[rank] : edges[rank + 1]]


def connect(kind: str) -> tuple[Any, int, int]:
    if kind == "mpi":
        from mpi4py import MPI

        return MPI.COMM_WORLD, MPI.COMM_WORLD.Get_rank(), MPI.COMM_WORLD.Get_size()
    torch.distributed.init_process_group("gloo")
    return torch.distributed.group.WORLD, torch.distributed.get_rank(), torch.distributed.get_world_size()


def search(comm: Any, rank: int, size: int, folder: Path) -> dict[str, Any]:
    queries, bank = data()
    own_queries, own_bank = share(queries, rank, size, 0), share(bank, rank, size, 3)
    found = topk_ranks(own_queries, own_bank, 5, comm, "cosine", MEMORY)
    half = topk_ranks(own_queries.half(), own_bank.half(), 5, comm, memory=MEMORY)
    pairs = mine_ranks(own_queries, own_bank, 4, comm, memory=MEMORY)
    files = topk_files(queries, sorted(folder.glob("bank-*.npy")), 5, folder / f"parts-{size}", comm, memory=MEMORY)
    return {
        "items": collectives_of(comm).gather(item(rank)),
        "values": found.values,
        "indices": found.indices,
        "half": half.values,
        "pairs": list(pairs),
        "files": list(files),
    }


def broken(fault: str, comm: Any, rank: int, size: int, folder: Path) -> str:
    queries, bank = data()
    own_bank: Any = share(bank, rank, size, 3)
    last = rank == size - 1
    if last and fault == "nan":
        own_bank = own_bank.clone()
        own_bank[1, 2] = float("nan")
    if last and fault == "missing":
        own_bank = None
    try:
        if fault == "file":
            paths = [folder / "gone.npy" if last else folder / "bank-0.npy", folder / "bank-1.npy"]
            topk_files(queries, paths, 5, folder / "parts", comm, memory=MEMORY)
        if fault == "queries":
            topk_files(queries + last, [folder / "bank-0.npy"], 5, folder / "parts", comm, memory=MEMORY)
        topk_ranks(share(queries, rank, size, 0), own_bank, 6 if last and fault == "k" else 5, comm, memory=MEMORY)
    except ValueError as error:
        return str(error)
    return ""


def gathered(result: dict[str, Any], comm: Any, kind: str, size: int) -> list[dict[str, Any]]:
    if kind == "mpi":
        return comm.allgather(result)
    results: list[Any] = [None] * size
    torch.distributed.all_gather_object(results, result)
    return results


def main(kind: str, case: str, out: str) -> None:
    torch.set_num_threads(1)
    comm, rank, size = connect(kind)
    if case == "search":
        result = search(comm, rank, size, Path(out).parent)
    else:
        result = {fault: broken(fault, comm, rank, size, Path(out).parent) for fault in FAULTS}
    results = gathered(result, comm, kind, size)
    if rank == 0:
        torch.save(results, out)
    if kind == "gloo":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
