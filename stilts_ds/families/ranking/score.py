"""Mean average precision of ranked candidates, and how far a ranking prefers the query's own language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from stilts_ds.families.metrics import Metric, Units, percent, ratio_metric
from stilts_ds.families.ranking.record import Wanted
from stilts_ds.tasks.spec import Task

TOP = 20  # XTREME-R's cut-off, of LAReQA and of Mewsli-X


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates of a query, best first, and the ranks of right ones behind them where these are known."""

    best: tuple[str, ...]
    further: Mapping[str, int] = field(default_factory=dict)


def average_precision(right: Sequence[str], ranked: Sequence[str], k: int | None = None) -> float:
    """(sum over hits of hits so far / rank) / min(right candidates, k), from 0 to 1; k None: without a cut-off.

    A candidate that is named twice counts at its first place. Source: XTREME-R, utils_lareqa.py.
    """
    ranks = first_ranks(right, ranked[:k])
    return precision_at(ranks.values(), len(set(right)), k)


def first_ranks(right: Sequence[str], ranked: Sequence[str]) -> dict[str, int]:
    """The rank, from 1, at which each of the right candidates is named first."""
    wanted = set(right)
    ranks: dict[str, int] = {}
    for rank, candidate in enumerate(ranked, start=1):
        if candidate in wanted:
            ranks.setdefault(candidate, rank)
    return ranks


def precision_at(ranks: Iterable[int], right: int, k: int | None = None) -> float:
    """Average precision from the ranks of the right candidates that were ranked at all."""
    hits = [hit / rank for hit, rank in enumerate(sorted(ranks), start=1)]
    return sum(hits) / (right if k is None else min(right, k))


def count(gold: Sequence[Wanted], predicted: Mapping[str, Ranking], language: str) -> Units:
    """Queries with their average precision, cut off and whole, and the language of their first answers.

    Columns: precision_at_20, precision (right candidates that are nowhere in the ranking count 0, as in trec_eval),
    own (of a query's first answers, as many as are right, those in its own language), first, queries. A query that is
    not answered has an average precision of 0.
    """
    rows = []
    for query in gold:
        ranking = predicted.get(query.id, Ranking(()))
        cut = average_precision(query.right, ranking.best, TOP)
        whole = _whole_precision(query.right, ranking)
        # As many as are right: a fair ranking has one answer of each language there.
        first = ranking.best[: len(query.right)]
        in_own_language = sum(candidate.partition("_")[0] == language for candidate in first)
        rows.append((cut, whole, in_own_language, len(first), 1.0))
    names = [query.id for query in gold]
    return Units.of(names, rows, "precision_at_20", "precision", "own", "first", "queries")


def _whole_precision(right: Sequence[str], ranking: Ranking) -> float:
    further = {candidate: rank for candidate, rank in ranking.further.items() if candidate in right}
    ranks = further | first_ranks(right, ranking.best)
    return precision_at(ranks.values(), len(set(right)))


METRICS = {
    metric.name: metric
    for metric in (
        ratio_metric("map_at_20", count, "precision_at_20", "queries", percent),
        ratio_metric("map", count, "precision", "queries", percent),
        # Diagnostic: 1 in as many as there are languages would be fair, and neither 0 nor 100 is good.
        ratio_metric("own_language", count, "own", "first", percent, diagnostic=True),
    )
}


def metrics(task: Task) -> Mapping[str, Metric]:
    return METRICS


def drawing_units(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Languages that ask the same questions are drawn together, under the first one's code."""
    first: dict[frozenset[str], str] = {}
    return {language: first.setdefault(frozenset(ids), language) for language, ids in sorted(names.items())}
