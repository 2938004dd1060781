"""What mining costs before it is done: counts that follow from the sizes, and hours from costs of small shapes.

The counts are those of the code: blocks, hops and bytes of the exact search's ring (stilts_kernels.mining.ring), files
and candidates of the approximate index (stilts_ds.mining.candidates). `simulate` goes through a whole search without
data, with failures of machines drawn at random. Everything here is arithmetic; stilts_ds.mining.costs measures.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

SAVE_SECONDS = 60.0  # between two saves of the ring's lists (stilts_kernels.mining.state)
ENTRY = 16  # bytes of a neighbour: a float64 score and an int64 row
CHUNK = 4096  # sentences that a rank embeds at a time (stilts_ds.evaluate.embedding)
INDEX_ROWS = 1 << 18  # vectors of one file of the index: what one rank makes, and makes again after a kill
QUERY_ROWS = 1 << 14  # queries asked together: FAISS's products differ in their last bits with the number of rows
TRAINING_ROWS = 40  # vectors a list that k-means looks at; FAISS warns below 39
ITERATIONS = 10  # of k-means, FAISS's own number for inverted files
CANDIDATES = 4  # times k are scored exactly: 8 bits a number change the order of near neighbours
DEFAULT_NPROBE = 32  # docs/scale.md says what so many lists find
DRAWS = 200  # simulated runs
GIB = 1 << 30


@dataclass(frozen=True)
class Sides:
    """Sentences of both sides, numbers of a vector, bytes of a number in the file, neighbours each way."""

    source: int
    target: int
    width: int
    number_bytes: int = 4
    k: int = 4

    @property
    def rows(self) -> int:
        return self.source + self.target

    @property
    def vector_bytes(self) -> int:
        """Of both files."""
        return self.rows * self.width * self.number_bytes


@dataclass(frozen=True)
class Cluster:
    """`ranks`; scratch bytes of each; bytes a second that a rank sends, and that rank 0 reads from the disk; hours from
    one failure of a rank to its next; seconds from a failure until the job runs again."""

    ranks: int = 1
    memory: int = GIB
    network: float = 1e9
    disk: float = 1e9
    hours_to_failure: float = math.inf
    restart_seconds: float = 300.0


@dataclass(frozen=True)
class IndexCosts:
    """Seconds of one rank. `compare`: a vector with the middle of a list, in k-means and where lists are chosen;
    `scan`: a vector that a query meets in a list; `candidate`: the exact score of one pair."""

    compare: float
    scan: float
    candidate: float


@dataclass(frozen=True)
class Costs:
    """Seconds of one rank, at one width of vectors.

    `score`: a pair in the exact search, both ways; `row`: a row, of either side, whose neighbours are sought for the
    first time; `known_row`: one that brings neighbours of earlier hops, which leave fewer pairs to score exactly;
    `embed`: a sentence (0: the vectors are there); `index`: of the approximate index, None where FAISS is not
    installed.
    """

    score: float
    row: float
    known_row: float
    embed: float = 0.0
    index: IndexCosts | None = None


def largest_share(count: int, ranks: int) -> int:
    """Rows of the largest shard."""
    return -(-count // ranks)


def embedding_seconds(sides: Sides, cluster: Cluster, costs: Costs) -> float:
    """Of the slowest rank: ranks have whole chunks of each side."""
    chunks = [largest_share(-(-count // CHUNK), cluster.ranks) for count in (sides.source, sides.target)]
    return sum(min(count, share * CHUNK) for count, share in zip((sides.source, sides.target), chunks)) * costs.embed


def start_seconds(sides: Sides, cluster: Cluster) -> float:
    """Of every start: rank 0 reads both files to see that they are those of the last start, then each rank its share
    for rows that have no direction."""
    return sides.vector_bytes / cluster.disk * (1 + 1 / cluster.ranks)


# --- the exact search ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ring:
    """Counts of an exact search. `sent`: bytes that all ranks together send in the ring; `gathered`: bytes of means and
    best margins that each rank receives; `saved`: bytes of all ranks' lists when the last block is done."""

    block_rows: int
    blocks: int
    hops: int
    sent: int
    gathered: int
    saved: int


