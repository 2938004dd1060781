"""Exact top-k on a CPU: low-precision screen, proof, float64 finish.

1. Centre both sides, store them in what the processor multiplies fastest (`screen`): int8, bfloat16 or float32.
2. One blocked matrix product; each block of scores stays in cache and is dropped at once. A pair survives when its
   score's upper bound reaches the k-th best lower bound of its row (`shortlist`, bound in `bounds`; int8 writes no
   scores at all, `int8`).
3. Survivors, about 2 k to 3 k a row, are scored in float64 (`exact_scores`) and the best k kept.

So every row is exact by construction (*certified*) unless it collects too many survivors, as among hundreds of equal
rows; such rows are searched again in float32 with a larger cap, and those that still fail are scored one pair at a
time. `last_report()` and the log say which path ran and how many rows needed more than the first pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from stilts_kernels.common.canonical import MAX_STEP
from stilts_kernels.common.precision import exact_float32
from stilts_kernels.common.products import multiply, pack
from stilts_kernels.common.ranking import Ranked, TopK, rank_within_rows, slices
from stilts_kernels.common.report import Report, save_report
from stilts_kernels.common.rows import Rows, check_matrix, check_pair, is_cosine
from stilts_kernels.topk.bounds import UNIT_ROUNDOFF, Panel, PanelMaker, centre_of, score_error
from stilts_kernels.topk.int8 import library
from stilts_kernels.topk.int8.exact import exact_scores, rank_pairs
from stilts_kernels.topk.int8.search import Direction, Survivors, collect
from stilts_kernels.topk.int8.sides import CHUNK_ROWS, SEGMENT, Frame, prepare_bank
from stilts_kernels.topk.reference import exhaustive
from stilts_kernels.topk.screen import choose_screen, describe_path, int8_instructions, screen_bytes
from stilts_kernels.topk.shortlist import Shortlist

BANK_ROWS = 4096  # of one product in bfloat16: 4096 x 1024 scores, 8 MB; see `fitting`
LEAST_BANK_ROWS = 512  # below this, products are too small to be fast
QUERY_ROWS = 1024
BLOCK_ROWS = 192  # as in int8/screen.h: the int8 screen takes so many bank rows at a time
CAP_FIRST, CAP_SECOND = 256, 4096  # candidates a row may collect (or 16 k) before it is searched another way
REDO_ROWS = 512
DEFAULT_MEMORY = 1 << 30


class Index:
    """A bank [N, D] with its screening copy kept, to be searched many times.

    The copy takes D + 28 bytes a row with the int8 screen (D rounded up to 64), 2 D + 20 with bfloat16, 4 D + 28 with
    float32. A bank on a GPU takes 2 D + 16 there (D rounded up to 8), 16 where its own rows are multiplied, and no
    screen is chosen. Centres queries at the bank's mean, which it knows, instead of their own. Raises ValueError on bad
    rows.
    """

    @torch.no_grad()
    def __init__(self, bank: Tensor, metric: str = "inner", screen: str = "auto") -> None:
        check_matrix(bank, "bank")
        self.rows = Rows(bank, "bank", is_cosine(metric))
        self.on_gpu = bank.is_cuda
        if self.on_gpu:
            if screen != "auto":
                raise ValueError(f"screen {screen!r} is for a CPU, and the bank is on {bank.device}: leave it out")
            # Imported here: triton is missing or useless on machines without a GPU.
            from stilts_kernels.topk.cuda import prepared_bank

            self.fused = prepared_bank(self.rows)
            return
        self.screen = choose_screen(screen)
        if self.screen == "int8":
            self.frame = Frame.of(int8_instructions(), self.rows)
            self.prepared = prepare_bank(self.rows, self.frame, torch.get_num_threads())
            return
        dtype = getattr(torch, self.screen)
        self.centre = centre_of(self.rows)
        maker = PanelMaker(self.rows, self.centre, self.centre, 0, dtype)
        with exact_float32(bank.shape[1], bank.device):
            self.panels = list(make_panels(maker, BANK_ROWS))


def topk_cpu(
    queries: Tensor,
    bank: Tensor | Index,
    k: int,
    metric: str = "inner",
    screen: str = "auto",
    memory: int = DEFAULT_MEMORY,
) -> TopK:
    """The k best bank rows of every query; see `stilts_kernels.topk`."""
    check_matrix(queries, "queries")
    index = bank if isinstance(bank, Index) else None
    rows = index.rows if index else Rows(bank, "bank", is_cosine(metric))  # type: ignore[arg-type]
    values, indices = topk_float64(Rows(queries, "queries", rows.unit), rows, k, screen, memory, index)
    return TopK(values.float(), indices)


def topk_float64(
    queries: Rows, bank: Rows, k: int, screen: str = "auto", memory: int = DEFAULT_MEMORY, index: Index | None = None
) -> Ranked:
    """Canonical top-k of every query: (values float64 [Q, k], indices int64 [Q, k]); ranks and shards merge these."""
    check_pair(queries, bank, k)
    screen = index.screen if index else choose_screen(screen)
    # The panels of an Index were made before this search and its memory were known.
    block = BANK_ROWS if index else block_rows(queries.dim, memory)
    pass_rows = queries_per_pass(queries, k, memory, screen, block)
    step = scoring_step(queries.dim, memory)
    device = queries.data.device
    values = torch.empty(queries.count, k, dtype=torch.float64, device=device)
    indices = torch.empty(queries.count, k, dtype=torch.int64, device=device)
    certified = scored = 0
    with exact_float32(queries.dim, device):
        for span in slices(queries.count, pass_rows):
            some_queries = queries.part(span.start, span.stop)
            values[span], indices[span], counts = one_pass(some_queries, bank, k, screen, CAP_FIRST, step, block, index)
            certified += counts[0]
            scored += counts[1]
    save_report(Report(describe_path(screen), queries.count, certified, scored / queries.count))
    return values, indices


def one_pass(
    queries: Rows,
    bank: Rows,
    k: int,
    screen: str,
    cap: int,
    step: int,
    block: int = BANK_ROWS,
    index: Index | None = None,
) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Top-k of every query: (values float64, indices, (rows certified, survivors scored))."""
    shortlist: Shortlist | Survivors
    if screen == "int8":
        shortlist = int8_survivors(queries, bank, k, cap, step, index)
    else:
        shortlist = shortlisted(queries, bank, k, screen, cap, block, index)
    row, column = shortlist.finish()
    scores = exact_scores(queries, bank, row, column, step)
    values, indices = best_pairs(shortlist, row, column, scores)
    search_failed_rows(queries, bank, shortlist, values, indices, screen)
    return values, indices, (queries.count - int(shortlist.failed.sum()), len(row))


