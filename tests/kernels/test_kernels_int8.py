"""The int8 screen on every instruction set of this processor: exact sums, bounds that hold, exact results."""

from __future__ import annotations

import ctypes
import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import anisotropic, check_tie_rule, check_topk, gaussian
from stilts_kernels import Index, last_report, topk
from stilts_kernels.common.rows import Rows
from stilts_kernels.mining.two_way import two_way
from stilts_kernels.topk import screen
from stilts_kernels.topk.cpu import topk_cpu
from stilts_kernels.topk.int8 import library, sides
from stilts_kernels.topk.int8.search import Direction, ScreenedSearch, chunks, collect
from stilts_kernels.topk.int8.sides import GROUP, PANEL, SEGMENT, Frame
from torch import Tensor

SETS = library.instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason=library.problem() or "no int8 screen")
FULL_LANE = [127, 127, 22, 5]  # its squares add up to 32767
EACH = pytest.mark.parametrize("isa", SETS, ids=[library.NAMES[isa] for isa in SETS])


@pytest.fixture
def limited(isa: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The screen with these instructions and no others."""
    monkeypatch.setattr(screen, "int8_instructions", lambda: isa)
    for module in ("stilts_kernels.topk.cpu", "stilts_kernels.mining.two_way"):
        monkeypatch.setattr(sys.modules[module], "int8_instructions", lambda: isa)
    yield


def sums(isa: int, bank: Tensor, queries: Tensor) -> Tensor:
    """int32 sums [32, 32] of signed bank values and query values [32, wide], by the tile itself."""
    wide = bank.shape[1]
    stored = (bank + 128).to(torch.uint8).contiguous()
    panel = queries.to(torch.int8).view(-1, GROUP, wide // 4, 4).transpose(1, 2).contiguous()
    starts = (-128 * queries.sum(dim=1)).int()
    by_lane = queries.view(-1, GROUP, wide // SEGMENT, SEGMENT // 4, 2, 2).sum(dim=(3, 5))
    lanes = (-128 * by_lane).to(torch.int16).transpose(1, 2).contiguous()
    out = torch.empty(32, PANEL, dtype=torch.int32)
    task = library.Queries(*(library.address(array) for array in (panel, starts, lanes)), *[None] * 6, 1, PANEL)
    width = ctypes.c_long(wide)
    library.loaded().screen_sums(
        isa, *map(ctypes.c_void_p, [stored.data_ptr()]), width, ctypes.byref(task), *[ctypes.c_void_p(out.data_ptr())]
    )
    return out


def extreme(generator: torch.Generator, wide: int, filled: int) -> Tensor:
    """Values [32, wide] whose lanes have `filled` numbers as large as the AVX2 tile's cap allows."""
    size = torch.tensor(FULL_LANE if filled == 4 else [min(127, int((32767 / filled) ** 0.5))] * filled)
    values = torch.zeros(32, wide // SEGMENT, 2, SEGMENT // 2, dtype=torch.int64)
    # With at most 16 numbers a lane, only the first byte of each pair is filled: |w1| + |w2| <= 128.
    values[..., : 2 * filled : 2 if filled <= 16 else 1][..., :filled] = size
    signs = torch.randint(0, 2, (wide // SEGMENT, 2, SEGMENT // 2), generator=generator) * 2 - 1
    values = values * signs * (torch.randint(0, 2, (32, 1, 1, 1), generator=generator) * 2 - 1)
    pairs = values.view(32, wide // SEGMENT, 2, SEGMENT // 4, 2)
    return pairs.permute(0, 1, 3, 2, 4).reshape(32, wide)


@EACH
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 4, 5, 16, 17, 32]), st.sampled_from([64, 128, 1024]))
def test_sums_are_exact_at_the_extremes_of_every_lane(isa: int, seed: int, filled: int, wide: int) -> None:
    """Rows and queries share their signs, or have all of them turned: lanes of +-32767, and sums of many."""
    generator = torch.Generator().manual_seed(seed)
    values = extreme(generator, wide, filled)
    lane = values.view(32, -1, SEGMENT // 4, 2, 2).square().sum(dim=(2, 4))
    assert int(lane.max()) <= 32767 and (filled != 4 or int(lane.min()) == 32767)
    for bank, queries in ((values, values), (values, -values), (values.flip(0), values)):
        assert torch.equal(sums(isa, bank, queries).long(), bank @ queries.T)


@EACH
def test_sums_are_exact_for_bytes_of_any_size_without_wrapping(isa: int) -> None:
    if isa == library.AVX2:
        pytest.skip("wraps: its rows are capped, see the test before")
    for bank, queries in ((127, 127), (-128, 127), (127, -127), (-128, -127)):
        left, right = (torch.full((32, 8192), value, dtype=torch.int64) for value in (bank, queries))
        assert torch.equal(sums(isa, left, right).long(), left @ right.T)


@pytest.fixture
def avx_vnni_by_evex(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The extension with every vpdpbusd of AVX-VNNI in the encoding of AVX-512: the same instruction and registers.

    So its tile runs, as compiled, on a processor that has only the longer encoding.
    """
    if library.AVX512_VNNI not in SETS or shutil.which("g++") is None:
        pytest.skip("needs AVX-512 VNNI and g++")
    source = str(library.FOLDER / "screen.cpp")
    flags = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-w"]
    flags.append(f'-DSCREEN_SOURCES="{library.source_hash()}"')
    assembly = tmp_path / "screen.s"
    subprocess.run(["g++", *flags, "-S", "-o", assembly, source], check=True, timeout=300)
    text = assembly.read_text(encoding="utf-8")
    assert text.count("{vex} vpdpbusd") >= 8
    assembly.write_text(text.replace("{vex} vpdpbusd", "{evex} vpdpbusd"), encoding="utf-8")
    subprocess.run(["g++", "-shared", "-o", tmp_path / library.FILE, assembly], check=True, timeout=300)
    monkeypatch.setattr(library, "built_file", lambda: tmp_path / library.FILE)
    library.opened.cache_clear()
    yield
    monkeypatch.undo()
    library.opened.cache_clear()


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("avx_vnni_by_evex", "limited")
@pytest.mark.parametrize("isa", [library.AVX_VNNI])
def test_the_tile_of_avx_vnni_is_exact(isa: int) -> None:
    """Its sums at the extremes, and searches to the bit of float32's."""
    generator = torch.Generator().manual_seed(5)
    for filled, wide in ((1, 64), (16, 1024), (32, 128)):
        values = extreme(generator, wide, filled)
        assert torch.equal(sums(isa, values, -values).long(), values @ -values.T)
    for bank, queries in ((127, 127), (-128, 127), (127, -127), (-128, -127)):
        left, right = (torch.full((32, 8192), value, dtype=torch.int64) for value in (bank, queries))
        assert torch.equal(sums(isa, left, right).long(), left @ right.T)
    # 300 queries end with a group of padding, 17 numbers with padding of a row.
    for queries, rows, dim, k in ((300, 900, 100, 4), (33, 500, 17, 5)):
        left, right = anisotropic(queries, dim, 1), anisotropic(rows, dim, 2)
        expected = topk_cpu(left, right, k, "cosine", "float32")
        ours = topk_cpu(left, right, k, "cosine", "int8")
        assert torch.equal(ours.values, expected.values) and torch.equal(ours.indices, expected.indices)
        report = last_report()
        assert report is not None and report.path == "cpu, int8 screen with avx-vnni"


@pytest.mark.long
@pytest.mark.processes
def test_the_check_that_needs_no_python_finds_no_fault(tmp_path: Path) -> None:
    """tests/tools/screen_check.cpp, which emulators of other processors run, on the instruction sets of this one."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    source, program = ranks.ROOT / "tests/tools/screen_check.cpp", tmp_path / "screen_check"
    flags = ["-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-w"]
    subprocess.run(["g++", *flags, "-o", program, source], check=True, timeout=300)
    done = subprocess.run([program, "3", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "done", done.stdout
    ran = [line.split(":")[0] for line in done.stdout.splitlines() if "no fault" in line]
    there = library.loaded().instruction_sets()
    assert ran == [name for isa, name in library.NAMES.items() if there >> isa & 1]


def wild(kind: str, rows: int, dim: int, seed: int) -> Tensor:
    values = gaussian(rows, dim, seed)
    if kind == "mean":
        return values + 30
    if kind == "outliers":
        values[:, :: max(1, dim // 3)] *= 500
    if kind == "signs":
        return values.sign()
    if kind == "sparse":
        values[gaussian(rows, dim, seed + 50) < 1.5] = 0
        values[0] = 0
    if kind == "lengths":
        return values * 10.0 ** (gaussian(rows, 1, seed + 60) * 2).clamp(-6, 6)
    if kind == "tiny":
        return values * 1e-22
    if kind == "large":
        return values * 1e12
    return values


KINDS = ("plain", "mean", "outliers", "signs", "sparse", "lengths", "tiny", "large")


def stored(side: sides.PreparedBank | sides.PreparedQueries, frame: Frame, count: int) -> Tensor:
    """What the bytes of a prepared side stand for, float64 [count, wide]."""
    if isinstance(side, sides.PreparedBank):
        values = side.bytes[:count].double() - 128
    else:
        panels = side.bytes.view(-1, frame.wide // 4, GROUP, 4)
        values = panels.transpose(1, 2).reshape(-1, frame.wide)[:count].double()
    return values * side.scale[:count, None].double()


def reference_bounds() -> dict[str, object]:
    """The names of the numpy block of docs/int8-screen.md."""
    page = (ranks.ROOT / "docs/int8-screen.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    names: dict[str, object] = {}
    exec(block, names)
    return names


@EACH
@settings(max_examples=20, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 300), st.integers(0, 1000))
def test_bounds_hold_against_float64(isa: int, kind: str, dim: int, seed: int) -> None:
    """What is stored of a side bounds what was lost, every score lies below its bound, and AVX2's caps are kept."""
    left, right = Rows(wild(kind, 20, dim, seed), "l"), Rows(wild(kind, 40, dim, seed + 1), "r")
    frame = Frame.of(isa, right, left)
    frame.signs = None  # a rotated row is compared by the next test, in another basis than its own
    queries, bank = sides.prepare_queries(left, frame, 1), sides.prepare_bank(right, frame, 1)
    c, m = (centre.double().numpy() for centre in (frame.query_centre, frame.centre))
    q, x = left.data.double().numpy(), right.data.double().numpy()
    Q, X = (stored(*side).numpy()[:, :dim] for side in ((queries, frame, 20), (bank, frame, 40)))
    assert (np.linalg.norm(q - c - Q, axis=1) <= queries.error[:20].numpy()).all()
    assert (np.linalg.norm(x - m - X, axis=1) <= bank.error[:40].numpy()).all()
    assert (np.linalg.norm(q - c, axis=1) <= queries.norm[:20].numpy()).all()
    assert (np.linalg.norm(X, axis=1) <= bank.norm[:40].numpy()).all()
    arrays = [
        array.double().numpy() for array in (queries.error[:20], queries.norm[:20], bank.error[:40], bank.norm[:40])
    ]
    upper = Q @ X.T + np.outer(arrays[0], arrays[3]) + np.outer(arrays[1], arrays[2])
    upper += bank.shift[:40].double().numpy() + queries.level[:20].double().numpy()[:, None]
    assert (upper >= q @ x.T).all()
    low, high = reference_bounds()["bounds"](q, x, c, m, Q, X)  # type: ignore[operator]
    assert (low <= q @ x.T).all() and (q @ x.T <= high).all()
    if isa == library.AVX2:
        panels = queries.bytes.view(-1, frame.wide // 4, GROUP, 4).transpose(1, 2).reshape(-1, frame.wide).int()
        for values in (panels, bank.bytes.int() - 128):
            lanes = values.view(len(values), -1, SEGMENT // 4, 2, 2).square().sum(dim=(2, 4))
            assert int(lanes.max()) <= 32767
        assert int(panels.view(len(panels), -1, 2).abs().sum(dim=2).max()) <= 128


@EACH
@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 200), st.integers(1, 90), st.integers(1, 400), st.integers(0, 1000))
def test_no_neighbour_is_dropped_in_either_direction(
    isa: int, kind: str, dim: int, queries: int, rows: int, seed: int
) -> None:
    """Rotated and not, one thread and three; rows that are given up hold no promise."""
    left, right = Rows(wild(kind, queries, dim, seed), "l"), Rows(wild(kind, rows, dim, seed + 1), "r")
    frame = Frame.of(isa, right, left)
    if seed % 2 and frame.signs is None:
        frame.signs = gaussian(1, dim, seed)[0].sign()
    scores = left.data.double() @ right.data.double().T
    ahead, back = Direction(queries, min(4, rows), 256), Direction(rows, min(3, queries), 256)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 + 2 * (seed % 3 == 0))
    try:
        survivors = collect(left, right, frame, ahead, back, step=192)
    finally:
        torch.set_num_threads(threads)
    for direction, right_scores in zip(survivors, (scores, scores.T)):
        needed = right_scores >= right_scores.topk(direction.k, dim=1).values[:, -1:]
        kept = torch.zeros_like(needed)
        kept[direction.row.long(), direction.column.long()] = True
        assert not (needed & ~kept)[~direction.failed].any()


@EACH
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KINDS), st.integers(1, 200), st.integers(1, 70), st.integers(1, 700), st.integers(1, 40), st.data()
)
def test_floors_of_one_way_lie_below_the_kth_score(
    isa: int, kind: str, dim: int, queries: int, rows: int, k: int, data: st.DataObject
) -> None:
    """With lower bounds by bytes alone, up to k 32, and without. Chunks of a block and more, shares, ties."""
    seed, repeated = data.draw(st.integers(0, 1000)), data.draw(st.sampled_from([1, 3]))
    left = Rows(wild(kind, queries, dim, seed), "l")
    right = Rows(wild(kind, rows, dim, seed + 1).repeat(repeated, 1), "r")
    frame = Frame.of(isa, right, left)
    if seed % 2 and frame.signs is None:
        frame.signs = gaussian(1, dim, seed)[0].sign()
    scores = left.data.double() @ right.data.double().T
    ahead = Direction(queries, min(k, right.count), 256)
    kth = scores.topk(ahead.k, dim=1).values[:, -1:]
    prepared = sides.prepare_queries(left, frame, 1)
    threads, sketched = data.draw(st.sampled_from([1, 1, 7])), k <= 32 and data.draw(st.booleans())
    found = ScreenedSearch(frame, prepared, ahead, Direction(0, 0, 0), threads, sketched)
    for chunk in chunks(right, frame, 1, None, data.draw(st.sampled_from([192, 576, 6144]))):
        found.feed(chunk)
    survivors, _ = found.finish()
    for worker in found.workers:
        floor = worker.floors()[0][: queries - worker.panels.start * PANEL].double()
        mine = slice(worker.panels.start * PANEL, worker.panels.start * PANEL + len(floor))
        assert (floor <= kth[mine, 0])[~survivors.failed[mine]].all()
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[survivors.row.long(), survivors.column.long()] = True
    assert not ((scores >= kth) & ~kept)[~survivors.failed].any()


@EACH
@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "queries, rows, dim, k",
    # 33 and 70 queries end with a group of nothing but padding, which the tile of AVX2 leaves out.
    [(1, 1, 4, 1), (33, 500, 17, 5), (70, 1300, 100, 4), (3, 64, 8192, 3)],
)
def test_searches_equal_those_of_float32(isa: int, queries: int, rows: int, dim: int, k: int) -> None:
    """To the bit: one way, with an Index, of 16-bit and strided rows, and both ways."""
    for make, metric in ((gaussian, "inner"), (anisotropic, "cosine")):
        left, right = make(queries, dim, 1), make(rows, dim, 2)
        for bank in (right, right.half(), right.T.contiguous().T):
            expected = topk_cpu(left, bank, k, metric, "float32")
            for ours in (topk_cpu(left, bank, k, metric, "int8"), topk_cpu(left, Index(bank, metric, "int8"), k)):
                assert torch.equal(ours.values, expected.values) and torch.equal(ours.indices, expected.indices)
    sides_of_search = Rows(left, "source"), Rows(right, "target")
    back = min(3, queries)
    for ours, expected in zip(
        two_way(*sides_of_search, k, back, "int8"), two_way(*sides_of_search, k, back, "float32")
    ):
        assert torch.equal(ours.values, expected.values) and torch.equal(ours.indices, expected.indices)


