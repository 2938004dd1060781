"""What stands in place of a head: similarity search over sentence vectors, for Tatoeba's neighbours and BUCC's mining.

Both follow the paper's section Retrieval. Legend: H hidden size, N and M sentences of the two sides, k neighbours.
Embeddings are float32.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import stilts_kernels
import torch
from torch import Tensor

from stilts_ds.errors import UserError, counted

Pair = tuple[str, str]
DRAWS = 200  # resamples of the dev sentences that choose a threshold


def unit(embeddings: Tensor, name: str) -> Tensor:
    """Rows scaled to length 1, float32. Raises UserError naming the first row that is not finite."""
    rows = embeddings.to(torch.float32)
    finite = torch.isfinite(rows).all(dim=1)
    if not finite.all():
        at = int(torch.nonzero(~finite)[0])
        raise UserError(f"the embedding of {name} sentence {at} is not finite; use an earlier checkpoint or float32")
    return torch.nn.functional.normalize(rows, dim=1)


def topk(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact k largest inner products of each query [N, H] with the bank [M, H]: values and indices, [N, min(k, M)].

    Values are sorted from high to low, equal ones by lower index; the score matrix is never held. The log tells which
    path of `stilts_kernels` ran.
    """
    found = stilts_kernels.topk(queries, bank, min(k, len(bank)))
    return found.values, found.indices


def tatoeba_predict(source: Tensor, pivot: Tensor) -> list[int]:
    """For each English (pivot) sentence the index of the nearest non-English (source) one by cosine.

    `source` is [N, H], `pivot` [M, H]; returns M indices into the source side. The submission wants them in the order
    of the English file, which the benchmark sorts alphabetically (paper, Retrieval).
    """
    if not len(source) or not len(pivot):
        raise UserError("a side of the bitext has no sentences; check its text files")
    _, nearest = topk(unit(pivot, "pivot"), unit(source, "source"), 1)
    return [int(i) for i in nearest[:, 0]]


# --- BUCC ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a comparable corpus: ids and texts of N sentences and their embeddings [N, H]."""

    name: str
    ids: Sequence[str]
    texts: Sequence[str]
    embeddings: Tensor

    def check(self) -> None:
        """Raises UserError for sizes that differ, no sentences, or an id that occurs twice."""
        if not len(self.ids) == len(self.texts) == len(self.embeddings) or not self.ids:
            sizes = (
                f"{counted(len(self.ids), 'id')}, {counted(len(self.texts), 'text')}, "
                f"{counted(len(self.embeddings), 'embedding')}"
            )
            raise UserError(f"side {self.name!r} has {sizes}; there must be one of each per sentence")
        name, times = Counter(self.ids).most_common(1)[0]
        if times > 1:
            raise UserError(f"side {self.name!r} has the id {name!r} {times} times; ids must be unique")


@dataclass(frozen=True, slots=True)
class Mined:
    """A mined pair of sentence ids and its margin score."""

    source: str
    target: str
    score: float

    @property
    def pair(self) -> Pair:
        return self.source, self.target


def bucc_mine(source: Side, target: Side, k: int = 4) -> list[Mined]:
    """Mine pairs, best first (paper, Retrieval).

    Equal texts of a side count as one sentence; `score(x, y) = cos(x, y) / ((mean of x's k + mean of y's k) / 2)` for
    the k nearest neighbours both ways (fewer where a side has fewer), both from one pass over the scores; the best
    candidate of every source and every target are pooled and accepted greedily while neither side is used. Then pairs
    with a text that occurs more than once on its side are dropped (their id is ambiguous), and so are scores that are
    not above 0.
    """
    source.check()
    target.check()
    x_rows, y_rows = _first_rows(source.texts), _first_rows(target.texts)
    x = unit(source.embeddings[list(x_rows)], source.name)
    y = unit(target.embeddings[list(y_rows)], target.name)
    x_once, y_once = _ids_of_unique(source, x_rows), _ids_of_unique(target, y_rows)
    found = stilts_kernels.mine(x, y, min(k, len(x), len(y)), margin="ratio", retrieval="max", metric="inner")
    pairs = zip(found.source.tolist(), found.target.tolist(), found.score.tolist())
    mined = [(x_once[i], y_once[j], score) for i, j, score in pairs if score > 0]
    return [Mined(a, b, score) for a, b, score in mined if a and b]


