"""Looking words up gives what the tokenizer gives for the whole text: ids and characters, whatever the text holds."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pieces as tokenizers
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from stilts_ds.rows import pieces
from stilts_ds.rows.pieces import Words, cuts_at_spaces, tokenise
from stilts_ds.rows.slices import Slices


def cut_at_white_space() -> Tokenizer:
    """XLM-R's tokenizer as published cuts at white space first and marks each word then."""
    backend = tokenizers.xlmr_tokenizer().backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    return backend


BACKENDS = {
    "xlmr": tokenizers.xlmr_tokenizer().backend_tokenizer,
    "white space": cut_at_white_space(),
    "bert": tokenizers.bert_tokenizer().backend_tokenizer,
}
ODD = ("<", "[", "<mask>", "[SEP]", "\u200b", "\u3000", "\xa0", "é", "e\u0301", "\u0301", "ﬁ", "☃", "中文", "\t", "…")
PIECE = st.one_of(st.text("abcdehnostéß.,?'’", min_size=1, max_size=9), st.sampled_from([*ODD, "the", "cats", ""]))
TEXT = st.builds(lambda words, gap: gap.join(words), st.lists(PIECE, max_size=12), st.sampled_from([" "] * 3 + ["  "]))


def unrolled(found: tuple[Slices, np.ndarray]) -> list[tuple[list[int], list[list[int]]]]:
    tokens, offsets = found
    spans = [slice(first, first + length) for first, length in zip(tokens.first.tolist(), tokens.length.tolist())]
    return [(tokens.flat[span].tolist(), offsets[span].tolist()) for span in spans]


@pytest.mark.parametrize("name", BACKENDS)
@given(st.lists(st.lists(TEXT, max_size=5), min_size=1, max_size=3))
@hypothesis_settings(max_examples=60, deadline=None)
def test_words_that_are_looked_up_equal_texts_that_are_tokenised(name: str, batches: list[list[str]]) -> None:
    words = Words(BACKENDS[name])
    assert words.plain is not None
    for texts in batches:
        assert unrolled(words.tokenise(texts)) == unrolled(tokenise(BACKENDS[name], texts))


def test_many_words_are_learned_in_several_texts_and_forgotten_when_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "LIMIT", 150)
    words, backend = Words(BACKENDS["xlmr"]), BACKENDS["xlmr"]
    for first in range(0, 600, 100):
        texts = [" ".join(f"x{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(first, first + 100)), "the cat "]
        assert unrolled(words.tokenise(texts)) == unrolled(tokenise(backend, texts))
        assert 100 <= len(words.number) <= 150


def test_offsets_leave_out_leading_white_space() -> None:
    tokens, offsets = tokenise(BACKENDS["xlmr"], ["the  \u3000cat", "dog"])
    shown = ["the  \u3000cat"[start:end] for start, end in offsets[: tokens.length[0]].tolist()]
    assert [text for text in shown if text] == ["the", "cat"] and offsets[-1].tolist() == [0, 3]


def test_white_space_is_what_python_calls_so() -> None:
    assert np.flatnonzero(pieces._is_space()).tolist() == [c for c in range(0x110000) if chr(c).isspace()]


def state(**changes: Any) -> dict[str, Any]:
    return {**json.loads(BACKENDS["xlmr"].to_str()), **changes}


METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


@pytest.mark.parametrize("change", [
    {"pre_tokenizer": None}, {"pre_tokenizer": {"type": "ByteLevel"}},
    {"pre_tokenizer": {**METASPACE, "prepend_scheme": "first"}}, {"pre_tokenizer": {**METASPACE, "split": False}},
    {"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}},
    {"normalizer": {"type": "Replace", "pattern": {"Regex": "s (?=t)"}, "content": ""}},
    {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
    {"added_tokens": [{"content": "cat"}]},
])  # fmt: skip
def test_any_other_tokenizer_gets_whole_texts(change: dict[str, Any]) -> None:
    assert cuts_at_spaces(state()) and not cuts_at_spaces(state(**change))


def test_a_tokenizer_that_looks_beyond_a_word_is_not_cut() -> None:
    backend = tokenizers.xlmr_tokenizer().backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    words, texts = Words(backend), ["the cat", "sat on"]
    assert words.plain is None and unrolled(words.tokenise(texts)) == unrolled(tokenise(backend, texts))


@pytest.mark.slow
def test_the_real_tokenizers_texts_come_out_alike(mini_xlmr: Any, shared_data: Any) -> None:
    from stilts_ds.rows.tokenizer import Tokenizer

    encoder = Tokenizer.load(mini_xlmr)
    lines = [line[:3000] for path in sorted(shared_data.rglob("*")) if path.is_file()
             for line in path.read_text(encoding="utf-8", errors="ignore").splitlines()[:100]]  # fmt: skip
    assert len(lines) > 5000 and sum(encoder.words.plain.fullmatch(line) is not None for line in lines) > 1000
    assert unrolled(encoder.words.tokenise(lines)) == unrolled(tokenise(encoder.backend, lines))
