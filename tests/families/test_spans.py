"""Span decoding against brute force over all pairs of tokens, and the cases that go wrong elsewhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stilts_ds.errors import UserError
from stilts_ds.families.span.decode import Decoded, best_null_threshold, best_span, join_windows, sweep_threshold
from stilts_ds.families.span.record import Answer, Span


def brute_force(context: str, windows: list[Any], longest: int) -> tuple[int, int, float] | None:
    best: dict[tuple[int, int], float] = {}
    for start, end, offsets in windows:
        for i in range(len(start)):
            for j in range(i, min(i + longest, len(start))):
                if offsets[i][0] < 0 or offsets[j][0] < 0:
                    continue
                text = context[offsets[i][0] : offsets[j][1]]
                a = offsets[i][0] + len(text) - len(text.lstrip())
                b = a + len(text.strip())
                if a < b:
                    best[a, b] = max(best.get((a, b), -np.inf), float(start[i]) + float(end[j]))
    ranked = sorted((-score, a, b) for (a, b), score in best.items())
    return next(((a, b, -score) for score, a, b in ranked), None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, list[Any]]:
    context = draw(st.text(alphabet="ab 文ก\u200fאبx\u00a0", min_size=1, max_size=14))
    cuts = sorted(draw(st.sets(st.integers(0, len(context)), max_size=9)) | {0, len(context)})
    tokens = list(zip(cuts, cuts[1:]))
    if draw(st.booleans()):
        tokens.insert(draw(st.integers(0, len(tokens) - 1)), tokens[0])
        tokens.sort()
    windows = []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(tokens)))
        part = tokens[first : first + draw(st.integers(0, 6))]
        offsets = np.array([(-1, -1)] * 3 + part + [(-1, -1)])
        logits = st.lists(st.integers(-6, 6), min_size=len(offsets), max_size=len(offsets))
        windows.append((np.array(draw(logits), float), np.array(draw(logits), float), offsets))
    return context, windows


def decode_spans(
    context: str,
    windows: list[Any],
    max_answer_length: int = 30,
    null_threshold: float | None = None,
) -> Decoded:
    """Windows that are read one by one, as ranks do, and then joined."""
    spans = [best_span(context, window, max_answer_length, number) for number, window in enumerate(windows)]
    assert all(len(of_window) <= 2 for of_window in spans)
    return join_windows(context, spans, null_threshold)


@settings(max_examples=400, deadline=None)
@given(cases(), st.integers(1, 4))
def test_decoding_equals_brute_force(case: tuple[str, list[Any]], longest: int) -> None:
    context, windows = case
    decoded, best = decode_spans(context, windows, longest), brute_force(context, windows, longest)
    assert (decoded.best and decoded.best[1:]) == best
    assert decoded.answer == (context[slice(*best[:2])] if best else "") == decoded.answer.strip()
    assert decoded.null_score == min(start[0] + end[0] for start, end, _ in windows)


def window(scores: dict[int, tuple[float, float]], offsets: list[tuple[int, int]], null: float = 0.0) -> Any:
    size = len(offsets) + 2
    start, end = np.full(size, -9.0, np.float32), np.full(size, -9.0, np.float32)
    start[0] = end[0] = null / 2
    for token, (s, e) in scores.items():
        start[token + 1], end[token + 1] = s, e
    return start, end, np.array([(-1, -1), *offsets, (-1, -1)])


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


@pytest.mark.parametrize("context, answer", [("北京是首都。", "首都"), ("ประเทศไทย", "ไทย"), ("העיר היא חיפה", "חיפה")])
def test_text_without_spaces_and_right_to_left(context: str, answer: str) -> None:
    at = context.index(answer)
    logits = {at: (5.0, 0.0), at + len(answer) - 1: (0.0, 5.0)}
    assert decode_spans(context, [window(logits, characters(context))]).answer == answer


def test_best_score_over_overlapping_windows() -> None:
    offsets = characters("abcdef")
    low, high = window({2: (1.0, 1.0)}, offsets[:4]), window({0: (3.0, 3.0), 1: (1.0, 1.0)}, offsets[2:])
    best = decode_spans("abcdef", [low, high]).best
    assert best and (best.text, best.score) == ("c", 6.0)


def test_only_white_space_at_the_ends_is_trimmed() -> None:
    context = "say  “ a  b ”  now"
    assert decode_spans(context, [window({0: (2.0, 2.0)}, [(3, 15)])]).answer == "“ a  b ”"


def test_length_is_limited_in_tokens() -> None:
    logits = {0: (5.0, -9.0), 3: (-9.0, 5.0), 1: (1.0, 1.0)}
    assert decode_spans("abcd", [window(logits, characters("abcd"))], max_answer_length=4).answer == "abcd"
    assert decode_spans("abcd", [window(logits, characters("abcd"))], max_answer_length=3).answer == "ab"


def test_null_threshold() -> None:
    windows = [window({0: (1.0, 1.0)}, [(0, 2)], null=5.0), window({0: (0.0, 0.0)}, [(0, 2)], null=3.0)]
    decoded = decode_spans("ab", windows)
    assert decoded.answer == "ab" and decoded.null_score == 3.0 and decoded.null_margin == 1.0
    assert decode_spans("ab", windows, null_threshold=1.0).answer == "ab"
    nothing = decode_spans("ab", windows, null_threshold=0.5)
    assert nothing.answer == "" and nothing.best and nothing.best.text == "ab"


def test_context_without_tokens_has_no_answer() -> None:
    decoded = decode_spans(" ", [window({}, [])])
    assert decoded.answer == "" and decoded.best is None and decoded.null_margin == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_logits_are_refused(bad: float) -> None:
    start, end, offsets = window({0: (1.0, 1.0)}, [(0, 1)])
    end[1] = bad
    with pytest.raises(UserError, match=f"window 0: the end logit of token 1 is {bad}"):
        decode_spans("a", [(start, end, offsets)])
    with pytest.raises(UserError, match="no windows"):
        decode_spans("a", [])


def decoded(text: str, margin: float) -> Decoded:
    start, end, offsets = window({0: (0.0, 0.0)}, [(0, len(text))], null=margin)
    return decode_spans(text, [(start, end, offsets)])


def test_best_null_threshold() -> None:
    gold = [
        Span("a", "?", "c", (Answer("x", 0),)),
        Span("b", "?", "c", (Answer("y", 0),)),
        Span("c", "?", "c", (), impossible=True),
    ]
    found = {"a": decoded("x", -4.0), "b": decoded("y", 1.0), "c": decoded("z", 3.0)}
    assert best_null_threshold(gold, found) == (2.0, 100.0)
    with pytest.raises(UserError, match="question 'c'"):
        best_null_threshold(gold, {"a": found["a"], "b": found["b"]})


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_threshold_sweep_equals_brute_force(rows: list[tuple[int, int, int]]) -> None:
    margins, answered, unanswered = (np.array(column, float) for column in zip(*rows))
    threshold, best = sweep_threshold(margins, answered, unanswered)

    def mean(at: float) -> float:
        return 100 * float(np.where(margins > at, unanswered, answered).mean())

    assert best == pytest.approx(max(mean(t) for t in np.arange(-4.5, 4.5, 0.5)))
    assert mean(threshold) == pytest.approx(best)
