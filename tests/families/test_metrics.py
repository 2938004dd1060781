"""Exact expected numbers for every metric, worked out by hand."""

import dataclasses
from typing import Any

import pytest

from stilts_ds.errors import UserError
from stilts_ds.families.bitext.score import METRICS as PAIR_METRICS
from stilts_ds.families.metrics import ACCURACY, Metric
from stilts_ds.families.pair.score import metrics as pair_metrics
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.span.score import metrics as answer_metrics
from stilts_ds.families.span.score import normalise_english, normalise_mlqa
from stilts_ds.families.tag.score import METRICS as TAG_METRICS
from stilts_ds.families.tag.score import Chunk, chunks
from stilts_ds.tasks.registry import get_task


def question(name: str, *answers: str, impossible: bool = False) -> Span:
    return Span(name, "?", "context", tuple(Answer(a, 0) for a in answers), impossible)


def score(metric: Metric, gold: Any, predicted: Any) -> float:
    return metric.score(metric.count(gold, predicted, "en"))


def binary_f1(gold: list[str], predicted: list[str], positive: str = "1") -> float:
    """F1 of the last label of a task."""
    task = dataclasses.replace(get_task("qqp"), labels=("other", positive))
    return score(pair_metrics(task)["f1"], gold, predicted)


def chunk_scores(gold: Any, predicted: Any) -> dict[str, float]:
    return {name: score(TAG_METRICS[name], gold, predicted) for name in ("f1", "precision", "recall")}


def set_scores(gold: set[tuple[str, str]], predicted: set[tuple[str, str]]) -> dict[str, float]:
    names = ("f1", "precision", "recall")
    return {name: score(PAIR_METRICS[name], sorted(gold), sorted(predicted)) for name in names}


def answer_scores_of(gold: list[Span], predicted: dict[str, str]) -> dict[str, float]:
    """SQuAD's rules."""
    metrics = answer_metrics(get_task("squad_v1"))
    return {name: score(metrics[name], gold, predicted) for name in ("exact_match", "f1")}


def test_accuracy_and_binary_f1() -> None:
    gold, predicted = ["1", "1", "0", "0", "1"], ["1", "0", "1", "0", "1"]
    assert score(ACCURACY, gold, predicted) == 60.0
    assert binary_f1(gold, predicted) == pytest.approx(200 / 3, rel=1e-15)
    assert binary_f1(gold, predicted, positive="0") == 50.0
    assert binary_f1(["0"], ["0"]) == 0.0


@pytest.mark.parametrize("gold, predicted", [(["a"], ["a", "b"]), ([], [])])
def test_unequal_or_empty_lists_are_refused(gold: list[str], predicted: list[str]) -> None:
    with pytest.raises(ValueError):
        score(ACCURACY, gold, predicted)
    with pytest.raises(ValueError):
        chunk_scores([gold], [predicted])


@pytest.mark.parametrize(
    "tags, expected",
    [
        ("O B-PER I-PER O B-LOC", {("PER", 1, 2), ("LOC", 4, 4)}),
        ("I-PER I-PER I-LOC", {("PER", 0, 1), ("LOC", 2, 2)}),
        ("O I-PER B-PER I-PER", {("PER", 1, 1), ("PER", 2, 3)}),
        ("B-PER B-PER", {("PER", 0, 0), ("PER", 1, 1)}),
        ("NOUN NOUN VERB NOUN", {("NOUN", 0, 1), ("VERB", 2, 2), ("NOUN", 3, 3)}),
        ("CCONJ SCONJ", {("CCONJ", 0, 0), ("SCONJ", 1, 1)}),
        ("SYM SYM ADV ADV", {("SYM", 0, 0), ("SYM", 1, 1), ("ADV", 2, 3)}),
        ("INTJ INTJ", {("INTJ", 0, 1)}),
        ("O O", set()),
        ("", set()),
    ],
)
def test_chunks(tags: str, expected: set[Chunk]) -> None:
    assert chunks(tags.split()) == expected


