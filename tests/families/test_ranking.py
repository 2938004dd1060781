"""Ranked retrieval: LAReQA's candidates and right answers, average precision, sentence breaking, files, bad input."""

from __future__ import annotations

import dataclasses
import gzip
import json
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ranks
import torch

from stilts_ds.data.reader import read_examples
from stilts_ds.errors import UserError
from stilts_ds.families.ranking import RANKING, predictions, score
from stilts_ds.families.ranking.head import nearest, ranks_of
from stilts_ds.families.ranking.record import Query, Wanted
from stilts_ds.families.ranking.score import Ranking, average_precision
from stilts_ds.families.ranking.sentences import sentence_bounds
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

REAL = ranks.SHARED / "data/xtreme_r/lareqa"
LAREQA = get_task("lareqa")
# Mean average precision at 20 by question language of vectors that anybody can compute (`trigram_counts` below).
MINI = {
    "ar": 7.035199, "de": 9.992661, "el": 9.469128, "en": 10.593880, "es": 10.449471, "hi": 7.301449, "ru": 7.331456,
    "th": 7.467825, "tr": 11.368436, "vi": 10.020050, "zh": 7.763781,
}  # fmt: skip
WHOLE = {
    "ar": 4.815633, "de": 5.860726, "el": 5.685388, "en": 6.135116, "es": 5.702324, "hi": 5.212676, "ru": 5.807023,
    "th": 6.201553, "tr": 6.084713, "vi": 6.328934, "zh": 3.185327,
}  # fmt: skip


def trigram_counts(texts: Sequence[str]) -> np.ndarray:
    """A text's character trigrams (NFKC, lower case) in 512 buckets by CRC-32, signed by its bit 16: whole numbers."""
    counts = np.zeros((len(texts), 512))
    for row, text in enumerate(texts):
        plain = unicodedata.normalize("NFKC", text).lower()
        for place in range(len(plain) - 2):
            code = zlib.crc32(plain[place : place + 3].encode())
            counts[row, code % 512] += 1 if code >> 16 & 1 else -1
    return counts


def without_rounding(queries: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float32 [n, 1024], such that no score is rounded: many are equal, and have to stay so.

    A query's length changes no ranking, so its counts stand as they are, twice. Counts of a candidate are multiplied by
    1 / length, which is split into two numbers of 16 bits: with 8 bits of a count they fit float32, and a sum of such
    products fits float64.
    """
    share = 1 / np.maximum(np.linalg.norm(candidates, axis=1, keepdims=True), 1e-12)
    exponent = np.frexp(share)[1]
    upper = np.ldexp(np.round(np.ldexp(share, 16 - exponent)), exponent - 16)
    lower = np.ldexp(np.round(np.ldexp(share - upper, 32 - exponent)), exponent - 32)
    bank = np.concatenate([candidates * upper, candidates * lower], 1)
    assert np.array_equal(bank, bank.astype(np.float32))
    return np.concatenate([queries, queries], 1), bank


def questions(folder: Path) -> dict[str, list[Query]]:
    source = DataSource(xtreme=folder)
    return {code: list(read_examples(LAREQA, "test", code, source)) for code in LAREQA.languages}


def trigram_scores(asked: dict[str, list[Query]]) -> dict[str, dict[str, float]]:
    """What the product's own search and metrics give, in percent, by metric and question language."""
    pool = next(iter(asked.values()))[0].pool
    candidates = trigram_counts([candidate.text for candidate in pool])
    scores: dict[str, dict[str, float]] = {"map_at_20": {}, "map": {}}
    for code, records in asked.items():
        sides = without_rounding(trigram_counts([query.text for query in records]), candidates)
        found = predictions.rank(records, pool, *sides, whole=True)
        counts = score.count([Wanted(query.id, query.right) for query in records], found, code)
        for metric, by_language in scores.items():
            by_language[code] = score.METRICS[metric].score(counts)
    return scores


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Query]]:
    folder = tmp_path_factory.mktemp("mini")
    (folder / "lareqa").symlink_to(REAL / "mini")
    return questions(folder)


