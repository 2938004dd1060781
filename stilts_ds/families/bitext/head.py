"""What stands in place of a head: similarity search over sentence vectors, for Tatoeba's neighbours and BUCC's mining.

Both follow the paper's section Retrieval. Legend: H hidden size, N and M sentences of the two sides, k neighbours.
Embeddings are float32.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from stilts_kernels.common.collectives import Collectives, collectives_of
from stilts_kernels.mining.margin import Neighbours
from stilts_kernels.mining.ranks import neighbours_ranks, pairs_of_ranks, topk_ranks
from torch import Tensor

from stilts_ds.errors import UserError, counted

Pair = tuple[str, str]
DRAWS = 200  # resamples of the dev sentences that choose a threshold


@dataclass(frozen=True)
class Place:
    """Where a search is done: the ranks that hold shards of both sides (an mpi4py communicator, a process group, None
    for this process alone), the device of products, and what all ranks call between two steps (it may raise on all).
    """

    comm: Any = None
    device: torch.device = torch.device("cpu")
    between: Callable[[], None] = lambda: None

    @property
    def ranks(self) -> Collectives:
        return collectives_of(self.comm)

    def progress(self, done: int, total: int) -> None:
        self.between()


HERE = Place()


def checked(embeddings: Tensor, name: str, runtime: Place) -> Tensor:
    """This rank's embeddings [n, H], float32. Raises UserError on every rank, naming the first row of the side that is
    not finite or has no direction. A collective."""
    rows = embeddings.to(torch.float32)
    # In float64, where the squares of large float32 components do not overflow.
    lengths = torch.linalg.vector_norm(rows.double(), dim=1)
    bad = torch.nonzero(~(torch.isfinite(lengths) & (lengths > 0)))
    # Every rank learns of every fault and raises: one that went on would wait for the others for ever.
    summary = [len(rows), int(bad[0]) if len(bad) else -1]
    first = 0
    for count, row in runtime.ranks.gather(summary):
        if row >= 0:
            raise UserError(
                f"the embedding of {name} sentence {first + row} is not finite, or zero; use an earlier checkpoint or "
                "float32"
            )
        first += count
    return rows


class NothingLeftError(UserError):
    """A sentence's vector is the mean of its side."""


def centred(embeddings: Tensor, name: str, runtime: Place = HERE) -> Tensor:
    """This rank's embeddings [n, H] less the mean of all ranks' [H]: what all sentences of a side share, such as where
    a language lies, no longer hides what tells them apart. float32; the mean is formed in float64. A collective.

    Raises NothingLeftError on every rank where a sentence is nothing but the mean, as one alone is.
    """
    rows = checked(embeddings, name, runtime)
    shares = runtime.ranks.gather([len(rows), rows.double().sum(0).tolist()])
    count = sum(size for size, _ in shares)
    total = torch.tensor([share for _, share in shares], dtype=torch.float64).sum(0)
    left = (rows.double() - total / max(count, 1)).to(torch.float32)
    # Rounding leaves a few units of the last place where nothing is left.
    length, whole = torch.linalg.vector_norm(left, dim=1), torch.linalg.vector_norm(rows, dim=1)
    if any(runtime.ranks.gather(bool((length <= 1e-6 * whole).any()))):
        raise NothingLeftError(
            f"a {name} sentence is the mean of its side, so that nothing of it is left when that is taken off; give "
            "sides of several different sentences, or leave evaluation.retrieval_centering at none"
        )
    return left


def tatoeba_predict(source: Tensor, pivot: Tensor, runtime: Place = HERE) -> list[int]:
    """For each English (pivot) sentence the index of the nearest non-English (source) one by cosine.

    `source` [N, H] and `pivot` [M, H] are this rank's shares; returns the M indices of all ranks, into the whole
    source side, on every rank. The submission wants them in the order of the English file, which the benchmark sorts
    alphabetically (paper, Retrieval).
    """
    ranks = runtime.ranks
    if not all(sum(sizes) for sizes in zip(*ranks.gather([len(source), len(pivot)]))):
        raise UserError("a side of the bitext has no sentences; check its text files")
    queries, bank = checked(pivot, "pivot", runtime), checked(source, "source", runtime)
    nearest = topk_ranks(queries, bank, 1, ranks, metric="cosine", progress=runtime.progress)
    return [int(i) for i in torch.cat(ranks.gather_rows(nearest.indices[:, 0]))]


