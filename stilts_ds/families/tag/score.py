"""Chunk F1 as seqeval 0.0.12 counts it (POS and PAN-X; paper, Scoring), and accuracy over words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stilts_ds.families.metrics import Metric, Units, check_same_length, f1_metrics, ratio_metric
from stilts_ds.tasks.spec import Task

Chunk = tuple[str, int, int]


def chunks(tags: Sequence[str]) -> set[Chunk]:
    """Chunks of one sentence as (type, first word, last word), as seqeval 0.0.12 finds them.

    A tag's first letter is its position in the chunk (B I E S, O for none) and its type is what follows the last
    hyphen. A tag without a hyphen is its own type, so runs of one part of speech form one chunk; yet tags that begin
    with S (SYM, SCONJ) still read as single-word chunks. `I-X` without a `B-X` before it opens a chunk.
    """
    spans: set[Chunk] = set()
    before, start = ("O", ""), 0
    # An O behind the last word ends the chunk that reaches it.
    for i, tag in enumerate([*tags, "O"]):
        now = (tag[0], tag.rsplit("-", 1)[-1])
        if _ends(before, now):
            spans.add((before[1], start, i - 1))
        if _starts(before, now):
            start = i
        before = now
    return spans


def _ends(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether a chunk that holds the word before does not reach the word now."""
    if before[0] in "ES" or (before[0] in "BI" and now[0] in "BSO"):
        return True
    return before[0] not in "O." and before[1] != now[1]


def _starts(before: tuple[str, str], now: tuple[str, str]) -> bool:
    """Whether the word now is the first of a chunk."""
    if now[0] in "BS" or (now[0] in "EI" and before[0] in "ESO"):
        return True
    return now[0] not in "O." and before[1] != now[1]


def count_chunks(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], language: str) -> Units:
    """Chunks of each sentence: columns correct, predicted and gold.

    Raises ValueError where a sentence has a different number of tags.
    """
    check_same_length(gold, predicted)
    rows = []
    for gold_tags, predicted_tags in zip(gold, predicted):
        check_same_length(gold_tags, predicted_tags)
        gold_chunks, predicted_chunks = chunks(gold_tags), chunks(predicted_tags)
        rows.append((len(gold_chunks & predicted_chunks), len(predicted_chunks), len(gold_chunks)))
    return Units.numbered(rows, "correct", "predicted", "gold")


def count_words(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], language: str) -> Units:
    """Words of each sentence: columns right and words."""
    check_same_length(gold, predicted)
    rows = []
    for gold_tags, predicted_tags in zip(gold, predicted):
        check_same_length(gold_tags, predicted_tags)
        right = sum(g == p for g, p in zip(gold_tags, predicted_tags))
        rows.append((right, len(gold_tags)))
    return Units.numbered(rows, "right", "words")


METRICS = {
    **f1_metrics(count_chunks),
    # One count by two names: beside chunks it is a share of tokens, and CCG has no chunks.
    "token_accuracy": ratio_metric("token_accuracy", count_words, "right", "words"),
    "accuracy": ratio_metric("accuracy", count_words, "right", "words"),
}


def metrics(task: Task) -> Mapping[str, Metric]:
    """`f1`, `precision` and `recall` of chunks; `token_accuracy` beside them, or `accuracy` as a score of its own."""
    return METRICS