@pytest.mark.data("xtreme_r/lareqa")
def test_the_small_set_ranks_as_the_reference_does(mini: dict[str, list[Query]]) -> None:
    assert sum(map(len, mini.values())) == 517 and len(mini["de"][0].pool) == 146
    assert {len(query.right) for records in mini.values() for query in records} == {11}
    scores = trigram_scores(mini)
    assert scores["map_at_20"] == pytest.approx(MINI, abs=5e-7)
    # Each language asks the same questions, so a mean of languages is one of questions.
    assert sum(scores["map_at_20"].values()) / 11 == pytest.approx(8.981212493, abs=1e-9)
    # Far behind the best, the reference rounds more scores apart that are equal; their order is that of its library.
    assert sum(scores["map"].values()) / 11 == pytest.approx(16.333305145, abs=2e-3)


@pytest.mark.data("xtreme_r/lareqa")
@pytest.mark.slow
def test_the_whole_set_ranks_as_the_reference_does(tmp_path: Path) -> None:
    folder = tmp_path / "lareqa/xquad-r"
    folder.mkdir(parents=True)
    for packed in (REAL / "xquad-r").glob("*.json.gz"):
        (folder / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    asked = questions(tmp_path)
    assert sum(map(len, asked.values())) == 13_090 and len(asked["de"][0].pool) == 13_014
    assert {len(query.right) for records in asked.values() for query in records} == {11}
    scores = trigram_scores(asked)
    assert scores["map_at_20"] == pytest.approx(WHOLE, abs=5e-7)
    assert sum(scores["map_at_20"].values()) / 11 == pytest.approx(5.547219316, abs=1e-9)
    assert sum(scores["map"].values()) / 11 == pytest.approx(5.780215293, abs=1e-4)


@pytest.mark.data("xtreme_r/lareqa")
def test_english_sentences_are_broken_as_people_break_them() -> None:
    """Boundary F1 of sentences on XQuAD-R's English; the reference's breaker has 0.9932."""
    data = json.loads(gzip.decompress((REAL / "xquad-r/en.json.gz").read_bytes()))
    same = ours = theirs = 0
    for paragraph in (paragraph for article in data["data"] for paragraph in article["paragraphs"]):
        context = paragraph["context"]
        given = {(start, start + len(context[start:end].rstrip())) for start, end in paragraph["sentence_breaks"]}
        found = {(start, start + len(context[start:end].rstrip())) for start, end in sentence_bounds(context)}
        same, ours, theirs = same + len(given & found), ours + len(found), theirs + len(given)
    assert 2 * same / (ours + theirs) == pytest.approx(0.9927751806, abs=1e-9) and same / theirs > 0.985


@pytest.mark.parametrize(
    "text, sentences",
    [
        ("Mr. A. B. Smith paid $3.50. He left.", ["Mr. A. B. Smith paid $3.50. ", "He left."]),
        ("She lives in the U.S. He does not.", ["She lives in the U.S. ", "He does not."]),
        ('He said "No." Then (c. 1900) it rained!  Why?', ['He said "No." ', "Then (c. 1900) it rained!  ", "Why?"]),
        ("In Oct. 1917 it began", ["In Oct. 1917 it began"]),
        ("", []),
    ],
)
def test_a_full_stop_ends_a_sentence_only_where_one_begins(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in sentence_bounds(text)] == sentences


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "k, expected",
    [(20, (1 + 2 / 3 + 3 / 6) / 3), (None, (1 + 2 / 3 + 3 / 6) / 3), (3, (1 + 2 / 3) / 3), (2, 0.5)],
)
def test_average_precision_by_hand(k: int | None, expected: float) -> None:
    assert average_precision("abc", list("axbyzc"), k) == pytest.approx(expected, abs=1e-15)


def test_a_candidate_that_is_named_twice_counts_once() -> None:
    assert average_precision("ab", list("aab"), 20) == pytest.approx((1 + 2 / 3) / 2)


