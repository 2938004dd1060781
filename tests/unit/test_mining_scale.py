"""What `stilts mine --plan` says: its counts are those of real ranks, and its simulation keeps to them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import ranks
from stilts_kernels.mining.layout import Layout
from stilts_kernels.mining.state import SAVE_SECONDS

from stilts_ds.evaluate.embedding import CHUNK
from stilts_ds.mining import scale
from stilts_ds.mining.scale import Cluster, Costs, IndexCosts, Sides

SIDES = Sides(210, 230, 16)
BLOCK = 20
COSTS = Costs(2e-9, 1e-5, 2e-6, index=IndexCosts(7e-9, 3e-8, 1e-6))  # of AVX-512 with VNNI and 256 numbers, about


@pytest.mark.processes
def test_the_counts_are_those_of_real_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, hops and bytes of one to four ranks, undisturbed and stopped in a hop and continued."""
    monkeypatch.setattr(scale, "block_rows", lambda *arguments: BLOCK)
    fails_at = 6
    program = ranks.PROGRAMS / "ring_counts.py"
    shape = (SIDES.source, SIDES.target, SIDES.width, BLOCK)
    told = json.loads(ranks.run(program, tmp_path, *shape, fails_at).splitlines()[-1])
    for count in (1, 2, 3, 4):
        cluster = Cluster(ranks=count, disk=math.inf)
        counts = scale.ring(SIDES, cluster)
        whole = told[f"{count} whole"]
        expected = {"sent": counts.sent, "gathered": counts.gathered, "hops": counts.hops, "restarts": 0}
        assert whole == expected
        # Hops of a second; killed in the middle of the sixth, when each block before is kept.
        row = 1 / (scale.largest_share(SIDES.source, count) + BLOCK)
        unit = Costs(0.0, row, known_row=row)
        fast = dataclasses.replace(cluster, network=math.inf, restart_seconds=0.0)
        run = scale.simulate(SIDES, fast, unit, iter([fails_at - 0.5]), save_seconds=0.0)
        stopped = told[f"{count} stopped"]
        assert (run.hops, run.restarts) == (stopped["hops"], stopped["restarts"])
        assert run.hops == counts.hops + (fails_at - 1) % count + 1
        # Blocks differ in length, the last one most: bytes of the repeated hops are a mean.
        assert stopped["sent"] == pytest.approx(run.sent, rel=0.1)


def test_constants_and_blocks_are_the_codes_own() -> None:
    assert (scale.SAVE_SECONDS, scale.CHUNK) == (SAVE_SECONDS, CHUNK)
    for memory, width, k in ((1 << 30, 1024, 4), (1 << 24, 7, 16), (1 << 33, 384, 1)):
        layout = Layout.__new__(Layout)
        layout.memory, layout.dim, layout.k = memory, width, k
        assert scale.block_rows(memory, width, k) == layout.target_rows


def test_a_search_without_failures_takes_its_hops() -> None:
    sides, cluster = Sides(10**7, 3 * 10**6 + 17, 256), Cluster(ranks=7)
    run = scale.mean_run(sides, cluster, COSTS)
    assert run.restarts == 0 and run.hops == scale.ring(sides, cluster).hops
    assert run.sent == scale.ring(sides, cluster).sent
    assert run.seconds == pytest.approx(scale.exact_seconds(sides, cluster, COSTS))
    # Scores are divided among ranks, which is nearly all the work.
    assert run.seconds * 7 > scale.exact_seconds(sides, Cluster(), COSTS) > run.seconds * 5


def test_only_rows_that_are_new_to_a_hop_cost_what_a_first_search_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: two ranks with 100 sources each and three blocks of 10 targets, 10 s a new row and 1 s a known one."""
    monkeypatch.setattr(scale, "block_rows", lambda *arguments: 10)
    sides, costs = Sides(200, 60, 16), Costs(0.0, 10.0, known_row=1.0)
    cluster = Cluster(ranks=2, disk=math.inf, network=math.inf)
    first, further = 1000 + 100, 100 + 100  # the sources are new in the first block alone, the targets in each
    assert scale.exact_seconds(sides, cluster, costs) == (first + 110) + 2 * (further + 110)
    assert scale.simulate(sides, cluster, costs, iter([])).seconds == scale.exact_seconds(sides, cluster, costs)
    # Killed in the second hop of the first block: both hops are made again, and the sources are new again.
    again = scale.simulate(sides, dataclasses.replace(cluster, restart_seconds=0.0), costs, iter([1150.0]))
    assert (again.hops, again.restarts) == (6 + 2, 1)
    assert again.seconds == 1150 + scale.exact_seconds(sides, cluster, costs)


def test_failures_cost_what_was_not_kept() -> None:
    """By hand: hops of 100 s, three blocks of two hops; killed after 350 s and, started anew, after 250 s."""
    sides = Sides(200, 60, 16)
    unit = Costs(0.0, 100 / (100 + 10), known_row=100 / (100 + 10))
    cluster = Cluster(ranks=2, memory=1, disk=math.inf, network=math.inf, restart_seconds=1000.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scale, "block_rows", lambda *arguments: 10)
        run = scale.simulate(sides, cluster, unit, iter([350.0, 250.0]))
        # A block of 200 s is kept; 350 s end in the second; the next start keeps that one and ends in the third.
        assert (run.restarts, run.hops) == (2, 4 + 3 + 2)
        assert run.seconds == pytest.approx(350 + 1000 + 250 + 1000 + 200)
        never = scale.simulate(sides, dataclasses.replace(cluster, restart_seconds=0.0), unit, iter([150.0] * 20_000))
        assert math.isinf(never.seconds)


def test_the_index_pays_from_some_size_on() -> None:
    rows = scale.crossing(SIDES_256, COSTS)
    assert rows is not None and 10**5 < rows < 10**6

    def times(count: int) -> tuple[float, float]:
        sides, alone = Sides(count, count, 256), Cluster(disk=math.inf)
        assert COSTS.index is not None
        return scale.exact_seconds(sides, alone, COSTS), scale.index_seconds(sides, alone, COSTS.index)

    for count, quicker in ((rows // 2, 0), (rows, 1), (100 * rows, 1)):
        both = times(count)
        assert both.index(min(both)) == quicker
    assert scale.crossing(SIDES_256, dataclasses.replace(COSTS, index=None)) is None


SIDES_256 = Sides(1, 1, 256)


def test_lists_of_an_index() -> None:
    assert [scale.default_nlist(rows) for rows in (1, 39, 80, 3000, 10**6, 10**9)] == [1, 1, 2, 75, 4096, 131_072]
    work = scale.index_work(10**6, SIDES_256, nprobe=16)
    assert (work.files, work.scanned, work.candidates) == (4, 3906, 16)
    assert work.file_bytes == 10**6 * 264 + 4 * 4096 * 256 * 4
