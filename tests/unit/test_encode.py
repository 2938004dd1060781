"""Records to rows: exact tokens, no context token and no word lost, windows as Hugging Face cuts them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pieces
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError
from stilts_ds.families.bitext.record import Sentence
from stilts_ds.families.bitext.rows import encode_bitext
from stilts_ds.families.choice.record import Choice
from stilts_ds.families.choice.rows import encode_choice
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.pair.rows import encode_pair
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.span.rows import cut_windows, encode_span
from stilts_ds.families.tag.predictions import rejoin
from stilts_ds.families.tag.record import Tagged
from stilts_ds.families.tag.rows import encode_tag
from stilts_ds.families.text.record import Text
from stilts_ds.families.text.rows import encode_text
from stilts_ds.rows.chunks import CHUNK
from stilts_ds.rows.layout import pair_cuts
from stilts_ds.rows.rows import Rows
from stilts_ds.rows.tokenizer import Tokenizer, TokenTemplate

XLMR = Tokenizer(pieces.xlmr_tokenizer(), "xlmr")
BERT = Tokenizer(pieces.bert_tokenizer(), "bert")
WORD = st.text(alphabet="abcdehnostéß", min_size=1, max_size=9)
QUICK = hypothesis_settings(max_examples=80, deadline=None)


def tokens(rows: Rows, row: int, encoder: Tokenizer = XLMR) -> str:
    ids = rows.input_ids[rows.starts[row] : rows.starts[row + 1]].tolist()
    return " ".join(encoder.tokenizer.convert_ids_to_tokens(ids))


def setting(**values: Any) -> TrainingPart:
    return TrainingPart(**values)


def test_templates_are_read_off_the_tokenizer() -> None:
    assert XLMR.template == TokenTemplate((0,), (2, 2), (2,), (2,))
    assert BERT.template == TokenTemplate((4,), (5,), (5,), (5,))
    assert (XLMR.template.pair_cost, BERT.template.pair_cost, BERT.template.single_cost) == (4, 3, 2)


def test_a_pair_is_one_row_with_its_label() -> None:
    records = [Pair("1", "the cat", "the dog", "yes"), Pair("2", "on", "sat", None)]
    rows = encode_pair(records, XLMR, ("no", "yes"), setting())
    assert tokens(rows, 0) == "<s> ▁the ▁cat </s> </s> ▁the ▁dog </s>"
    assert tokens(rows, 1) == "<s> ▁on </s> </s> ▁sat </s>"
    assert rows.label is not None and rows.label.tolist() == [1, -1]
    assert rows.second.tolist() == [5, 4] and rows.items.tolist() == [0, 1, 2] and rows.example.tolist() == [0, 1]


def test_a_bert_pair_has_its_own_template_and_segments() -> None:
    rows = encode_pair([Pair("1", "the cats", "on mat", "a")], BERT, ("a",), setting())
    assert tokens(rows, 0, BERT) == "[CLS] the cat ##s [SEP] on mat [SEP]"
    assert rows.second.tolist() == [5]


@pytest.mark.parametrize("make, encoder", [(pieces.xlmr_tokenizer, XLMR), (pieces.bert_tokenizer, BERT)])
def test_pairs_equal_the_tokenizers_own_pairs(make: Any, encoder: Tokenizer) -> None:
    a, b = "the cat sat on the mat.", "a zebra? the dogs"
    rows = encode_pair([Pair("1", a, b, "x")], encoder, ("x",), setting())
    theirs = make()(a, b)
    assert rows.input_ids.tolist() == theirs["input_ids"]
    if "token_type_ids" in theirs:
        types = theirs["token_type_ids"]
        assert types.index(1) == rows.second[0]


def test_a_pair_that_is_too_long_loses_the_front_of_its_longer_part() -> None:
    rows = encode_pair([Pair("1", "the cat sat on the mat", "the dog", "a")], XLMR, ("a",), setting(max_seq_length=9))
    assert tokens(rows, 0) == "<s> ▁on ▁the ▁mat </s> </s> ▁the ▁dog </s>"
    assert rows.tally["rows cut to max_seq_length"] == 1


def test_a_pair_that_is_too_long_loses_the_end_of_its_longer_part_where_that_is_asked() -> None:
    values = setting(max_seq_length=9, pair_truncation_side="right")
    records = [Pair("1", "the cat sat on the mat", "the dog", "a"), Pair("2", "the dog", "the cat sat on the mat", "a"),
               Pair("3", "the cat sat on", "the dog sat on", "a"), Pair("4", "the cat", "the dog on", "a")]  # fmt: skip
    rows = encode_pair(records, XLMR, ("a",), values)
    assert [tokens(rows, r) for r in range(4)] == [
        "<s> ▁the ▁cat ▁sat </s> </s> ▁the ▁dog </s>",
        "<s> ▁the ▁dog </s> </s> ▁the ▁cat ▁sat </s>",
        "<s> ▁the ▁cat </s> </s> ▁the ▁dog ▁sat </s>",
        "<s> ▁the ▁cat </s> </s> ▁the ▁dog ▁on </s>",
    ]
    assert rows.second.tolist() == [6, 5, 5, 5] and rows.tally["rows cut to max_seq_length"] == 3


def test_a_choice_that_is_too_long_loses_its_front_also_where_pairs_lose_their_end() -> None:
    values = setting(max_seq_length=9, pair_truncation_side="right")
    rows = encode_choice([Choice("1", "the cat sat on the mat", ("the dog", "on"), 0)], XLMR, (), values)
    assert tokens(rows, 0) == "<s> ▁on ▁the ▁mat </s> </s> ▁the ▁dog </s>"
    assert tokens(rows, 1) == "<s> ▁sat ▁on ▁the ▁mat </s> </s> ▁on </s>"


def test_an_unknown_label_is_named_with_its_example() -> None:
    with pytest.raises(UserError, match="example 7: unknown label 'maybe'; known: no, yes"):
        encode_pair([Pair("7", "a", "b", "maybe")], XLMR, ("no", "yes"), setting())


def one_by_one(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    a, b = list(a), list(b)
    while len(a) + len(b) > room:
        (a if len(a) >= len(b) else b).pop(0)
    return a, b


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
@QUICK
def test_cutting_pairs_equals_dropping_one_token_at_a_time(n_a: int, n_b: int, room: int) -> None:
    a, b = list(range(n_a)), list(range(100, 100 + n_b))
    cut_a, cut_b = (int(cut[0]) for cut in pair_cuts(np.array([n_a]), np.array([n_b]), room))
    assert (a[cut_a:], b[cut_b:]) == one_by_one(a, b, room)


def test_a_question_is_one_item_with_a_row_for_each_choice() -> None:
    records = [Choice("1", "the cat", ("sat", "sat on the mat"), 1), Choice("2", "the dog", ("sat", "on"), None)]
    rows = encode_choice(records, XLMR, (), setting())
    assert rows.items.tolist() == [0, 2, 4] and rows.example.tolist() == [0, 0, 1, 1] and len(rows) == 2
    assert tokens(rows, 0) == "<s> ▁the ▁cat </s> </s> ▁sat </s>"
    assert tokens(rows, 1) == "<s> ▁the ▁cat </s> </s> ▁sat ▁on ▁the ▁mat </s>"
    assert rows.label is not None and rows.label.tolist() == [1, -1]
    assert rows.item_lengths.tolist() == [2 * 10, 2 * 7]


def test_questions_of_different_width_are_refused() -> None:
    records = [Choice("1", "a", ("b", "c"), 0), Choice("2", "a", ("b", "c", "d"), 0)]
    with pytest.raises(UserError, match="example 2 has 3 choices, the ones before it 2"):
        encode_choice(records, XLMR, (), setting())


def test_a_short_context_is_one_window_that_points_at_its_answer() -> None:
    record = Span("q", "the dog?", "the cat sat  on the mat.", (Answer("sat  on", 8),))
    rows = encode_span([record], XLMR, (), setting())
    assert tokens(rows, 0) == "<s> ▁the ▁dog ? </s> </s> ▁the ▁cat ▁sat ▁ ▁on ▁the ▁mat . </s>"
    assert rows.span is not None and rows.place is not None
    first, last = rows.span[0]
    assert record.context[rows.place[first, 0] : rows.place[last, 1]] == "sat  on"
    assert (rows.place[:6] == -1).all() and (rows.place[-1] == -1).all() and (rows.place[6:-1] >= 0).all()


@pytest.mark.parametrize(
    "record",
    [
        Span("q", "the?", "the cat", (), impossible=True),
        Span("q", "the?", "the cat", ()),
        Span("q", "the?", "", (Answer("cat", 4),)),
    ],
)
def test_a_question_without_an_answer_in_its_context_points_at_the_first_token(record: Span) -> None:
    rows = encode_span([record], XLMR, (), setting())
    assert rows.span is not None and rows.span.tolist() == [[0, 0]]


def span_windows(record: Span, values: TrainingPart) -> tuple[Rows, list[list[tuple[int, int]]]]:
    """Rows, and the (start, end) characters of each window's context tokens."""
    rows = encode_span([record], XLMR, (), values)
    assert rows.place is not None
    places = [rows.place[rows.starts[r] : rows.starts[r + 1]] for r in range(len(rows))]
    return rows, [[(int(s), int(e)) for s, e in place if s >= 0] for place in places]


