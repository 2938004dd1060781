"""Question answering: windows of question and context, cut out of a context longer than a row.

The questions of a paragraph stand together in the files, so each context is tokenised once for all of them; windows
are then cut out of its tokens. With `doc_stride`, ids and characters are those of a fast Hugging Face tokenizer called
with `truncation="only_second"`, `stride` and `return_overflowing_tokens`, except that an over-long question is cut
here. With `window_step`, windows start where those of transformers' SQuAD processing do, which jiant and XTREME copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError, counted
from stilts_ds.families.base import ItemTargets, Masking
from stilts_ds.families.span.record import Span
from stilts_ds.rows.chunks import chunks
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.slices import Slices, lay_out, spread
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.rows.writer import RowsWriter


def encode_span(
    records: Iterable[Span],
    tokenizer: Tokenizer,
    labels: Sequence[str],
    setting: TrainingPart,
    folder: Path | None = None,
) -> Rows:
    """Windows of question and context. A window that lacks the first gold answer points at position 0."""
    out = RowsWriter(folder, "span", "place")
    contexts = Contexts(tokenizer)
    for index, chunk in chunks(records):
        questions = tokenizer.slices([r.question for r in chunk])
        long = int(np.count_nonzero(questions.length > setting.max_query_length))
        if long:
            # Told once a data set: what of a question is lost cannot be seen in the scores.
            out.tally["questions cut to max_query_length"] += long
        which = contexts.prepare([r.context for r in chunk])
        cut = questions.up_to(setting.max_query_length)
        _append_windows(out, tokenizer, cut, contexts, which, chunk, index, setting)
    return out.rows()


class Contexts:
    """The tokens and characters of the contexts of a chunk; those that the next chunk needs again are kept."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.number: dict[str, int] = {}
        self.tokens = Slices.of([])
        self.offsets = np.zeros((0, 2), np.int32)

    def prepare(self, texts: Sequence[str]) -> np.ndarray:
        """The number of each text's context; only texts that the last chunk had not are tokenised."""
        unique = dict.fromkeys(texts)
        # Questions of one context follow each other, so the last context of a chunk often is the next one's first.
        old = [text for text in unique if text in self.number]
        new = [text for text in unique if text not in self.number]
        kept = self.tokens.take(np.array([self.number[text] for text in old], np.int64))
        tokens, offsets = self.tokenizer.ids_and_offsets(new)
        self.offsets = np.concatenate([self.offsets[kept.positions], offsets])
        length = np.concatenate([kept.length, tokens.length])
        # The kept tokens are packed in front, and the new ones begin behind them.
        first = np.concatenate([np.cumsum(kept.length) - kept.length, tokens.first + int(kept.length.sum())])
        self.tokens = Slices(np.concatenate([kept.flat[kept.positions], tokens.flat]), first, length)
        self.number = {text: i for i, text in enumerate([*old, *new])}
        return np.fromiter((self.number[text] for text in texts), np.int64, len(texts))


@dataclass(frozen=True)
class Cut:
    """Where windows are cut: the question each belongs to, and its first and last + 1 token in the context, [R]."""

    question: np.ndarray
    begin: np.ndarray
    end: np.ndarray


def window_steps(room: np.ndarray, setting: TrainingPart) -> np.ndarray:
    """Context tokens from one window's start to the next, [N], where windows have `room` [N] for the context."""
    if setting.window_step is None:
        return room - setting.doc_stride
    return np.full_like(room, setting.window_step)