def test_the_full_mean_takes_ranks_behind_the_list_and_nothing_for_what_is_nowhere() -> None:
    gold = [Wanted("q", ("de_0", "en_0", "en_1"))]
    best = ("de_0", "de_7", "en_0")
    whole = {"q": Ranking(best, {"en_1": 30})}
    assert score.METRICS["map"].score(score.count(gold, whole, "de")) == pytest.approx(100 * (1 + 2 / 3 + 3 / 30) / 3)
    assert score.METRICS["map"].score(score.count(gold, {"q": Ranking(best)}, "de")) == pytest.approx(500 / 9)
    # Of the first three answers (as many as are right) two are German.
    assert score.METRICS["own_language"].score(score.count(gold, whole, "de")) == pytest.approx(200 / 3)
    assert score.METRICS["map_at_20"].score(score.count(gold, {}, "de")) == 0


def test_equal_scores_keep_the_lower_index_in_the_best_and_in_the_ranks() -> None:
    bank = torch.eye(4)[[0, 1, 0, 2, 0]]
    queries = torch.tensor([[1.0, 0.5, 0.0, 0.0]])
    assert nearest(queries, bank, 20).tolist() == [[0, 2, 4, 1, 3]]
    assert ranks_of(queries, bank, [[4, 3, 2]]) == [[3, 5, 2]]


def test_ranks_are_those_of_a_whole_stable_sort() -> None:
    generator = torch.Generator().manual_seed(5)
    queries = torch.randint(-2, 3, (40, 6), generator=generator).float()
    bank = torch.randint(-2, 3, (90, 6), generator=generator).float()
    order = torch.sort(queries @ bank.T, dim=1, descending=True, stable=True).indices
    right = [torch.randperm(90, generator=generator)[:3].tolist() for _ in range(40)]
    expected = [[row.index(index) + 1 for index in indices] for row, indices in zip(order.tolist(), right)]
    assert ranks_of(queries, bank, right) == expected
    assert nearest(queries, bank, 20).tolist() == order[:, :20].tolist()


# --- files -----------------------------------------------------------------------------------------------------------


def test_both_layouts_come_back_as_they_were(tmp_path: Path) -> None:
    values = {"q1": Ranking(("de_0", "en_3"), {"en_9": 40}), "q2": Ranking(("x",))}
    path = tmp_path / "test-de.json"
    predictions.FILES["ranked"].write(path, values)
    assert predictions.read(path) == values
    lists = {id: Ranking(ranking.best) for id, ranking in values.items()}
    predictions.FILES["best"].write(path, lists)
    assert json.loads(path.read_text()) == {"q1": ["de_0", "en_3"], "q2": ["x"]} and predictions.read(path) == lists