@st.composite
def question(draw: st.DrawFn) -> tuple[Span, TrainingPart]:
    words = draw(st.lists(WORD, min_size=1, max_size=50))
    context, first = " ".join(words), draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, min(first + 5, len(words) - 1)))
    start = sum(len(word) + 1 for word in words[:first])
    record = Span("q", draw(WORD), context, (Answer(" ".join(words[first : last + 1]), start),))
    stride = draw(st.integers(1, 20))
    return record, setting(max_seq_length=draw(st.integers(stride + 16, 70)), doc_stride=stride)


@given(question())
@QUICK
def test_windows_cover_the_context_share_the_stride_and_find_the_answer(case: tuple[Span, TrainingPart]) -> None:
    record, values = case
    offsets = [(start, end) for start, end in XLMR.ids_and_offsets([record.context])[1].tolist()]
    rows, windows = span_windows(record, values)
    joined = list(windows[0])
    for before, after in zip(windows, windows[1:]):
        assert after[: values.doc_stride] == before[-values.doc_stride :]
        joined += after[values.doc_stride :]
    assert joined == offsets
    assert rows.row_lengths.max() <= values.max_seq_length
    assert rows.span is not None and rows.place is not None
    answer, found = record.answers[0], 0
    for r, (first, last) in enumerate(rows.span):
        place = rows.place[rows.starts[r] : rows.starts[r + 1]]
        if (first, last) != (0, 0):
            assert record.context[place[first, 0] : place[last, 1]] == answer.text
            assert place[first, 0] == answer.start
            found += 1
    size = sum(answer.start < end and start < answer.start + len(answer.text) for start, end in offsets)
    assert found or size > values.doc_stride