def block_rows(memory: int, width: int, k: int) -> int:
    """Targets of a block that travels, as `Layout.target_rows` of the kernels cuts them."""
    return max(1, memory // 4 // (2 * (width * 4 + ENTRY * k) + 2 * ENTRY * k))


def ring(sides: Sides, cluster: Cluster) -> Ring:
    """The counts of a search whose targets go round a ring."""
    ranks, lists = cluster.ranks, ENTRY * sides.k
    rows = block_rows(cluster.memory, sides.width, sides.k)
    blocks = -(-largest_share(sides.target, ranks) // rows)
    sent = 0
    if ranks > 1:
        # Rows make all hops but the last, which brings a block home; its lists make all of them.
        sent = sides.target * ((ranks - 1) * sides.width * sides.number_bytes + ranks * lists)
    # A mean of every row; then its best margin and the row of that; shorter shards are padded to the longest.
    longest = largest_share(sides.source, ranks) + largest_share(sides.target, ranks)
    return Ring(rows, blocks, blocks * ranks, sent, (ranks - 1) * longest * (8 + 8 + 8), sides.rows * lists)


def hop_seconds(sides: Sides, cluster: Cluster, costs: Costs, source_row: float, target_row: float) -> float:
    """Of a full block at one rank, for what a row of each side costs: its rows travel on while it is searched, its
    lists follow."""
    source = largest_share(sides.source, cluster.ranks)
    rows = min(block_rows(cluster.memory, sides.width, sides.k), largest_share(sides.target, cluster.ranks))
    searched = costs.score * source * rows + source_row * source + target_row * rows
    if cluster.ranks == 1:
        return searched
    sent = rows * sides.width * sides.number_bytes / cluster.network
    return max(searched, sent) + rows * ENTRY * sides.k / cluster.network


@dataclass(frozen=True)
class BlockHops:
    """Seconds of the hops of a block: its `first` one and each of the `later` ones, of which there are ranks - 1."""

    first: float
    later: float
    ranks: int

    @property
    def seconds(self) -> float:
        return self.first + (self.ranks - 1) * self.later

    def begun(self, seconds: float) -> int:
        """The hops that have begun so many seconds after the start of the block."""
        if seconds < self.first:
            return 1
        return min(self.ranks, 2 + int((seconds - self.first) // self.later))


def block_hops(sides: Sides, cluster: Cluster, costs: Costs, block: int) -> BlockHops:
    """The hops of block number `block`. The sources know neighbours from the second hop of a search on, the targets of
    a block from its second hop on."""
    source_row = costs.known_row if block else costs.row
    length = last_block(sides, cluster) if block + 1 == ring(sides, cluster).blocks else 1.0
    first = hop_seconds(sides, cluster, costs, source_row, costs.row)
    later = hop_seconds(sides, cluster, costs, costs.known_row, costs.known_row)
    return BlockHops(first * length, later * length, cluster.ranks)


def last_block(sides: Sides, cluster: Cluster) -> float:
    """The length of a rank's last block of targets, the others being 1."""
    counts, share = ring(sides, cluster), largest_share(sides.target, cluster.ranks)
    return (share - (counts.blocks - 1) * counts.block_rows) / min(share, counts.block_rows)


def exact_seconds(sides: Sides, cluster: Cluster, costs: Costs) -> float:
    """A whole exact search without failures."""
    counts = ring(sides, cluster)
    # All blocks between the first and the last are alike.
    different = {0, counts.blocks - 1}
    hops = sum(block_hops(sides, cluster, costs, block).seconds for block in different)
    if counts.blocks > 2:
        hops += (counts.blocks - 2) * block_hops(sides, cluster, costs, 1).seconds
    return start_seconds(sides, cluster) + hops + counts.gathered / cluster.network


@dataclass(frozen=True)
class SimulatedRun:
    """A simulated search: seconds from first to last start, how often it was started again, the hops made, those made
    twice included, the bytes that all ranks sent in these hops, and how often the lists were saved."""

    seconds: float
    restarts: int
    hops: int
    sent: int
    saves: int


def drawn_failures(cluster: Cluster, seed: int) -> Iterator[float]:
    """Seconds of running until each failure: any rank's failure ends the job."""
    dice = random.Random(seed)
    while math.isfinite(cluster.hours_to_failure):
        yield dice.expovariate(cluster.ranks / (3600 * cluster.hours_to_failure))


def simulate(
    sides: Sides,
    cluster: Cluster,
    costs: Costs,
    failures: Iterator[float],
    save_seconds: float = SAVE_SECONDS,
) -> SimulatedRun:
    """Go through an exact search block by block. `failures`: seconds from each start until the job is killed."""
    counts, start = ring(sides, cluster), start_seconds(sides, cluster)
    first_hops, middle_hops, last_hops = (block_hops(sides, cluster, costs, n) for n in (0, 1, counts.blocks - 1))
    sent = counts.sent / counts.hops
    seconds = total_sent = 0.0
    done = saved = restarts = hops = saves = 0
    fails_at, running, saved_at = next(failures, math.inf), start, start
    while done < counts.blocks:
        block = middle_hops
        if done + 1 == counts.blocks:
            block = last_hops
        elif done == 0:
            block = first_hops
        if running + block.seconds > fails_at:
            # The hop in which it fails is counted: its bytes were on their way.
            begun = block.begun(max(0.0, fails_at - running)) if fails_at > start else 0
            hops, total_sent = hops + begun, total_sent + begun * sent
            seconds += fails_at + cluster.restart_seconds
            restarts, done = restarts + 1, saved
            fails_at, running, saved_at = next(failures, math.inf), start, start
            continue
        running += block.seconds
        hops, total_sent, done = hops + cluster.ranks, total_sent + cluster.ranks * sent, done + 1
        if done < counts.blocks and running - saved_at >= save_seconds:
            saved, saved_at, saves = done, running, saves + 1
        if restarts > 10_000:  # it saves more seldom than it fails
            return SimulatedRun(math.inf, restarts, hops, int(total_sent), saves)
    seconds += running + counts.gathered / cluster.network
    return SimulatedRun(seconds, restarts, hops, round(total_sent), saves)


def mean_run(sides: Sides, cluster: Cluster, costs: Costs) -> SimulatedRun:
    """The mean of DRAWS simulated runs; one where nothing fails."""
    draws = DRAWS if math.isfinite(cluster.hours_to_failure) else 1
    runs = [simulate(sides, cluster, costs, drawn_failures(cluster, seed)) for seed in range(draws)]
    return SimulatedRun(
        sum(run.seconds for run in runs) / draws,
        round(sum(run.restarts for run in runs) / draws),
        round(sum(run.hops for run in runs) / draws),
        round(sum(run.sent for run in runs) / draws),
        round(sum(run.saves for run in runs) / draws),
    )


# --- the approximate index -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IndexWork:
    """One direction of a search by the index: its lists, files and bytes, the comparisons of k-means (of rank 0) and of
    filling it, and what a query compares, meets and scores."""

    nlist: int
    nprobe: int
    files: int
    file_bytes: int
    trained: int
    filled: int
    compared: int
    scanned: int
    candidates: int


def default_nlist(rows: int) -> int:
    """Lists of an index: the power of two next to 4 sqrt(rows), as FAISS advises, and at most one for 40 vectors."""
    return max(1, min(2 ** round(math.log2(4 * math.sqrt(rows))), rows // TRAINING_ROWS))


def index_work(bank: int, sides: Sides, nlist: int | None = None, nprobe: int = DEFAULT_NPROBE) -> IndexWork:
    """The counts for a bank of so many rows; lists are taken to be equally long."""
    lists = nlist or default_nlist(bank)
    probed = min(nprobe, lists)
    return IndexWork(
        nlist=lists,
        nprobe=probed,
        files=-(-bank // INDEX_ROWS),
        # 8 bits a number and an int64 row each; every file repeats the middles of the lists.
        file_bytes=bank * (sides.width + 8) + -(-bank // INDEX_ROWS) * lists * sides.width * 4,
        trained=min(bank, TRAINING_ROWS * lists) * lists * ITERATIONS,
        filled=bank * lists,
        compared=lists,
        scanned=bank * probed // lists,
        candidates=min(bank, CANDIDATES * sides.k),
    )


def index_seconds(
    sides: Sides, cluster: Cluster, costs: IndexCosts, nlist: int | None = None, nprobe: int = DEFAULT_NPROBE
) -> float:
    """A whole search both ways without failures. A failure loses a file or a block of queries of each rank."""
    seconds = start_seconds(sides, cluster)
    for queries, bank in ((sides.source, sides.target), (sides.target, sides.source)):
        work = index_work(bank, sides, nlist, nprobe)
        rows = min(bank, largest_share(work.files, cluster.ranks) * INDEX_ROWS)
        asked = min(queries, largest_share(-(-queries // QUERY_ROWS), cluster.ranks) * QUERY_ROWS)
        query = (costs.compare * work.compared + costs.scan * work.scanned) + costs.candidate * work.candidates
        seconds += costs.compare * (work.trained + rows * work.nlist) + asked * query
    return seconds


def crossing(sides: Sides, costs: Costs, nprobe: int = DEFAULT_NPROBE) -> int | None:
    """The rows of a side, both alike, from which one rank takes less time with the index than with the exact search;
    None where that is beyond 10^12 or there is no index. What both do at their start is left out."""
    if costs.index is None:
        return None
    alone = Cluster(disk=math.inf)
    for step in range(80):
        rows = round(1000 * 10 ** (step / 8))
        alike = Sides(rows, rows, sides.width, sides.number_bytes, sides.k)
        if index_seconds(alike, alone, costs.index, nprobe=nprobe) < exact_seconds(alike, alone, costs):
            return rows
    return None


# --- memory ----------------------------------------------------------------------------------------------------------

MATCH_BYTES = 97  # a row of both sides while pairs are matched: the peak that 2 x 2,000,000 rows took
PAIR_BYTES = 20  # a pair that is written: two int64 rows and a float32 score


def rank_memory(sides: Sides, cluster: Cluster) -> int:
    """Bytes of a rank's own memory at its peak: scratch, the lists of its rows, five times while they are merged, and
    the means of all rows. Mapped vectors are not counted; the system keeps of them what it has room for."""
    shard = largest_share(sides.source, cluster.ranks) + largest_share(sides.target, cluster.ranks)
    return cluster.memory + 5 * ENTRY * sides.k * shard + 8 * sides.rows


def first_rank_memory(sides: Sides, cluster: Cluster) -> int:
    """Bytes of rank 0, which matches the best of all rows and writes the pairs; texts are not counted."""
    return max(rank_memory(sides, cluster), (8 + MATCH_BYTES) * sides.rows)
