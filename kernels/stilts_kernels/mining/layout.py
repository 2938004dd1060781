"""How two sides lie over the ranks: shards in rank order, and the blocks in which they are exchanged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from stilts_kernels.common.collectives import Collectives
from stilts_kernels.common.ranking import Ranked
from stilts_kernels.common.report import log
from stilts_kernels.common.rows import check_matrix


class Layout:
    """How both sides lie over the ranks; made collectively, so a bad shard on one rank raises on all."""

    def __init__(
        self, ranks: Collectives, queries: Tensor, bank: Tensor, k: int, memory: int, names: tuple[str, str]
    ) -> None:
        ranks.agree(partial(check_shards, (queries, bank), names))
        # One exchange for all that the ranks must know of each other. Dtypes travel as text, since only JSON does.
        vectors = torch.backends.cpu.get_cpu_capability()
        described = [list(queries.shape), str(queries.dtype), list(bank.shape), str(bank.dtype), k, memory, vectors]
        query_shapes, dtypes, bank_shapes, bank_dtypes, ks, memories, capabilities = zip(*ranks.gather(described))
        warn_of_unlike_processors(capabilities)
        self.query_counts = [shape[0] for shape in query_shapes]
        self.bank_counts = [shape[0] for shape in bank_shapes]
        self.dtypes = [getattr(torch, dtype.removeprefix("torch.")) for dtype in dtypes]
        self.bank_dtypes = [getattr(torch, dtype.removeprefix("torch.")) for dtype in bank_dtypes]
        self.dim, self.k = queries.shape[1], k
        self.memory = min(memories)  # blocks must be cut alike on all ranks
        self.search_memory = self.memory * 3 // 4  # the rest holds the block that travels and its results
        dims = {shape[1] for shape in (*query_shapes, *bank_shapes)}
        self.check(dims, set(ks), names)

    def check(self, dims: set[int], ks: set[int], names: tuple[str, str]) -> None:
        """Raises the same ValueError on every rank."""
        for symbol, values in (("D", dims), ("k", ks)):
            if len(values) > 1:
                raise ValueError(f"ranks differ in {symbol}: {sorted(values)}")
        k = self.k
        for counts, name in ((self.query_counts, names[0]), (self.bank_counts, names[1])):
            if sum(counts) == 0:
                raise ValueError(f"{name} is empty on all ranks")
        if not 1 <= k <= sum(self.bank_counts):
            raise ValueError(f"k = {k} is outside 1..{sum(self.bank_counts)}, the number of rows of {names[1]}")

    @property
    def target_rows(self) -> int:
        """Rows of a block of the bank that travels: a quarter of the memory holds it, the one that comes, and lists."""
        # 16 k bytes a row: a float64 value and an int64 index for each neighbour.
        block_bytes = self.dim * 4 + 16 * self.k
        return max(1, self.memory // 4 // (2 * block_bytes + 32 * self.k))

    def blocks(self) -> Iterator[tuple[int, int, int]]:
        """(owner, start, stop) of every block of queries, in order of their global rows; a quarter of the memory."""
        step = max(1, self.memory // 4 // (self.dim * 4 + 32 * self.k))
        for owner, count in enumerate(self.query_counts):
            for start in range(0, count, step):
                yield owner, start, min(count, start + step)

    def share(self, ranks: Collectives, queries: Tensor, owner: int, start: int, stop: int) -> Tensor:
        """The owner's block of queries, on every rank."""
        block = torch.empty(stop - start, self.dim, dtype=self.dtypes[owner], device="cpu")
        # The others receive into their empty block.
        if ranks.rank == owner:
            block.copy_(queries[start:stop])
        return ranks.broadcast(block, owner)


def warn_of_unlike_processors(capabilities: Sequence[str]) -> None:
    """Says that ranks sum in different orders, where torch takes other vector instructions on some (by rank)."""
    # Not an error: every result is right but for the last bit, and a study may have no other nodes.
    unlike = next((rank for rank, capability in enumerate(capabilities) if capability != capabilities[0]), None)
    if unlike is not None:
        log.warning(
            "torch sums with %s on rank 0 and with %s on rank %d: rows that are equal may not tie, and another split "
            "of the rows may give other last bits; set ATEN_CPU_CAPABILITY alike on all ranks",
            capabilities[0],
            capabilities[unlike],
            unlike,
        )


def check_shard(side: Tensor, name: str) -> None:
    """Raises ValueError unless `side` is a readable CPU shard; it may be empty, but not missing."""
    if side is None:
        raise ValueError(f"the shard of {name} is missing")
    check_matrix(side, name)
    if side.device.type != "cpu":
        raise ValueError(f"{name} is on {side.device}; shards are exchanged in CPU memory")


def check_shards(sides: tuple[Tensor, Tensor], names: tuple[str, str]) -> None:
    """`check_shard` of both sides."""
    for side, name in zip(sides, names):
        check_shard(side, name)


def no_neighbours(rows: int, k: int) -> Ranked:
    """(values, indices) [rows, k] of no search, in CPU memory, where results of shards are exchanged."""
    values = torch.empty(rows, k, dtype=torch.float64, device="cpu")
    return values, torch.empty(rows, k, dtype=torch.int64, device="cpu")


def padded_to(ranking: Ranked, k: int) -> Ranked:
    """(values, indices) with -inf and -1 up to k columns, for shards of fewer than k rows."""
    values, indices = ranking
    missing = k - values.shape[1]
    if missing == 0:
        return values, indices
    return (
        torch.nn.functional.pad(values, (0, missing), value=-torch.inf),
        torch.nn.functional.pad(indices, (0, missing), value=-1),
    )


def as_message(ranking: Ranked) -> Tensor:
    """Values and indices [n, k] side by side in one int64 tensor [n, 2 k]: each message costs threads of gloo."""
    values, indices = ranking
    return torch.cat([values.view(torch.int64), indices], dim=1)


def from_message(message: Tensor) -> Ranked:
    """What `as_message` was given."""
    values, indices = message.chunk(2, dim=1)
    return values.contiguous().view(torch.float64), indices.contiguous()