@given(question())
@hypothesis_settings(max_examples=60, deadline=None)
def test_windows_equal_hugging_faces(case: tuple[Span, TrainingPart]) -> None:
    record, values = case
    theirs = THEIRS(
        record.question,
        record.context,
        truncation="only_second",
        max_length=values.max_seq_length,
        stride=values.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows, windows = span_windows(record, values)
    ours = [rows.input_ids[rows.starts[r] : rows.starts[r + 1]].tolist() for r in range(len(rows))]
    assert ours == theirs["input_ids"]
    for r, window in enumerate(windows):
        segments, offsets = theirs.sequence_ids(r), theirs["offset_mapping"][r]
        shown = [record.context[s:e].strip() for (s, e), segment in zip(offsets, segments) if segment == 1]
        assert [record.context[s:e] for s, e in window] == shown


THEIRS = pieces.xlmr_tokenizer()


def windows_of_jiant(context: list[Any], room: int, step: int) -> list[list[Any]]:
    """The windows that jiant and XTREME cut with `doc_stride=step`, by the rule of their code.

    What does not fit is cut off; the next window begins with the last `room - step` tokens that were kept. The first
    window that needs no cut is the last one.
    """
    windows, rest = [], context
    while len(windows) * step < len(context):
        removed = max(len(rest) - room, 0)
        windows.append(rest[: len(rest) - removed])
        if not removed:
            break
        rest = rest[-(room - step + removed) :]
    return windows


@given(question(), st.integers(6, 40), st.data())
@QUICK
def test_windows_by_step_equal_jiants(case: tuple[Span, TrainingPart], room: int, data: st.DataObject) -> None:
    record, _ = case
    step = data.draw(st.integers(1, room))
    asked = int(XLMR.slices([record.question]).length[0])
    rows, windows = span_windows(record, setting(max_seq_length=asked + 4 + room, window_step=step))
    offsets = [(start, end) for start, end in XLMR.ids_and_offsets([record.context])[1].tolist()]
    assert windows == windows_of_jiant(offsets, room, step)
    assert rows.span is not None
    answer = record.answers[0]
    wanted = [i for i, (start, end) in enumerate(offsets)
              if answer.start < end and start < answer.start + len(answer.text)]  # fmt: skip
    for number, span in enumerate(rows.span.tolist()):
        first, last = wanted[0] - number * step, wanted[-1] - number * step
        inside = first >= 0 and last < len(windows[number])
        assert span == ([first + asked + 3, last + asked + 3] if inside else [0, 0])


@pytest.mark.parametrize(("length", "room", "step", "windows"), [
    (0, 6, 2, [(0, 0)]),
    (6, 6, 2, [(0, 6)]),
    (7, 6, 2, [(0, 6), (2, 7)]),
    (10, 6, 2, [(0, 6), (2, 8), (4, 10)]),
    (11, 6, 2, [(0, 6), (2, 8), (4, 10), (6, 11)]),
    (12, 6, 6, [(0, 6), (6, 12)]),
    (400, 365, 128, [(0, 365), (128, 400)]),
    (622, 366, 128, [(0, 366), (128, 494), (256, 622)]),
])  # fmt: skip
def test_no_window_begins_after_the_one_that_reaches_the_end(
    length: int, room: int, step: int, windows: list[tuple[int, int]]
) -> None:
    cut = cut_windows(np.array([length]), np.array([room]), np.array([step]))
    assert list(zip(cut.begin.tolist(), cut.end.tolist())) == windows


def test_questions_of_different_length_move_by_the_same_step() -> None:
    """With `doc_stride`, a longer question makes smaller steps."""
    context = " ".join(["the", "dog"] * 10)
    records = [Span("1", "cat", context, ()), Span("2", "the cat sat on the mat", context, ())]
    starts = []
    for values in (setting(max_seq_length=20, window_step=4), setting(max_seq_length=20, doc_stride=4)):
        rows = encode_span(records, XLMR, (), values)
        assert rows.place is not None
        first = [int(rows.place[rows.starts[r] + rows.second[r], 0]) for r in range(len(rows))]
        starts.append([[first[r] // 4 for r in np.flatnonzero(rows.example == i)] for i in range(2)])
    assert starts == [[[0, 4, 8], [0, 4, 8, 12]], [[0, 11], [0, 6, 12]]]


@pytest.mark.parametrize("words", [40, 10])
def test_a_step_beyond_the_room_for_the_context_is_refused_where_tokens_would_be_lost(words: int) -> None:
    record = Span("q9", "the cat sat", " ".join(["the"] * words), ())
    largest = encode_span([record], XLMR, (), setting(max_seq_length=16, window_step=9))
    assert largest.row_lengths.tolist() == ([16] * 4 + [11] if words == 40 else [16, 8])
    fault = "question q9: 9 tokens are left for the context, fewer than window_step=10"
    with pytest.raises(UserError, match=f"{fault}; raise max_seq_length or lower window_step or max_query_length"):
        encode_span([record], XLMR, (), setting(max_seq_length=16, window_step=10))
    short = Span("q9", "the cat sat", " ".join(["the"] * 9), ())
    fits = encode_span([short], XLMR, (), setting(max_seq_length=16, window_step=10))
    assert fits.row_lengths.tolist() == [16]


def test_a_long_question_keeps_its_front_and_is_counted() -> None:
    record = Span("q", "the cat sat on the mat", "the dog", (Answer("dog", 4),))
    rows = encode_span([record], XLMR, (), setting(max_query_length=2))
    assert tokens(rows, 0) == "<s> ▁the ▁cat </s> </s> ▁the ▁dog </s>"
    assert rows.tally["questions cut to max_query_length"] == 1


def test_windows_without_room_for_the_stride_are_refused() -> None:
    record = Span("q9", "the cat sat", "the dog " * 20, ())
    with pytest.raises(UserError, match="question q9: 9 tokens are left for the context, not more than doc_stride=9"):
        encode_span([record], XLMR, (), setting(max_seq_length=16, doc_stride=9))


def test_a_tag_stands_at_a_words_first_piece() -> None:
    rows = encode_tag([Tagged("1", ("cats", "\u200b", "on"), ("N", "X", "P"))], XLMR, ("N", "P", "X"), setting())
    assert tokens(rows, 0) == "<s> ▁cat s <unk> ▁on </s>"
    assert rows.token_label is not None and rows.place is not None
    assert rows.token_label.tolist() == [-1, 0, -1, 2, 1, -1]
    assert rows.place[:, 0].tolist() == [-1, 0, -1, 1, 2, -1]


def test_tags_outside_the_list_are_counted_and_their_words_kept() -> None:
    rows = encode_tag([Tagged("1", ("cat", "dog"), ("N", "odd"))], XLMR, ("N",), setting())
    assert rows.token_label is not None and rows.token_label.tolist() == [-1, 0, -1, -1]
    assert rows.place is not None and rows.place[:, 0].tolist() == [-1, 0, 1, -1]
    assert rows.tally["tags not in the label list"] == 1


SENTENCE = st.lists(st.one_of(WORD, st.just("\u200b"), st.just("☃")), min_size=1, max_size=40)


@given(st.lists(SENTENCE, min_size=1, max_size=4), st.integers(8, 40), st.randoms(use_true_random=False))
@QUICK
def test_cut_sentences_rejoin_with_a_tag_for_every_word(sentences: list[list[str]], window: int, random: Any) -> None:
    labels = tuple(f"L{i}" for i in range(11))
    records = [Tagged(words[0], tuple(words), tuple(random.choice(labels) for _ in words)) for words in sentences]
    rows = encode_tag(records, XLMR, labels, setting(max_seq_length=window))
    assert rows.row_lengths.max() <= window
    assert rows.place is not None and rows.token_label is not None
    for index, record in enumerate(records):
        mine = [slice(rows.starts[r], rows.starts[r + 1]) for r in np.flatnonzero(rows.example == index)]
        tags = rejoin(len(record.words), [(rows.place[part, 0], rows.token_label[part]) for part in mine])
        assert tuple(labels[tag] for tag in tags) == record.tags


def test_a_long_text_becomes_several_rows_and_loses_nothing() -> None:
    text = "the cat sat on the mat " * 9
    rows = encode_text([Text("1", text), Text("2", ""), Text("3", "on")], XLMR, (), setting(max_seq_length=10))
    parts = [rows.input_ids[rows.starts[r] + 1 : rows.starts[r + 1] - 1].tolist() for r in range(len(rows))]
    assert sum((parts[r] for r in np.flatnonzero(rows.example == 0)), []) == XLMR.slices([text]).flat.tolist()
    assert rows.row_lengths.max() == 10 and tokens(rows, len(rows) - 1) == "<s> ▁on </s>"
    assert tokens(rows, len(rows) - 2) == "<s> </s>"


def test_a_sentence_of_a_bitext_is_one_row_and_a_cut_is_counted() -> None:
    rows = encode_bitext(
        [Sentence("1", "the cat sat on the mat the cat"), Sentence("2", "on")], XLMR, (), setting(max_seq_length=8)
    )
    assert [tokens(rows, r) for r in range(2)] == ["<s> ▁the ▁cat ▁sat ▁on ▁the ▁mat </s>", "<s> ▁on </s>"]
    assert rows.tally["sentences cut to max_seq_length"] == 1


def test_examples_keep_their_number_beyond_one_chunk() -> None:
    records = (Pair(str(i), "a", "b", "x") for i in range(CHUNK + 3))
    rows = encode_pair(records, BERT, ("x",), setting())
    assert rows.example.tolist() == list(range(CHUNK + 3))


def test_a_tokenizer_without_offsets_is_refused() -> None:
    with pytest.raises(UserError, match="slow-model gives no character offsets"):
        Tokenizer(SimpleNamespace(is_fast=False), "slow-model")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Any) -> None:
    with pytest.raises(UserError, match="no tokenizer in"):
        Tokenizer.load(tmp_path)


def test_a_saved_tokenizer_encodes_alike_and_has_the_same_fingerprint(tmp_path: Any) -> None:
    XLMR.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = ["the cats sat on the mat, aé ☃"]
    assert again.slices(text).flat.tolist() == XLMR.slices(text).flat.tolist()
    assert again.fingerprint == XLMR.fingerprint != BERT.fingerprint
    assert (again.mask, again.special, again.template) == (XLMR.mask, XLMR.special, XLMR.template)