def test_chunk_f1_counts_whole_chunks() -> None:
    gold = [["NOUN", "NOUN", "VERB"], ["CCONJ", "ADJ"]]
    predicted = [["NOUN", "ADJ", "VERB"], ["SCONJ", "ADJ"]]
    scores = chunk_scores(gold, predicted)
    assert scores == {"precision": 40.0, "recall": 50.0, "f1": pytest.approx(400 / 9, rel=1e-15)}
    assert score(TAG_METRICS["token_accuracy"], gold, predicted) == 60.0


def test_chunk_f1_keeps_sentences_apart() -> None:
    assert chunk_scores([["NOUN"], ["NOUN"]], [["NOUN"], ["VERB"]])["f1"] == 50.0
    assert chunk_scores([["O"]], [["O"]])["f1"] == 0.0


def test_set_f1() -> None:
    scores = set_scores({("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")}, {("a", "1"), ("b", "3")})
    assert scores == {"precision": 50.0, "recall": 25.0, "f1": pytest.approx(100 / 3, rel=1e-15)}
    assert set_scores({("a", "1")}, set())["f1"] == 0.0


@pytest.mark.parametrize(
    "language, text, expected",
    [
        ("en", "The  U.S. — an 'Answer'!", "us answer"),
        ("en", "Theatre a", "theatre"),
        ("de", "Die Straße der „Einheit“", "straße einheit"),
        ("es", "¿La casa de los Ángeles?", "casa de ángeles"),
        ("vi", "Những con mèo của tôi", "con mèo tôi"),
        ("ar", "الكتاب، في البيت؟", "كتاب في بيت"),
        ("hi", "भारत। का", "भारत का"),
        ("zh", "《红楼梦》 in 1791年", "红 楼 梦 in 1791 年"),
    ],
)
def test_mlqa_normalisation(language: str, text: str, expected: str) -> None:
    assert normalise_mlqa(text, language) == expected


def test_mlqa_arabic_article_counts_inside_words_too() -> None:
    assert normalise_mlqa("والكتاب", "ar") == "و كتاب"


def test_mlqa_unknown_language() -> None:
    with pytest.raises(UserError, match="no answer rules for language 'th'"):
        normalise_mlqa("x", "th")


def test_english_normalisation_keeps_other_scripts_punctuation() -> None:
    assert normalise_english("The café, “die” 北京。") == "café “die” 北京。"


def test_span_scores_take_the_best_gold_answer() -> None:
    gold = [question("a", "the red fox", "red"), question("b", "Paris")]
    scores = answer_scores_of(gold, {"a": "red dog", "b": "paris."})
    assert scores == {"exact_match": 50.0, "f1": pytest.approx(100 * (2 / 3 + 1) / 2, rel=1e-15)}


def test_squad_v1_empty_answer_is_exact_but_has_no_token() -> None:
    scores = answer_scores_of([question("a", "The")], {"a": "a"})
    assert scores == {"exact_match": 100.0, "f1": 0.0}


def test_squad_v2_no_answer() -> None:
    gold = [question("a", impossible=True), question("b", impossible=True), question("c", "x y", "the")]
    scores = answer_scores_of(gold, {"a": "", "b": "x", "c": "x"})
    assert scores == {"exact_match": pytest.approx(100 / 3), "f1": pytest.approx(100 * (1 + 2 / 3) / 3)}
    only_article = [question("a", impossible=True), question("c", "the")]
    assert answer_scores_of(only_article, {"a": "x", "c": ""})["f1"] == 50.0


def test_unanswered_and_unlabelled_questions_are_refused() -> None:
    with pytest.raises(UserError, match="1 question has no prediction, first 'b'"):
        answer_scores_of([question("a", "x"), question("b", "x")], {"a": "x"})
    with pytest.raises(UserError, match="no gold answers for question 'a'"):
        answer_scores_of([question("a")], {"a": "x"})