def int8_survivors(queries: Rows, bank: Rows, k: int, cap: int, step: int, index: Index | None) -> Survivors:
    """The pairs that the int8 screen leaves of every query."""
    # Queries are centred at the bank's mean, too: that is what an Index knows.
    frame = index.frame if index else Frame.of(int8_instructions(), bank)
    # One way: nothing is asked of the bank's rows.
    ahead, back = Direction(queries.count, k, max(cap, 16 * k)), Direction(0, 0, 0)
    # Without an Index the bank is prepared in chunks and let go, and no copy of it is kept.
    prepared = index.prepared if index else None
    return collect(queries, bank, frame, ahead, back, prepared, chunk_rows(step))[0]


def chunk_rows(step: int) -> int:
    """Bank rows prepared at a time where `step` rows of each side are scored at a time: both follow from the memory."""
    return max(BLOCK_ROWS, min(CHUNK_ROWS, 2 * step // BLOCK_ROWS * BLOCK_ROWS))


def shortlisted(queries: Rows, bank: Rows, k: int, screen: str, cap: int, block: int, index: Index | None) -> Shortlist:
    """The pairs that a bfloat16 or float32 screen leaves of every query, `block` bank rows of bfloat16 at a time."""
    dtype = getattr(torch, screen)
    centre, bank_centre = (index.centre, index.centre) if index else (centre_of(queries), centre_of(bank))
    # Shift column 2: the constants of queries stand where the bank has ones, so that one product adds both.
    query_panels = packed_panels(PanelMaker(queries, centre, None, 2, dtype), QUERY_ROWS)
    bank_panels: Iterable[Panel]
    if index:
        bank_panels = cut_to_fit(index.panels, max(map(len, query_panels)))
    else:
        bank_panels = make_panels(PanelMaker(bank, bank_centre, centre, 0, dtype), fitting(block, dtype))
    shortlist = Shortlist(queries.count, k, max(cap, 16 * k), queries.data.device)
    sweep(query_panels, bank_panels, shortlist)
    return shortlist


def sweep(queries: list[Panel], bank: Iterable[Panel], forward: Shortlist, backward: Shortlist | None = None) -> None:
    """Multiplies every bank panel with every query panel; both directions read each block of scores while it is hot."""
    # One buffer for all blocks of scores: a new one each time would leave the cache.
    buffer: Tensor | None = None
    for bank_panel in bank:
        if buffer is None:
            dtype = bank_panel.rows.dtype
            # Packed queries bring their scores along: a buffer would be twice the memory.
            packed = all(panel.rows.is_mkldnn for panel in queries)
            buffer = bank_panel.rows.new_empty(0 if packed else len(bank_panel) * max(map(len, queries)))
        for query_panel in queries:
            if query_panel.rows.is_mkldnn:
                scores = multiply(bank_panel.rows, query_panel.rows)
            else:
                room = buffer[: len(bank_panel) * len(query_panel)].view(len(bank_panel), len(query_panel))
                scores = multiply(bank_panel.rows, query_panel.rows, room)
            forward.collect(
                scores, score_error(query_panel, bank_panel), UNIT_ROUNDOFF[dtype], query_panel.start, bank_panel.start
            )
            if backward is not None:
                backward.collect(
                    scores.T,
                    score_error(bank_panel, query_panel),
                    UNIT_ROUNDOFF[dtype],
                    bank_panel.start,
                    query_panel.start,
                )


def best_pairs(shortlist: Shortlist | Survivors, row: Tensor, column: Tensor, score: Tensor) -> Ranked:
    """The k best of each row's survivors: (values float64 [Q, k], indices); missing places hold -inf and -1."""
    shape = shortlist.rows, shortlist.k
    values = torch.full(shape, -torch.inf, dtype=torch.float64, device=row.device)
    indices = torch.full(shape, -1, dtype=torch.int64, device=row.device)
    if library.instruction_sets():
        rank_pairs(row, column, score, values, indices)
        return values, indices
    order, position = rank_within_rows(row, score)
    keep = position < shortlist.k
    order, position = order[keep], position[keep]
    values[row[order], position] = score[order]
    indices[row[order], position] = column[order]
    return values, indices


def search_failed_rows(
    queries: Rows, bank: Rows, shortlist: Shortlist | Survivors, values: Tensor, indices: Tensor, screen: str
) -> None:
    """Searches the failed rows again, in float32 or, after that, pair by pair; fills values and indices in place."""
    for failed in shortlist.failed.nonzero()[:, 0].split(REDO_ROWS):
        if len(failed) == 0:  # an empty tensor splits into one empty part
            break
        if screen != "float32":
            values[failed], indices[failed], _ = one_pass(
                queries.select(failed), bank, shortlist.k, "float32", CAP_SECOND, REDO_ROWS
            )
        else:
            values[failed], indices[failed] = exhaustive(queries, failed, bank, shortlist.k)


def make_panels(maker: PanelMaker, step: int) -> Iterator[Panel]:
    """Panels of all rows, `step` rows at a time."""
    for span in slices(maker.rows.count, step):
        yield maker(span.start, span.stop)
        maker.rows.release()


def packed_panels(maker: PanelMaker, step: int) -> list[Panel]:
    """Panels of all rows, to be multiplied by many others."""
    return [replace(panel, rows=pack(panel.rows)) for panel in make_panels(maker, step)]


def fitting(rows: int, dtype: torch.dtype) -> int:
    """As many rows as take the bytes of `rows` in bfloat16: blocks of scores are to stay in cache and in the budget."""
    return rows * torch.bfloat16.itemsize // dtype.itemsize


def cut_to_fit(panels: list[Panel], queries: int) -> Iterator[Panel]:
    """The panels of an Index, cut where their scores with `queries` take more bytes than those of the largest block in
    bfloat16. Few queries meet long panels: each block of float32 scores costs some 2 ms beside its product."""
    rows = fitting(BANK_ROWS, panels[0].rows.dtype) * QUERY_ROWS // min(queries, QUERY_ROWS)
    for panel in panels:
        for cut in slices(len(panel), rows):
            yield panel.part(cut.start, cut.stop)


def block_rows(dim: int, memory: int) -> int:
    """Bank rows, in bfloat16, of one product: as many as half of a small memory holds, the rest is for queries."""
    rows = memory // 2 // screening_bytes(dim) // LEAST_BANK_ROWS * LEAST_BANK_ROWS
    return min(BANK_ROWS, max(LEAST_BANK_ROWS, rows))


def screening_bytes(dim: int) -> int:
    """What a bank row takes while it is multiplied, in bfloat16: its scores with all queries of a panel, and itself."""
    return 4 * QUERY_ROWS + 2 * dim + 32


def queries_per_pass(queries: Rows, k: int, memory: int, screen: str, block: int = BANK_ROWS) -> int:
    """How many queries one pass over the bank, in blocks of `block` rows, serves within `memory` bytes.

    Raises ValueError where the memory is too small for any.
    """
    step = scoring_step(queries.dim, memory)
    scoring = 20 * queries.dim * step
    row_bytes = screen_bytes(screen) * queries.dim + shortlist_bytes(k)
    if screen == "float32":
        # Queries may be packed: the copy, and what oneDNN holds of it meanwhile (measured: below 8 bytes a number).
        row_bytes += 8 * queries.dim
    if screen == "int8":
        screening = chunk_rows(step) * (5 * queries.dim + SEGMENT + 28)
        row_bytes += 4 * queries.dim + SEGMENT + 32  # the float32 rows that hits are scored with
    else:
        screening = block * screening_bytes(queries.dim)
    scratch = max(screening, scoring)  # one is freed before the other
    if memory < scratch + QUERY_ROWS * row_bytes:
        # No block and no step of scoring takes more than half of this, so it is enough; a little less may be, too.
        enough = 2 * max(screening, QUERY_ROWS * row_bytes)
        raise ValueError(f"memory of {memory} bytes is too small for rows of {queries.dim} numbers; {enough} is enough")
    return (memory - scratch) // row_bytes // QUERY_ROWS * QUERY_ROWS


def shortlist_bytes(k: int) -> int:
    """What a row's survivors, their scores and its results take, with room to spare."""
    return 4 * k + 16 * (64 + 6 * k)


def scoring_step(dim: int, memory: int) -> int:
    """Rows of each side scored at a time, 8 + 12 bytes a number: float64 queries, float32 and float64 bank rows."""
    return max(1, min(MAX_STEP, memory // (64 * dim)))
