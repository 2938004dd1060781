"""Readers on real rows of the official files, beside the checkout in `../shared/data`; skipped where absent."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pytest
import ranks
from reader_files import available_languages, read_bitext
from stilts_launcher.show.tasks import show_examples

from stilts_ds.data.reader import read_examples
from stilts_ds.sources.source import DataSource
from stilts_ds.tasks.registry import get_task

DATA = ranks.SHARED / "data"
SOURCE = DataSource("local", DATA / "intermediate", DATA / "xtreme")
pytestmark = pytest.mark.data("intermediate", "xtreme")

COUNTS = {
    ("anli_plus", "train"): {"en": 20_398}, ("anli_plus", "dev"): {"en": 2_798},
    ("mnli", "train"): {"en": 8_999}, ("mnli", "dev"): {"en": 1_000},
    ("qqp", "train"): {"en": 3_000}, ("qqp", "dev"): {"en": 500},
    ("squad_v1", "train"): {"en": 2_107}, ("squad_v1", "dev"): {"en": 803},
    ("squad_v2", "train"): {"en": 4_449}, ("squad_v2", "dev"): {"en": 1_629},
    ("hellaswag", "train"): {"en": 9_000}, ("hellaswag", "dev"): {"en": 1_042},
    ("ccg", "train"): {"en": 800}, ("ccg", "dev"): {"en": 200},
    ("cosmosqa", "train"): {"en": 2_400}, ("cosmosqa", "dev"): {"en": 585},
    ("commonsenseqa", "train"): {"en": 1_000}, ("commonsenseqa", "dev"): {"en": 221},
    ("xnli", "dev"): dict.fromkeys(("de", "en", "fr", "sw", "zh"), 2_490),
    ("xnli", "test"): dict.fromkeys(("de", "en", "fr", "sw", "zh"), 5_010),
    ("pawsx", "dev"): dict.fromkeys(("de", "en", "ko"), 2_000),
    ("pawsx", "test"): dict.fromkeys(("de", "en", "ko"), 2_000),
    ("udpos", "train"): {"en": 21_253},
    ("udpos", "dev"): {"de": 19_233, "en": 3_974, "es": 3_054, "te": 131, "zh": 1_000},
    ("udpos", "test"): {"de": 977, "en": 2_077, "te": 146, "yo": 100},
    ("panx", "train"): {"en": 20_000},
    ("panx", "dev"): {"de": 10_000, "en": 10_000, "es": 10_000, "sw": 1_000, "yo": 100},
    ("xquad", "test"): dict.fromkeys(("de", "en", "hi", "zh"), 1_190),
    ("mlqa", "dev"): {"de": 512, "en": 1_148, "zh": 504},
    ("tydiqa", "train"): {"en": 3_696}, ("tydiqa", "dev"): {"en": 440, "fi": 782, "sw": 499},
    ("xcopa", "dev"): dict.fromkeys(("et", "it", "sw"), 100),
    ("xcopa", "test"): dict.fromkeys(("et", "it", "sw"), 500),
}  # fmt: skip


@functools.cache
def read(task: str, split: str, language: str) -> tuple[list[Any], Counter[str]]:
    """Records and what the reader left out; several tests look at the same large files."""
    left_out: Counter[str] = Counter()
    return list(read_examples(get_task(task), split, language, SOURCE, left_out)), left_out


def rows(task: str, split: str, language: str = "en") -> list[Any]:
    return read(task, split, language)[0]


def labels(records: list[Any]) -> dict[Any, int]:
    return dict(Counter(record.label for record in records))


@pytest.mark.parametrize("key", COUNTS, ids="-".join)
def test_row_counts_and_languages(key: tuple[str, str]) -> None:
    """Nothing is dropped from these files, and every id is found once."""
    task, split = get_task(key[0]), key[1]
    assert set(available_languages(task, split, SOURCE)) == set(COUNTS[key])
    for language, count in COUNTS[key].items():
        records, left_out = read(task.name, split, language)
        assert (len(records), left_out) == (count, {})


def test_first_pairs() -> None:
    first = rows("mnli", "dev")[0]
    assert (first.id, first.text_a, first.label) == ("dev0", "Salt kept the town fed.", "entailment")
    assert rows("anli_plus", "dev")[1].text_b == "Zane was a thespian."
    assert rows("pawsx", "test", "en")[0].label == "1"
    assert rows("xnli", "test", "sw")[0].label == "contradiction"


def test_label_distributions() -> None:
    nli = {"contradiction": 1_670, "entailment": 1_670, "neutral": 1_670}
    assert labels(rows("xnli", "test", "zh")) == nli
    assert labels(rows("xnli", "dev", "fr")) == dict.fromkeys(nli, 830)
    assert labels(rows("qqp", "train")) == {"0": 1_952, "1": 1_048}
    assert labels(rows("pawsx", "test", "de")) == {"0": 1_105, "1": 895}
    assert set(labels(rows("hellaswag", "dev"))) == {0, 1, 2, 3}
    assert set(labels(rows("commonsenseqa", "dev"))) == {0, 1, 2, 3, 4}


def test_no_csv_quotes_are_left() -> None:
    for one in rows("pawsx", "test", "ko") + rows("qqp", "train"):
        assert '""' not in one.text_a + one.text_b


def test_spans() -> None:
    assert len(rows("xquad", "test", "hi")[0].answers) == 1
    assert Counter(one.impossible for one in rows("squad_v2", "dev")) == {True: 826, False: 803}
    for one in rows("tydiqa", "dev", "fi") + rows("mlqa", "dev", "zh"):
        assert one.answers
        assert all(one.context[a.start :].startswith(a.text) for a in one.answers)


def test_tags() -> None:
    panx = Counter(tag for one in rows("panx", "train") for tag in one.tags)
    assert (panx["O"], panx["B-LOC"], panx["B-ORG"], panx["B-PER"]) == (81_362, 9_345, 9_422, 9_164)
    assert sum(len(one.words) for one in rows("udpos", "train")) == 375_194
    assert rows("udpos", "dev", "te")[0].words[:2] == ("మనం", "ఎందుకు")


def test_german_contractions_are_one_word_with_a_preposition_tag() -> None:
    tagged = Counter(pair for one in rows("udpos", "test", "de") for pair in zip(one.words, one.tags))
    assert tagged["im", "ADP"] > 50 and tagged["im", "DET"] == 0
    assert not any(word == "_" for word, _ in tagged)


def test_bitexts() -> None:
    left, right, gold = read_bitext(get_task("bucc2018"), "dev", "zh", SOURCE)
    assert gold is not None and (len(left), len(right), len(gold)) == (8_624, 13_589, 257)
    assert ("zh-000000057", "en-000008530") in gold
    sizes = {"de": 1_000, "fr": 1_000, "ja": 1_000, "sw": 390, "te": 234, "th": 548, "zh": 1_000}
    tatoeba = get_task("tatoeba")
    assert set(available_languages(tatoeba, "test", SOURCE)) == set(sizes)
    for language, size in sizes.items():
        left, right, gold = read_bitext(tatoeba, "test", language, SOURCE)
        assert gold is not None and len(left) == len(right) == len(gold) == size


def test_examples_are_shown() -> None:
    shown = show_examples(get_task("tatoeba"), "test", "sw", SOURCE, 2)
    assert "390 sentences" in shown and "390 gold pairs" in shown and "Alinileta kahawa." in shown
    for task, language in (("udpos", "yo"), ("xcopa", "et"), ("xquad", "zh"), ("xnli", "de")):
        assert show_examples(get_task(task), "test", language, SOURCE, 3).count("\n\n") == 2
