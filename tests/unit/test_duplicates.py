"""Scored examples in the training data: found by their texts, counted, told, and left out where that is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import TrainingPart, parse_recipe
from stilts_ds.data import duplicates
from stilts_ds.data.data import Data
from stilts_ds.data.duplicates import Overlap, digest_of
from stilts_ds.data.prepare import prepare_data
from stilts_ds.plan_file import Phase
from stilts_ds.planner import make_plan

SETTING = TrainingPart(eval_examples=2)


def write_nli(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"pairID": f"{i}", "sentence1": a, "sentence2": b, "gold_label": "neutral"} for i, (a, b) in
            enumerate(pairs)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_xnli(path: Path, pairs: list[tuple[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{a}\t{b}\tneutral\n" for a, b in pairs), encoding="utf-8")


TRAIN = [("A man sleeps.", "He rests."), ("It  RAINS", "wet"), ("ﬁve", "5"), ("only here", "x"), ("one", "two")]


def study(folder: Path, **section: Any) -> Data:
    write_nli(folder / "i" / "mnli" / "multinli_1.0_train.jsonl", TRAIN)
    write_nli(folder / "i" / "mnli" / "multinli_1.0_dev_matched.jsonl", [("dev", "a"), ("dev", "b"), ("dev", "c")])
    write_xnli(folder / "x" / "xnli" / "test-en.tsv", [("a man sleeps.", "he rests."), ("new", "n"), ("two", "one")])
    write_xnli(folder / "x" / "xnli" / "test-de.tsv", [("it rains", "Wet"), ("neu", "n"), ("five", "5")])
    values = {"name": "x", "targets": ["xnli"], "intermediate": {"none": []}, "model": {"name_or_path": "toy"},
              "evaluation": {"languages": {"xnli": ["en", "de"]}},
              "data": {"intermediate": str(folder / "i"), "xtreme": str(folder / "x"), **section}}  # fmt: skip
    return Data(parse_recipe(values, "test"), folder / "run")


def phase_of(data: Data) -> Phase:
    [phase] = make_plan(data.recipe, "model", data.hash_of).phases
    return phase


def overlap(language: str, examples: int, of: int) -> Overlap:
    return Overlap(train="mnli", task="xnli", split="test", language=language, examples=examples, of=of)


def test_texts_are_alike_but_for_case_spaces_and_unicode_forms() -> None:
    assert digest_of(["It  RAINS ", "ﬁve"]) == digest_of(["it rains", "five"])
    assert digest_of(["a b", "c"]) != digest_of(["a", "b c"])
    assert digest_of(["one", "two"]) != digest_of(["two", "one"])


def test_every_scored_example_that_is_trained_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = study(tmp_path)
    phase = phase_of(data)
    assert data.overlaps(phase).found == (overlap("en", 1, 3), overlap("de", 2, 3))
    with caplog.at_level(logging.WARNING):
        prepare_data(data, [phase])
    [told] = [r.getMessage() for r in caplog.records if "data.duplicates" in r.getMessage()]
    assert "training on mnli sees examples that xnli test scores (en 1 of 3, de 2 of 3)" in told


def test_limits_of_the_evaluation_limit_the_count(tmp_path: Path) -> None:
    data = study(tmp_path)
    part = data.recipe.evaluation.model_copy(update={"max_examples": 1})
    data = Data(data.recipe.model_copy(update={"evaluation": part}), tmp_path / "run")
    assert data.overlaps(phase_of(data)).found == (overlap("en", 1, 1), overlap("de", 1, 1))


def test_numbers_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = study(tmp_path)
    phase = phase_of(data)
    first = data.overlaps(phase)
    with monkeypatch.context() as changed:
        changed.setattr(duplicates, "digests_of", lambda split: pytest.fail("counted again"))
        assert study(tmp_path).overlaps(phase) == first
    write_xnli(tmp_path / "x" / "xnli" / "test-de.tsv", [("neu", "n")])
    again = Data(data.recipe, tmp_path / "run")
    assert again.overlaps(phase).found == (overlap("en", 1, 3),)


def test_excluded_examples_are_not_trained_on(tmp_path: Path) -> None:
    data = study(tmp_path, duplicates="exclude")
    phase = phase_of(data)
    split = data.train("mnli", SETTING)
    assert [record.text_a for record in split.stream()] == ["only here", "one"]
    rows = split.rows(SETTING)
    assert len(rows) == 2 and rows.tally["that are scored"] == 3
    assert data.overlaps(phase).found == ()
    assert phase.id != phase_of(study(tmp_path)).id  # it is another model
    assert len(study(tmp_path).train("mnli", SETTING).rows(SETTING)) == 5


def test_what_is_excluded_names_the_phase(tmp_path: Path) -> None:
    before = phase_of(study(tmp_path, duplicates="exclude")).id
    data = study(tmp_path, duplicates="exclude")
    write_xnli(tmp_path / "x" / "xnli" / "test-en.tsv", [("only here", "x")])
    assert phase_of(Data(data.recipe, tmp_path / "run")).id != before


def test_examples_that_select_are_held_out_of_what_is_left(tmp_path: Path) -> None:
    """Both parts of a divided train split come from the same records, so that they never overlap."""
    data = study(tmp_path, duplicates="exclude", dev_split={"mnli": "train"})
    setting = TrainingPart(eval_examples=1)
    selects = [record.text_a for record in data.dev("mnli", setting).stream()]
    trains = [record.text_a for record in data.train("mnli", setting).stream()]
    assert sorted(selects + trains) == ["one", "only here"] and len(selects) == 1


def test_training_needs_no_test_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = study(tmp_path)
    phase = phase_of(data)
    (tmp_path / "x" / "xnli" / "test-de.tsv").unlink()
    with caplog.at_level(logging.INFO):
        assert Data(data.recipe, tmp_path / "run").overlaps(phase).found == ()
    assert any("are not compared with xnli" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(("limit", "found"), [(None, (250, 1190)), (200, (24, 200))])
def test_the_sample_of_squad_holds_questions_of_xquad(
    tmp_path: Path, shared_data: Path, limit: int | None, found: tuple[int, int]
) -> None:
    values = {"name": "x", "targets": ["xquad"], "intermediate": {"none": []}, "model": {"name_or_path": "toy"},
              "evaluation": {"languages": {"xquad": ["en", "de"]}, "max_examples": limit},
              "data": {"intermediate": str(shared_data / "intermediate"), "xtreme": str(shared_data / "xtreme")},
              }  # fmt: skip
    data = Data(parse_recipe(values, "test"), tmp_path / "run")
    [counted] = data.overlaps(phase_of(data)).found
    assert (counted.language, counted.examples, counted.of) == ("en", *found)