@EACH
@pytest.mark.usefixtures("limited")
def test_rows_with_more_ties_than_may_survive_go_down_the_ladder(isa: int) -> None:
    bank = gaussian(40, 12, 3).repeat(20, 1)
    found = topk_cpu(gaussian(9, 12, 4), bank, 45, screen="int8")
    check_topk(gaussian(9, 12, 4), bank, 45, "inner", *found)
    check_tie_rule(bank, found.indices)
    same = topk_cpu(gaussian(3, 5, 1), torch.ones(700, 5), 4, screen="int8")
    assert same.indices.tolist() == [[0, 1, 2, 3]] * 3
    report = last_report()
    assert report is not None and report.certified == 0 and library.NAMES[isa] in report.path


@pytest.mark.slow
def test_more_hits_than_may_wait_are_searched_right() -> None:
    """So many numbers a row that rounding outweighs what tells scores apart: a tenth of all pairs reach the floors."""
    queries, bank = gaussian(512, 8192, 1), gaussian(7000, 8192, 2)
    expected = topk_cpu(queries, bank, 16, screen="float32")
    index = Index(bank, screen="int8")
    found = topk_cpu(queries, index, 16)
    assert torch.equal(found.values, expected.values) and torch.equal(found.indices, expected.indices)
    prepared = sides.prepare_queries(Rows(queries, "q"), index.frame, 1)
    error, norm = index.prepared.error[:7000], index.prepared.norm[:7000]
    allowed = prepared.error[:, None] * norm + prepared.norm[:, None] * error
    reaching = queries @ bank.T + allowed >= expected.values[:, -1:]
    waiting = int(reaching.sum()) - 2 * 16 * len(queries)
    assert waiting > 1 << 18, "fewer than may wait (`most_deferred` of screen.cpp): the test tries nothing"


