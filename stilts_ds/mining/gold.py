"""Gold pairs: precision, recall and F1 of what was mined, and the threshold that a dev part of them chooses."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from stilts_ds.errors import UserError, counted
from stilts_ds.families.bitext.gold import read_gold as read_pairs
from stilts_ds.families.bitext.head import Mined, Pair, best_threshold, bucc_predict
from stilts_ds.families.bitext.score import METRICS
from stilts_ds.families.metrics import scores_of

SCORES = ("precision", "recall", "f1")
STEPS = 1000  # a source sentence is of the dev part where its hash, in so many steps, lies below the share


@dataclass(frozen=True)
class Scores:
    """Precision, recall and F1 in percent of the pairs of some source sentences."""

    precision: float
    recall: float
    f1: float
    gold: int
    mined: int


@dataclass(frozen=True)
class Judgement:
    """`threshold`, chosen on the `dev` part or given (`dev` is then None), and the scores of the other sentences.
    Where the dev part is all of the gold, these are the scores on the sentences that chose."""

    threshold: float
    dev: Scores | None
    scores: Scores


def read_gold(path: Path, sources: Sequence[str], targets: Sequence[str]) -> list[Pair]:
    """Gold pairs `source id TAB target id`, read as BUCC's are. Raises UserError with file and line for a line that is
    none, a repeated pair, an id that names no sentence, and more pairs than the smaller side has sentences."""
    pairs = read_pairs(path, set(sources), set(targets), "target")
    lines: dict[Pair, int] = {}
    for number, pair in enumerate(pairs, start=1):
        # Scores count a pair once, so a repeated one would hide how many there are.
        if pair in lines:
            raise UserError(f"{path}:{number}: repeats the pair of line {lines[pair]}; write each pair once")
        lines[pair] = number
    # A sentence may have several translations, but more pairs than sentences are the gold of other texts.
    most = min(len(sources), len(targets))
    if len(pairs) > most:
        raise UserError(
            f"{path}:{most + 1}: {counted(len(pairs), 'gold pair')} for {counted(most, 'sentence')} of the smaller "
            "side; give the gold of these texts"
        )
    return pairs


def judge(mined: Sequence[Mined], gold: Collection[Pair], dev_part: float, threshold: float | None) -> Judgement:
    """Score mined pairs against gold ones.

    Without a `threshold` the best one for the dev part is chosen: the share `dev_part` of the source sentences, drawn
    by a hash of their ids. 1: all of them choose, and all are scored. Raises UserError where a part has no gold pair.
    """
    if threshold is not None:
        return Judgement(threshold, None, _scores(mined, gold, threshold))
    dev_mined, other_mined = _divided(mined, dev_part)
    # Gold pairs have no score; `_divided` asks for none.
    dev_gold, other_gold = _divided([Mined(*pair, 0.0) for pair in gold], dev_part)
    dev_pairs, other_pairs = {item.pair for item in dev_gold}, {item.pair for item in other_gold}
    if not dev_pairs or (dev_part < 1 and not other_pairs):
        raise UserError(
            f"{counted(len(gold), 'gold pair')} cannot be divided into a dev part of {dev_part:g} and the rest; give "
            "more gold pairs, another dev part, or a threshold"
        )
    chosen, _ = best_threshold(dev_mined, dev_pairs)
    dev = _scores(dev_mined, dev_pairs, chosen)
    return Judgement(chosen, dev, dev if dev_part >= 1 else _scores(other_mined, other_pairs, chosen))


def _divided(items: Sequence[Mined], share: float) -> tuple[list[Mined], list[Mined]]:
    dev: list[Mined] = []
    others: list[Mined] = []
    for item in items:
        # By the source's id, so that a sentence's gold pair and its mined pairs are on the same side.
        step = zlib.crc32(item.source.encode()) % STEPS
        (dev if step < share * STEPS else others).append(item)
    return dev, others


def _scores(mined: Sequence[Mined], gold: Collection[Pair], threshold: float) -> Scores:
    predicted = bucc_predict(mined, threshold)
    values = scores_of([METRICS[name] for name in SCORES], list(gold), predicted, "")
    return Scores(values["precision"], values["recall"], values["f1"], len(gold), len(predicted))
