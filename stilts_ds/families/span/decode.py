"""Answers from start and end logits: the best span over all windows of a question, with or without "no answer".

Every pair of tokens is considered, so the result is exact. Spans are character ranges of the untouched context; only
white space at their ends is trimmed. Each window is read for itself, by whichever rank has its logits; its best span is
compared with those of the question's other windows. Legend: L tokens of a window, N questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stilts_ds.errors import UserError
from stilts_ds.families.span.record import Span
from stilts_ds.families.span.score import answer_scores, normalise_english

Floats = NDArray[np.floating]
Window = tuple[Floats, Floats, NDArray[np.integer]]
Scored = tuple[int, int, float]  # start, end, score


class Best(NamedTuple):
    """The best span of a context: `text == context[start:end]` (characters) and the sum of its two logits."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """The chosen answer ("" for none), the best span (None where the context has no text) and the score of "no
    answer"."""

    answer: str
    best: Best | None
    null_score: float

    @property
    def null_margin(self) -> float:
        """By how much "no answer" beats the best span (infinite without one)."""
        return self.null_score - self.best.score if self.best else float("inf")


def best_span(context: str, window: Window, max_answer_length: int, number: int) -> Floats:
    """The score of "no answer" and the best span of a window: float64 [2, 3] of start, end and score, in the first row
    (-1, -1, score of "no answer"); [1, 3] where the window has no text.

    A window is (start logits [L], end logits [L], offsets [L, 2]): each token's character range in `context`, (-1, -1)
    for tokens outside it. Position 0 is `<s>`; its two logits add up to the score of "no answer". `max_answer_length`
    is in tokens. Equal scores go to the earlier, then the shorter span. `number` names the window in errors.
    Raises UserError for logits that are NaN or +infinite.
    """
    start, end, _ = window
    _check_logits(number, start, end)
    no_answer = (-1, -1, float(start[0]) + float(end[0]))
    return np.array([no_answer, *_first(_best_spans(context, window, max_answer_length))], np.float64)


def join_windows(context: str, windows: Sequence[Floats], null_threshold: float | None = None) -> Decoded:
    """The best answer to one question from the best spans of its windows (`best_span`).

    The lowest score of "no answer" counts, as in SQuAD 2.0. With `null_threshold`, the answer is empty where
    `null_margin` exceeds it; without, never, unless the context has no text at all. Raises UserError for a question
    without windows.
    """
    if not windows:
        raise UserError("a question has no windows; encode the task again")
    spans = [(int(start), int(end), score) for window in windows for start, end, score in window[1:].tolist()]
    best = next((Best(context[start:end], start, end, score) for start, end, score in _first(spans)), None)
    decoded = Decoded(best.text if best else "", best, min(float(window[0, 2]) for window in windows))
    if null_threshold is None or decoded.null_margin <= null_threshold:
        return decoded
    return Decoded("", best, decoded.null_score)


def _first(spans: Sequence[Scored]) -> list[Scored]:
    """The best of the spans, in a list; none of none."""
    # Ties go to the earlier span on every machine, so that files of predictions are equal to the byte.
    return sorted(spans, key=lambda span: (-span[2], span[:2]))[:1]


def _check_logits(number: int, start: Floats, end: Floats) -> None:
    for name, logits in (("start", start), ("end", end)):
        # Also true of NaN, with which every comparison is false; -infinite is how a token is ruled out.
        bad = ~(logits < np.inf)
        if bad.any():
            at = int(np.argmax(bad))
            remedy = "the model has diverged; use an earlier checkpoint"
            raise UserError(f"window {number}: the {name} logit of token {at} is {logits[at]}; {remedy}")


def _best_spans(context: str, window: Window, longest: int) -> list[Scored]:
    """Trimmed spans of a window, among them its best one and all that equal it; none where it has no text."""
    inside = window[2][:, 0] >= 0
    start, end = (np.asarray(w, dtype=np.float64)[inside] for w in window[:2])
    offsets = window[2][inside]
    if not len(start):
        return []
    scores = _pair_scores(start, end, min(longest, len(start)))
    # Pairs of white space trim to nothing, so more are looked at until a text is among them.
    wanted = 1
    while True:
        spans = _trimmed(context, scores, offsets, wanted)
        if spans or wanted >= scores.size:
            return spans
        wanted *= 8