# --- BUCC ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EmbeddedSide:
    """One side of a comparable corpus: ids and texts of N sentences, which rank 0 alone needs, and this rank's share of
    their embeddings [n, H]; the ranks' shares follow each other."""

    name: str
    ids: Sequence[str]
    texts: Sequence[str]
    embeddings: Tensor

    def check(self, embedded: int) -> None:
        """Raises UserError for sizes that differ, no sentences, or an id that occurs twice. `embedded`: the embeddings
        of all ranks."""
        if not len(self.ids) == len(self.texts) == embedded or not self.ids:
            sizes = (
                f"{counted(len(self.ids), 'id')}, {counted(len(self.texts), 'text')}, {counted(embedded, 'embedding')}"
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


def bucc_mine(source: EmbeddedSide, target: EmbeddedSide, k: int = 4, runtime: Place = HERE) -> list[Mined]:
    """Mine pairs, best first, on rank 0; [] on the others (paper, Retrieval). A collective.

    Equal texts of a side count as one sentence; `score(x, y) = cos(x, y) / ((mean of x's k + mean of y's k) / 2)` for
    the k nearest neighbours both ways (fewer where a side has fewer), both from one pass over the scores; the best
    candidate of every source and every target are pooled and accepted greedily while neither side is used. Then pairs
    with a text that occurs more than once on its side are dropped (their id is ambiguous), and so are scores that are
    not above 0.
    """
    ranks = runtime.ranks
    first_rows = [0, 0]
    totals = [0, 0]
    for rank, counts in enumerate(ranks.gather([len(source.embeddings), len(target.embeddings)])):
        for number in (0, 1):
            first_rows[number] += counts[number] if rank < ranks.rank else 0
            totals[number] += counts[number]
    kept = []
    for side, total in zip((source, target), totals):
        kept.append(_distinct_on_ranks(side, total, ranks))
        checked(side.embeddings, side.name, runtime)
    x, y = (
        side.embeddings[distinct.within(first, first + len(side.embeddings))]
        for side, distinct, first in zip((source, target), kept, first_rows)
    )
    k = min(k, len(kept[0].rows), len(kept[1].rows))
    pairs = pairs_of_ranks(ranks, *neighbours_both_ways(x, y, k, runtime), "ratio", "max")
    if ranks.rank:
        return []
    mined = []
    source_kept, target_kept = kept
    for i, j, score in zip(pairs.source.tolist(), pairs.target.tolist(), pairs.score.tolist()):
        # Dropped after the matching, not before: an ambiguous sentence still takes its partner from others.
        if score > 0 and source_kept.once[i] and target_kept.once[j]:
            mined.append(Mined(source.ids[source_kept.rows[i]], target.ids[target_kept.rows[j]], score))
    return mined


def _distinct_on_ranks(side: EmbeddedSide, embedded: int, ranks: Collectives) -> Distinct:
    """What rank 0 finds of a side's texts, on every rank. Raises UserError on every rank as `EmbeddedSide.check` does.
    A collective."""
    distinct, problem = Distinct.all(0), ""
    if ranks.rank == 0:
        try:
            side.check(embedded)
            distinct = Distinct.of(side.texts)
        except UserError as error:
            problem = str(error)
    problem = ranks.gather(problem)[0]
    if problem:
        raise UserError(problem)
    # In one tensor, so that rows and marks have one length.
    [sent, *_] = ranks.gather_rows(torch.from_numpy(np.stack([distinct.rows, distinct.once], 1)))
    return Distinct(sent[:, 0].numpy(), sent[:, 1].numpy().astype(bool))


def neighbours_both_ways(
    source: Tensor, target: Tensor, k: int, runtime: Place = HERE, **options: Any
) -> tuple[Neighbours, Neighbours]:
    """The k nearest by cosine of this rank's source [n, H] and target [m, H] rows among all of the other side.

    Raises UserError for rows that have no direction. `options` are those of `neighbours_ranks`. A collective.
    """
    try:
        return neighbours_ranks(
            source, target, k, runtime.ranks, "cosine", device=runtime.device, progress=runtime.progress, **options
        )
    except ValueError as error:
        raise UserError(f"cannot search: {error}") from error


@dataclass(frozen=True)
class Distinct:
    """The first row of each text of a side, ascending, and whether that text occurs once."""

    rows: np.ndarray
    once: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Distinct:
        """White space around a text does not count."""
        return cls.of_digests(text_digests(texts))

    @classmethod
    def of_digests(cls, digests: np.ndarray) -> Distinct:
        """Of texts given by `text_digests`, of all ranks one after the other."""
        _, first, times = np.unique(digests, return_index=True, return_counts=True)
        # np.unique sorts by digest; the search wants the order of the file, by which ties are settled.
        order = np.argsort(first)
        return cls(first[order], times[order] == 1)

    @classmethod
    def all(cls, count: int) -> Distinct:
        """All rows, each for itself."""
        return cls(np.arange(count), np.ones(count, bool))

    def within(self, first: int, stop: int) -> Tensor:
        """The chosen rows of first..stop, counted from `first`."""
        begin, end = np.searchsorted(self.rows, [first, stop])
        return torch.from_numpy(self.rows[begin:end] - first)


def text_digests(texts: Iterable[str]) -> np.ndarray:
    """128 bits of each text, [N] of 16 bytes: what decides whether two texts are equal. Among 10^9 texts, two others
    meet with a chance below 10^-20."""
    hashes = b"".join(hashlib.blake2b(text.strip().encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(hashes, dtype="V16")


def best_threshold(mined: Sequence[Mined], gold: Set[Pair]) -> tuple[float, float]:
    """The score threshold that maximises F1 on dev, and that F1 in percent: keep pairs with `score >= threshold`.

    The threshold lies half-way between the last kept score and the next; the shortest of equally good lists wins.
    Nothing right gives (infinity, 0). Raises UserError without gold pairs.
    """
    if not gold:
        raise UserError("no gold pairs to choose the threshold on; give the dev split's gold file")
    # Sorted here as well, since pairs read from a file may stand in any order.
    ranked = sorted(mined, key=lambda m: -m.score)
    correct, best, threshold = 0, 0.0, float("inf")
    for kept, item in enumerate(ranked, start=1):
        correct += item.pair in gold
        following = ranked[kept].score if kept < len(ranked) else item.score
        f1 = 200 * correct / (kept + len(gold))
        # A threshold cannot part equal scores, so a list may end only where the score falls.
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
    # Seeded by the sentences and not by the run, so that intervals of two conditions can be held against each other.
    rng = np.random.default_rng([len(sources), zlib.crc32(sources[0].encode())])
    thresholds = []
    for _ in range(DRAWS):
        weights = rng.poisson(1.0, len(sources)).astype(float)
        drawn = weights[candidate_rows]
        correct, kept = np.cumsum(drawn * right), np.cumsum(drawn)
        # At least 1 below the line: a draw may leave out every pair, and its F1 is 0.
        f1 = 2 * correct / np.maximum(kept + weights[gold_rows].sum(), 1)
        best = int(np.argmax(np.where(may_end, f1, -1.0)))
        if f1[best] > 0:
            thresholds.append(float((score[best] + following[best]) / 2))
        else:
            thresholds.append(float(score[0]) + 1.0)  # above all scores: nothing right, so nothing is kept
    return thresholds


def f1_at(mined: Sequence[Mined], gold: Set[Pair], thresholds: Sequence[float]) -> list[float]:
    """F1 in percent of the pairs that reach each threshold."""
    ranked = sorted(mined, key=lambda m: -m.score)
    # Negated, because searchsorted wants ascending values.
    scores = -np.array([m.score for m in ranked])
    correct = np.concatenate([[0.0], np.cumsum([m.pair in gold for m in ranked])])
    kept = np.searchsorted(scores, -np.array(thresholds), side="right")
    return (200 * correct[kept] / np.maximum(kept + len(gold), 1)).tolist()


def bucc_predict(mined: Sequence[Mined], threshold: float) -> list[Pair]:
    """The pairs that reach the threshold chosen on dev, in order of their score."""
    return [m.pair for m in mined if m.score >= threshold]
