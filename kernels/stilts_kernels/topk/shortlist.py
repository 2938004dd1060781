"""Per row, every candidate whose upper bound may still reach the row's k-th best lower bound.

Nothing that could belong to the true top k is ever dropped: a pair is skipped only when its upper bound lies below the
row's *floor*, the k-th largest lower bound seen so far. The floor only rises, so a stale floor is safe, merely less
selective. A row that collects more than `cap` candidates is given up (`failed`) and must be searched another way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stilts_kernels.common.ranking import rank_within_rows, rounded_down, running_position

MIDDLE_FOLD = 4
GROUPS_FOLD = 32  # scores of one group; its maximum alone is compared with the floor
RAISE_FRACTION = 4  # raise the floor when a block brought at least rows / 4 candidates
MIN_PRUNE = 1 << 16
NEVER = float("inf")


class Shortlist:
    """Candidates of rows 0..rows-1, kept on `device`, where the scores are. Bounds are float32; columns fit int32.

    `known` float64 [rows, k], falling: scores of pairs that are searched elsewhere; the floor begins at their last.
    """

    def __init__(self, rows: int, k: int, cap: int, device: torch.device, known: Tensor | None = None) -> None:
        self.rows, self.k, self.cap = rows, k, cap
        self.failed = torch.zeros(rows, dtype=torch.bool, device=device)
        if known is None:
            self._best = torch.full((rows, k), -NEVER, dtype=torch.float32, device=device)
        else:
            self._best = rounded_down(known)
        self.floor = self._best[:, -1].clone()
        self._pairs: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # row, column, lower, upper
        self._count, self._prune_at = 0, max(MIN_PRUNE, 2 * rows * k)

    def collect(self, scores: Tensor, error: Tensor, roundoff: float, row_start: int, column_start: int) -> None:
        """Takes in a block of scores [C, R]: columns column_start + C, rows row_start + R, error bound [R]."""
        span = slice(row_start, row_start + scores.shape[1])
        levels, left_over = score_levels(scores, self.k)
        maxima = levels[0].float()
        least = threshold(self.floor[span], error, roundoff)
        # Where many groups reach the floor, raising it first costs less than searching all of them.
        if int((maxima >= least).sum()) >= self.k * len(least):
            self._lift(span, maxima, error, roundoff)
            least = threshold(self.floor[span], error, roundoff)
        row, column, value = survivors(levels, left_over, least)
        slack = error[row] + roundoff * value.abs()
        self._add(span, row, column + column_start, value - slack, value + slack)

    def _lift(self, span: slice, maxima: Tensor, error: Tensor, roundoff: float) -> None:
        """Raises the floor before a block is searched: the maxima of its groups are elements beside the best so far."""
        fold = group_size(len(maxima), 4 * self.k)  # fewer are quicker to rank, and hardly hide one another
        maxima = fold_maxima(maxima[: len(maxima) // fold * fold], fold)
        lower = maxima - error - roundoff * maxima.abs()
        best = torch.cat([self._best[span], lower.T], dim=1).topk(self.k, dim=1).values
        self.floor[span] = torch.maximum(self.floor[span], best[:, -1])

    def _add(self, span: slice, row: Tensor, column: Tensor, lower: Tensor, upper: Tensor) -> None:
        self._pairs.append(((row + span.start).int(), column.int(), lower, upper))
        self._count += len(row)
        if len(row) * RAISE_FRACTION >= span.stop - span.start:
            self._raise_floor(span, row, lower)
        if self._count > self._prune_at:
            self.prune()

    def _raise_floor(self, span: slice, row: Tensor, lower: Tensor) -> None:
        position = running_position(row)
        shape = span.stop - span.start, int(position.max()) + 1
        fresh = torch.full(shape, -NEVER, dtype=torch.float32, device=row.device)
        fresh[row, position] = lower
        best = torch.cat([self._best[span], fresh], dim=1).topk(self.k, dim=1).values
        self._best[span] = best
        self.floor[span] = torch.maximum(self.floor[span], best[:, -1])

    def prune(self) -> None:
        """Drops candidates below the floor, and every candidate of rows over the cap."""
        # What lies below the floors that are there goes first: to settle them takes memory for each candidate.
        self._drop()
        self._settle_floors()
        self._drop()
        over = torch.bincount(self._pairs[0][0], minlength=self.rows) > self.cap
        if over.any():
            self.failed |= over
            self.floor[over] = NEVER
            self._drop()
        self._count = len(self._pairs[0][0])
        self._prune_at = max(MIN_PRUNE, 2 * self.rows * self.k, 2 * self._count)

    def _drop(self) -> None:
        """What lies below the floors, and what is of failed rows."""
        pairs = self._joined()
        kept = (pairs[3] >= self.floor[pairs[0]]) & ~self.failed[pairs[0]]
        self._pairs = [tuple(column[kept] for column in pairs)]  # type: ignore[list-item]

    def _joined(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if not self._pairs:
            none = self.floor.new_empty(0)
            return none.int(), none.int(), none, none
        row, column, lower, upper = zip(*self._pairs)
        return torch.cat(row), torch.cat(column), torch.cat(lower), torch.cat(upper)

    def _settle_floors(self) -> None:
        """Raises each floor to the k-th best lower bound of the candidates: blocks that brought few left it behind.

        Before any row is given up: small blocks of a long bank bring few each, and more than the cap together.
        """
        row, _, lower, _ = self._joined()
        order, position = rank_within_rows(row, lower.double())
        kth = order[position == self.k - 1]
        self.floor[row[kth]] = torch.maximum(self.floor[row[kth]], lower[kth])

    def finish(self) -> tuple[Tensor, Tensor]:
        """(row, column) int64 of all pairs that must be scored exactly, columns rising; failed rows have none."""
        self.prune()
        row, column, _, _ = self._pairs.pop()
        column, order = torch.sort(column)
        return row[order].long(), column.long()


def group_size(columns: int, k: int) -> int:
    """Largest power of two up to 32 that leaves at least 2 k groups, for their maxima to raise the floor."""
    fold = GROUPS_FOLD
    while fold > 1 and columns // fold < 2 * k:
        fold //= 2
    return fold


def score_levels(scores: Tensor, k: int) -> tuple[list[Tensor], Tensor]:
    """(levels, left over): group maxima of scores [C, R], coarsest first and the scores last, and the other columns."""
    fold = group_size(scores.shape[0], k)
    middle_fold = min(fold, MIDDLE_FOLD)
    whole = scores[: scores.shape[0] // fold * fold]
    middle = fold_maxima(whole, middle_fold)
    coarse = fold_maxima(middle, fold // middle_fold)
    levels = [coarse]
    if middle is not coarse:
        levels.append(middle)
    if whole is not middle:
        levels.append(whole)
    return levels, scores[len(whole) :]


def fold_maxima(scores: Tensor, fold: int) -> Tensor:
    """Maxima [C // fold, R] of groups of `fold` columns of scores [C, R]; group g holds columns g + t (C // fold).

    Halving by element-wise maxima runs at memory speed in either layout of `scores`, which a reduction does not.
    """
    while fold > 1:
        half, fold = scores.shape[0] // 2, fold // 2
        scores = torch.maximum(scores[:half], scores[half:])
    return scores


def threshold(floor: Tensor, error: Tensor, roundoff: float) -> Tensor:
    """Smallest stored score [R] whose upper bound, score + error + roundoff |score|, can reach the floor.

    NaN for rows given up (floor infinity): no score compares as large, so they collect nothing more.
    """
    bare = floor - error
    least = torch.where(bare >= 0, bare / (1 + roundoff), bare / (1 - roundoff))
    return least - 4e-7 * (least.abs() + error)


def survivors(levels: list[Tensor], left_over: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row, column, value) of all scores that reach `least` [R], rows rising.

    `levels` holds the maxima of groups, coarsest first and the scores [C, R] last; `left_over` those of no group.
    """
    row, column = (levels[0].float() >= least).T.nonzero(as_tuple=True)
    for coarse, fine in zip(levels, levels[1:]):
        row, column, value = descend(fine, coarse.shape[0], row, column, least)
    if len(levels) == 1:
        value = levels[0][column, row].float()
    late_row, late = (left_over.float() >= least).T.nonzero(as_tuple=True)
    if len(late) == 0:
        return row, column, value
    row, order = torch.sort(torch.cat([row, late_row]), stable=True)
    column = torch.cat([column, late + levels[-1].shape[0]])[order]
    return row, column, torch.cat([value, left_over[late, late_row].float()])[order]


def descend(fine: Tensor, groups: int, row: Tensor, group: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(row, column, value) of the members in fine [C, R] of the groups (group, row) that reach `least` [R]."""
    extent = 1 + (fine.shape[0] - 1) * fine.stride(0) + (fine.shape[1] - 1) * fine.stride(1)
    flat = torch.as_strided(fine, (extent,), (1,))  # one index instead of two, in either layout
    members = torch.arange(0, fine.shape[0], groups, dtype=torch.int64, device=fine.device)
    position = (group * fine.stride(0) + row * fine.stride(1))[:, None] + members * fine.stride(0)
    values = flat.index_select(0, position.view(-1)).float().view(position.shape)
    hit, member = (values >= least[row, None]).nonzero(as_tuple=True)
    return row[hit], group[hit] + members[member], values[hit, member]