def _pair_scores(start: Floats, end: Floats, longest: int) -> Floats:
    """[L, longest] scores of the spans from token i to token i + j; -inf past the last token."""
    # A view of the end logits shifted by 0 ... longest - 1: L x longest sums instead of L x L.
    padded = np.concatenate([end, np.full(longest - 1, -np.inf)])
    return start[:, None] + np.lib.stride_tricks.sliding_window_view(padded, longest)


def _trimmed(context: str, scores: Floats, offsets: NDArray[np.integer], wanted: int) -> list[Scored]:
    """Trimmed spans with text among the `wanted` best scores (and all equal to the last of them)."""
    flat = scores.ravel()
    if wanted < flat.size:
        # All that equal the last one stay in: which of them a partition would keep is not defined.
        lowest = np.partition(flat, flat.size - wanted)[flat.size - wanted]
        chosen = np.flatnonzero((flat >= lowest) & (flat > -np.inf))
    else:
        chosen = np.flatnonzero(flat > -np.inf)
    first, length = np.divmod(chosen, scores.shape[1])
    pairs = zip(offsets[first, 0].tolist(), offsets[first + length, 1].tolist(), flat[chosen].tolist())
    spans = [(*_trim(context, start, end), score) for start, end, score in pairs]
    return [span for span in spans if span[0] < span[1]]


def _trim(context: str, start: int, end: int) -> tuple[int, int]:
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


def best_null_threshold(gold: Sequence[Span], decoded: Mapping[str, Decoded]) -> tuple[float, float]:
    """The `null_threshold` that gives the highest F1 on labelled questions, and that F1 in percent.

    `decoded` maps question ids to `join_windows` results. Of equally good thresholds the one with the fewest empty
    answers is taken. Raises UserError when a question is not decoded.
    """
    missing = [q.id for q in gold if q.id not in decoded]
    if missing or not gold:
        raise UserError(f"no decoded answer for question {missing[0] if missing else '(none)'!r}; predict all of dev")
    answered, unanswered = np.zeros(len(gold)), np.zeros(len(gold))
    for i, question in enumerate(gold):
        texts, best = [a.text for a in question.answers], decoded[question.id].best
        text = best.text if best else ""
        answered[i] = answer_scores(texts, text, normalise_english, no_answer=True)[1]
        unanswered[i] = answer_scores(texts, "", normalise_english, no_answer=True)[1]
    return sweep_threshold(np.array([decoded[q.id].null_margin for q in gold]), answered, unanswered)


def sweep_threshold(margins: Floats, answered: Floats, unanswered: Floats) -> tuple[float, float]:
    """Threshold and mean score in percent for the best rule "empty answer if margin > threshold"; all inputs [N].

    Thresholds lie half-way between neighbouring margins, or 1 beyond the lowest and highest.
    """
    order = np.argsort(margins, kind="stable")
    margins, gain = margins[order], (answered - unanswered)[order]
    totals = unanswered.sum() + np.concatenate([[0.0], np.cumsum(gain)])
    # Questions of one margin stand on one side of any threshold: only where it changes can one lie.
    edges = np.flatnonzero(np.concatenate([[True], margins[1:] > margins[:-1], [True]]))
    # From the end: of equal totals the one that keeps most answers.
    best = int(edges[::-1][np.argmax(totals[edges][::-1])])
    return _between(margins[margins < np.inf], best), 100 * float(totals[best]) / len(margins)


def _between(margins: Floats, count: int) -> float:
    """A threshold that keeps the `count` lowest of the sorted margins (without the infinite ones, never kept)."""
    if not margins.size:
        return 0.0
    if count == 0:
        return float(margins[0]) - 1
    if count >= len(margins):
        return float(margins[-1]) + 1
    low, high = float(margins[count - 1]), float(margins[count])
    middle = (low + high) / 2
    # Between neighbouring floats there is no middle: it rounds to one of them, and only `low` divides them.
    return middle if middle < high else low