@pytest.mark.parametrize(
    "content, problem",
    [
        ('["a"]', "line 1: is not a JSON object"),
        ('{"q": "a"}', "the ranking of 'q' is no list"),
        ('{"q": {"best": ["a", "b"], "further": {"c": 2}}}', "'c' of 'q' has rank 2, where `best` names another"),
        ('{"q": ["a"], "q": []}', "repeats the id 'q'"),
    ],
)
def test_a_faulty_prediction_file_is_refused(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "test-de.json"
    path.write_text(content)
    with pytest.raises(UserError, match=problem):
        predictions.read(path)


def test_every_question_must_be_answered_and_no_other(tmp_path: Path) -> None:
    path, gold = tmp_path / "test-de.json", [Wanted("a", ("x",)), Wanted("b", ("x",))]
    path.write_text('{"a": []}')
    with pytest.raises(UserError, match="1 of 2 queries have no answer: 'b'"):
        predictions.FILES["ranked"].check(path, {"a": Ranking(())}, gold)
    predictions.FILES["best"].check(path, {"a": Ranking(())}, gold)  # Mewsli-X counts what is missing as 0
    with pytest.raises(UserError, match="1 query id is not in the labels: 'c'"):
        predictions.FILES["best"].check(path, {"c": Ranking(())}, gold)


def test_the_hubs_rows_of_a_paragraph_share_their_sentences() -> None:
    text = "It is one. It is two."
    asked = [("a", text, 3), ("b", text, 17), ("c", "No.", 0)]
    rows: list[dict[str, Any]] = [
        {"id": id, "question": "?", "context": context, "answers": {"text": ["x"], "answer_start": [start]}}
        for id, context, start in asked
    ]
    found = list(RANKING.converters["hub_squad_sentences"](rows, "squad", None))  # type: ignore[arg-type]
    assert [query.right for query in found] == [("0_0",), ("0_1",), ("1_0",)]
    assert found[1].pool[0].text == "It is two.It is one. It is two."
    rows[0]["answers"] = {"text": [], "answer_start": []}
    with pytest.raises(UserError, match=r"squad\[0\]: the question has no answer"):
        list(RANKING.converters["hub_squad_sentences"](rows, "squad", None))  # type: ignore[arg-type]


# --- bad input -------------------------------------------------------------------------------------------------------


def xquad_r(**changes: Any) -> dict[str, Any]:
    answers = [{"text": "Two", "answer_start": 5}]
    paragraph: dict[str, Any] = {"context": "One. Two.", "sentence_breaks": [[0, 4], [5, 9]]}
    paragraph["qas"] = [{"id": "q", "question": "?", "answers": changes.pop("answers", answers)}]
    return {"data": [{"paragraphs": [{**paragraph, **changes}]}]}


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"sentence_breaks": [[0, 6], [5, 9]]}, r"sentence_breaks\[1\]: \[5, 9\] begins before the sentence in front"),
        ({"sentence_breaks": [[0, 4], [5, 10]]}, r"\[5, 10\] is no range of a paragraph of 9 characters"),
        ({"sentence_breaks": [[0, 4], 5]}, r"sentence_breaks\[1\]: 5 is no pair of places"),
        ({"answers": [{"text": " ", "answer_start": 4}]}, r"qas\[0\]: the answer at character 4 stands in no sentence"),
        ({"answers": []}, "the question has no answer, so no candidate is right"),
    ],
)
def test_a_faulty_question_file_is_refused(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    folder = tmp_path / "lareqa/xquad-r"
    folder.mkdir(parents=True)
    (folder / "en.json").write_text(json.dumps(xquad_r(**changes)))
    task = dataclasses.replace(LAREQA, languages=("en",))
    with pytest.raises(UserError, match=r"en\.json: data\[0\]\.paragraphs\[0\].*" + problem):
        list(read_examples(task, "test", "en", DataSource(xtreme=tmp_path)))


def test_a_language_without_its_file_makes_the_pool_too_small(tmp_path: Path) -> None:
    folder = tmp_path / "lareqa/xquad-r"
    folder.mkdir(parents=True)
    (folder / "en.json").write_text(json.dumps(xquad_r()))
    with pytest.raises(UserError, match=r"there is no file .*ar\.json, and its candidates are searched by"):
        list(read_examples(LAREQA, "test", "en", DataSource(xtreme=tmp_path)))


def test_a_sentence_that_stands_twice_is_right_in_both_places(tmp_path: Path) -> None:
    folder = tmp_path / "lareqa/xquad-r"
    folder.mkdir(parents=True)
    twice = xquad_r(context="Two.\nTwo.", sentence_breaks=[[0, 4], [5, 9]])
    for code in ("en", "de"):
        (folder / f"{code}.json").write_text(json.dumps(twice))
    task = dataclasses.replace(LAREQA, languages=("en", "de"))
    [query] = read_examples(task, "test", "en", DataSource(xtreme=tmp_path))
    assert query.right == ("de_0_0", "de_0_1", "en_0_0", "en_0_1")
    assert query.pool[3].text == "Two.Two.Two."  # the sentence, then its paragraph without newlines