def test_outlier_dimensions_are_rotated_away() -> None:
    """Without the rotation ten times as many pairs would survive the bytes; plain rows are left as they are."""
    rows = gaussian(3000, 256, 1)
    assert Frame.of(SETS[-1], Rows(rows, "r")).signs is None
    rows[:, [3, 100]] *= 60
    frame = Frame.of(SETS[-1], Rows(rows, "r"))
    assert frame.signs is not None and set(frame.signs.tolist()) == {-1.0, 1.0}
    prepared = sides.prepare_bank(Rows(rows, "r"), frame, 1)
    rotated = float((prepared.error / prepared.norm.clamp_min(1e-9))[:3000].mean())
    frame.signs = None
    prepared = sides.prepare_bank(Rows(rows, "r"), frame, 1)
    assert rotated < 0.5 * float((prepared.error / prepared.norm.clamp_min(1e-9))[:3000].mean())


def test_a_bad_row_is_named_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = gaussian(9000, 8, 1)
    rows[8100, 3] = float("nan")
    for queries, bank, name in ((rows, rows[:50], "queries"), (rows[:50], rows, "bank")):
        with pytest.raises(ValueError, match=f"{name}: row 8100 holds NaN"):
            topk_cpu(queries, bank, 2, screen="int8")
    with pytest.raises(ValueError, match="bank: row 8100 holds NaN"):
        Index(rows, screen="int8")


def test_the_setting_names_the_newest_instructions(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for isa in SETS:
        monkeypatch.setenv(library.SETTING, library.NAMES[isa])
        assert library.instruction_sets() == [known for known in SETS if known <= isa]
        assert library.describe() == f"int8 screen with {library.NAMES[isa]}"
    monkeypatch.setenv(library.SETTING, "sse9")
    with pytest.raises(ValueError, match="STILTS_KERNELS_ISA=sse9 is not one of none, portable"):
        topk(gaussian(3, 4, 1), gaussian(9, 4, 2), 2)
    monkeypatch.setenv(library.SETTING, "none")
    library.say_once.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            topk(gaussian(3, 4, 1), gaussian(9, 4, 2), 2)
    assert [text for text in caplog.messages if text.startswith("no int8")] == [
        "no int8 screen: STILTS_KERNELS_ISA is none"
    ]
    report = last_report()
    assert report is not None and "int8" not in report.path
    with pytest.raises(ValueError, match="no int8 screen: STILTS_KERNELS_ISA is none"):
        topk_cpu(gaussian(3, 4, 1), gaussian(9, 4, 2), 2, screen="int8")
