"""Scores by what an example is like: equal counts, a planted weakness that shows, files that do not fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_runs import QUICK, build_run

from stilts_ds.data.duplicates import digest_of
from stilts_ds.errors import UserError
from stilts_ds.evaluate.attributes import _of_pieces, attributes_file, read_attributes
from stilts_ds.evaluate.seen import SEEN, WORDS, Training
from stilts_ds.families.pair.record import Pair
from stilts_ds.families.registry import FAMILIES
from stilts_ds.families.span.record import Answer, Span
from stilts_ds.families.tag.record import Tagged
from stilts_ds.model_files import TOY
from stilts_ds.report.buckets import buckets_of
from stilts_ds.report.write import write_report
from stilts_ds.rows.tokenizer import Tokenizer
from stilts_ds.run_dir import write_json


def test_buckets_have_equal_counts_from_low_to_high() -> None:
    buckets = buckets_of([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 8.0, 7.0, 9.0])
    assert [sorted(bucket.items) for bucket in buckets] == [[1, 3, 4], [0, 2], [5, 7], [6, 8]]
    assert [(bucket.low, bucket.high) for bucket in buckets] == [(1, 3), (4, 5), (6, 7), (8, 9)]
    assert buckets_of([2.0] * 8) == [] and buckets_of([1.0, 2.0]) == []


def test_an_attribute_with_two_values_has_a_bucket_for_each() -> None:
    seen, unseen = buckets_of([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])[::-1]
    assert sorted(seen.items) == [0, 3] and sorted(unseen.items) == [1, 2, 4, 5]
    assert (unseen.low, unseen.high, seen.low, seen.high) == (0, 0, 1, 1)


def test_what_was_seen_in_training_is_told_of_examples_and_words() -> None:
    pairs = FAMILIES["pair"]
    train = Training(frozenset({digest_of(("The dog ran.", "It moved."))}), frozenset({"dog", "ran", "it", "moved"}))
    records = [Pair("1", "the dog  ran.", "It moved.", None), Pair("2", "A «dog» sat.", "It lay, still!", None)]
    assert train.attributes(pairs, records) == {SEEN: [1, 0], WORDS: [80, pytest.approx(100 * 2 / 6, abs=1e-3)]}
    tags = FAMILIES["tag"]
    sentence = Tagged("1", ("Dog", "Berlin", ".", "ran"), ("O", "B-LOC", "O", "O"))
    assert train.attributes(tags, [sentence])[WORDS] == [pytest.approx(100 * 2 / 3, abs=1e-3)]


def told(family: str, records: Sequence[Any]) -> dict[str, list[float]]:
    attributes = FAMILIES[family].attributes
    assert attributes is not None
    return attributes(records)


def test_families_tell_lengths_of_what_they_judge() -> None:
    pair = told("pair", [Pair("1", "abc", "de", None)])
    assert list(pair.values()) == [[3], [2]]
    span = told("span", [Span("1", "why?", "because", (Answer("be", 0),)), Span("2", "w?", "b", ())])
    assert list(span.values()) == [[4, 2], [7, 1], [2, 0]]
    tag = told("tag", [Tagged("1", ("a", "b"), ("B-LOC", "O")), Tagged("2", ("a",), ("O",))])
    assert tag == {"words": [2, 1], "words in entities, in 100": [50, 0]}


def test_pieces_are_counted_by_the_models_tokenizer() -> None:
    tokenizer = Tokenizer.load(TOY)
    texts = ["Mira", "中中 Mira", ""]
    found = _of_pieces(texts, tokenizer)
    for number, text in enumerate(texts):
        ids = tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found["pieces in 100 characters"][number] == pytest.approx(100 * len(ids) / max(1, len(text)), abs=1e-3)
        unknown = 100 * ids.count(tokenizer.unk) / max(1, len(ids))
        assert found["unknown pieces in 100"][number] == pytest.approx(unknown, abs=1e-3)


@pytest.mark.processes  # a report asks the system which processor it is
def test_a_planted_weakness_stands_in_its_bucket(tmp_path: Path) -> None:
    run = build_run(tmp_path, lambda *_: 1.0, {"none": []}, ("pawsx",), {"pawsx": ["en"]}, examples=200)
    [predictions] = run.root.glob("phases/*/predictions/pawsx/test-en.tsv")
    labels = run.labels / "pawsx/test-en.tsv"
    lines = predictions.read_text().splitlines()
    wrong = ["1" if word == "0" else "0" for word in lines[150:175]]
    predictions.write_text("\n".join([*lines[:150], *wrong, *lines[175:]]) + "\n")
    from stilts_ds.evaluate.score import score_file
    from stilts_ds.run_dir import read_json
    from stilts_ds.tasks.registry import get_task

    [result] = run.root.glob("phases/*/results/pawsx.json")
    scores = score_file(predictions, labels, get_task("pawsx"), "en")
    stored = read_json(result)
    stored |= {"languages": {"en": scores}, "main": {"en": 87.5}, "mean_of_present": 87.5}
    write_json(result, stored)
    write_json(attributes_file(labels), {"length": list(map(float, range(200)))})
    write_report(run, QUICK)
    rows = re.findall(r"\| length, (\d) of 4 \| (\S+) \| (\S+) \| (\S+) \[(\S+), (\S+)\] \|", run.report.read_text())
    assert [(row[0], row[1], row[2], row[3]) for row in rows] == [
        ("1", "0", "49", "100.0"),
        ("2", "50", "99", "100.0"),
        ("3", "100", "149", "100.0"),
        ("4", "150", "199", "50.0"),
    ]
    page = run.report.with_suffix(".html").read_text()
    assert '<section id="kinds">' in page and '<a href="#kinds">' in page and page.count("length, 4 of 4") == 1
    low, high = map(float, rows[3][4:])
    half = 1.96 * 100 * np.sqrt(0.25 / 50)  # of a share of one half in 50 examples
    assert low == pytest.approx(50 - half, abs=4) and high == pytest.approx(50 + half, abs=4)


def test_attributes_of_another_test_set_are_refused(tmp_path: Path) -> None:
    labels = tmp_path / "test-en.tsv"
    assert read_attributes(labels, 3) == {}
    write_json(attributes_file(labels), {"length": [1.0, 2.0]})
    assert read_attributes(labels, 2) == {"length": [1.0, 2.0]}
    with pytest.raises(UserError, match="does not hold a number for each of the examples; run `stilts evaluate`"):
        read_attributes(labels, 3)