def _first_rows(texts: Sequence[str]) -> list[int]:
    """The row of each distinct text's first occurrence."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text.strip(), row)
    return list(first.values())


def _ids_of_unique(side: Side, rows: Sequence[int]) -> list[str]:
    """The ids of `rows`, "" where the row's text occurs more than once."""
    times = Counter(text.strip() for text in side.texts)
    return [side.ids[row] if times[side.texts[row].strip()] == 1 else "" for row in rows]


def best_threshold(mined: Sequence[Mined], gold: Set[Pair]) -> tuple[float, float]:
    """The score threshold that maximises F1 on dev, and that F1 in percent: keep pairs with `score >= threshold`.

    The threshold lies half-way between the last kept score and the next; the shortest of equally good lists wins.
    Nothing right gives (infinity, 0). Raises UserError without gold pairs.
    """
    if not gold:
        raise UserError("no gold pairs to choose the threshold on; give the dev split's gold file")
    ranked = sorted(mined, key=lambda m: -m.score)
    correct, best, threshold = 0, 0.0, float("inf")
    for kept, item in enumerate(ranked, start=1):
        correct += item.pair in gold
        following = ranked[kept].score if kept < len(ranked) else item.score
        f1 = 200 * correct / (kept + len(gold))
        if f1 > best and (kept == len(ranked) or following < item.score):
            best, threshold = f1, (item.score + following) / 2
    return threshold, best


def drawn_thresholds(mined: Sequence[Mined], gold: Set[Pair], sources: Sequence[str]) -> list[float]:
    """The thresholds that other dev sentences would have chosen: `best_threshold` on resamples of `sources`.

    Each sentence is counted a Poisson(1) number of times (the Poisson bootstrap: Hanley and MacGibbon 2006), with its
    candidate and its gold pairs. The draws depend on the sentences alone: all conditions and seeds get the same ones.
    """
    ranked = sorted(mined, key=lambda m: -m.score)
    if not ranked:
        return []
    row = {source: i for i, source in enumerate(sources)}
    candidate_rows = np.array([row[m.pair[0]] for m in ranked])
    gold_rows = np.array([row[source] for source, _ in gold])
    right = np.array([m.pair in gold for m in ranked], float)
    score = np.array([m.score for m in ranked])
    following = np.append(score[1:], score[-1])
    may_end = np.append(following[:-1] < score[:-1], True)  # equal scores are kept together
    rng = np.random.default_rng([len(sources), zlib.crc32(sources[0].encode())])
    thresholds = []
    for _ in range(DRAWS):
        weights = rng.poisson(1.0, len(sources)).astype(float)
        drawn = weights[candidate_rows]
        f1 = 2 * np.cumsum(drawn * right) / np.maximum(np.cumsum(drawn) + weights[gold_rows].sum(), 1)
        best = int(np.argmax(np.where(may_end, f1, -1.0)))
        thresholds.append(float((score[best] + following[best]) / 2) if f1[best] > 0 else float(score[0]) + 1.0)
    return thresholds


def f1_at(mined: Sequence[Mined], gold: Set[Pair], thresholds: Sequence[float]) -> list[float]:
    """F1 in percent of the pairs that reach each threshold."""
    ranked = sorted(mined, key=lambda m: -m.score)
    scores = -np.array([m.score for m in ranked])
    correct = np.concatenate([[0.0], np.cumsum([m.pair in gold for m in ranked])])
    kept = np.searchsorted(scores, -np.array(thresholds), side="right")
    return (200 * correct[kept] / np.maximum(kept + len(gold), 1)).tolist()


def bucc_predict(mined: Sequence[Mined], threshold: float) -> list[Pair]:
    """The pairs that reach the threshold chosen on dev, in order of their score."""
    return [m.pair for m in mined if m.score >= threshold]