def cut_windows(length: np.ndarray, room: np.ndarray, step: np.ndarray) -> Cut:
    """Windows over contexts of `length` [N] tokens with `room` [N] for them, one every `step` [N] tokens.

    The last window is the first that reaches the end. There is always one window; `step` must be at least 1 and at
    most `room` where the context does not fit into one, so that no token falls between two windows.
    """
    # Of a context that fits, the step does not matter; it may then be any number.
    step = np.maximum(step, 1)
    count = np.where(length > room, 1 - (room - length) // step, 1)
    question = np.repeat(np.arange(len(length)), count)
    begin = step[question] * (np.arange(len(question)) - np.repeat(np.cumsum(count) - count, count))
    return Cut(question, begin, np.minimum(begin + room[question], length[question]))


def _append_windows(
    out: RowsWriter,
    tokenizer: Tokenizer,
    questions: Slices,
    contexts: Contexts,
    which: np.ndarray,
    records: Sequence[Span],
    index: int,
    setting: TrainingPart,
) -> None:
    template = tokenizer.template
    tokens = contexts.tokens.take(which)
    room = setting.max_seq_length - template.pair_cost - questions.length
    _check_room(records, room, tokens.length, setting)
    cut = cut_windows(tokens.length, room, window_steps(room, setting))
    parts = tokens.take(cut.question).part(cut.begin, cut.end - cut.begin)
    heads = questions.take(cut.question)
    laid = lay_out([template.prefix, heads, template.middle, parts, template.suffix], len(cut.question))
    second = laid.inside(3)
    # Only context tokens have a place in the text: an answer cannot begin in the question or a special token.
    characters = np.full((len(laid.ids), 2), -1, np.int32)
    characters[spread(laid.begins[3], parts.length)] = contexts.offsets[parts.positions]
    answers = _answer_tokens(records, tokens, contexts.offsets)[cut.question]
    inside = (answers[:, 0] >= cut.begin) & (answers[:, 1] < cut.end)
    # A window that has not all of the answer points at position 0, as one without an answer does (BERT's SQuAD).
    span = np.where(inside[:, None], answers + (second - cut.begin)[:, None], 0)
    out.append(laid.ids, laid.lengths, second, index + cut.question, span=span, place=characters)


def _check_room(records: Sequence[Span], room: np.ndarray, length: np.ndarray, setting: TrainingPart) -> None:
    """No token of a context may be lost. Room depends on the question's length, so a question is named.

    transformers' SQuAD processing skips the tokens between a window's end and a later start, and does not say so.
    """
    if setting.window_step is None:
        key, too_little, least = "doc_stride", "not more", setting.doc_stride + 1
    else:
        key, too_little, least = "window_step", "fewer", setting.window_step
    for i in np.flatnonzero((room < least) & (length > room)).tolist():
        raise UserError(
            f"question {records[i].id}: {counted(room[i], 'token')} are left for the context, {too_little} than {key}="
            f"{getattr(setting, key)}; raise max_seq_length or lower {key} or max_query_length"
        )


def _answer_tokens(records: Sequence[Span], tokens: Slices, offsets: np.ndarray) -> np.ndarray:
    """First and last context token of the first gold answer of each question, [N, 2]; -1 where there is none."""
    bounds = np.full((len(records), 2), -1)
    for i, record in enumerate(records):
        if record.impossible or not record.answers or not tokens.length[i]:
            continue
        answer = record.answers[0]
        token_offsets = offsets[tokens.first[i] : tokens.first[i] + tokens.length[i]]
        # White space at its end belongs to no token.
        answer_end = answer.start + len(answer.text.rstrip())
        # The first token that ends behind the answer's start, and the last one that starts before its end.
        reaching = np.flatnonzero(token_offsets[:, 1] > answer.start)
        starting = np.flatnonzero(token_offsets[:, 0] < answer_end)
        if len(reaching) and len(starting) and reaching[0] <= starting[-1]:
            bounds[i] = reaching[0], starting[-1]
    return bounds


def targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """Every token of the window is read; gold is the answer's first and last token inside it."""
    assert rows.span is not None
    row = int(rows.items[item])
    length = int(rows.starts[row + 1] - rows.starts[row])
    return ItemTargets(np.arange(starts[0], starts[0] + length), rows.span[row : row + 1])


def left_targets(rows: Rows, item: int, starts: Sequence[int], ids: np.ndarray, masking: Masking) -> ItemTargets:
    """The same where a model reads from left to right. A window's first and last token change places.

    "No answer" is what the window's first place says, and the first token has not seen the window; the last one has.
    Neither is a token of the context.
    """
    window = targets(rows, item, starts, ids, masking)
    tokens = window.tokens.copy()
    tokens[[0, -1]] = tokens[[-1, 0]]
    return ItemTargets(tokens, window.gold)


def head_parameters(hidden: int, labels: int, vocabulary: int, embedding: int) -> int:
    """A projection to two scores, with biases."""
    return 2 * hidden + 2
