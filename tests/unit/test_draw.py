"""Which examples are drawn where a split is not taken whole: every file gives its share, each time the same ones."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from stilts_ds.config import TrainingPart, parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.planner import make_plan
from stilts_ds.sources.draw import draw_places, drawn_order, proportional_shares
from stilts_ds.tasks.registry import get_task

SIZES = {"R1": 40, "R2": 40, "R3": 48, "mnli": 400, "snli": 400}
SETTING = TrainingPart(eval_examples=100)
ORDER = [5, 7, 0, 6, 2, 3, 4, 1]  # of the first eight places of the first file


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (500, [1000, 1000, 1200, 9815, 9842], [22, 22, 26, 215, 215]),  # ANLI+'s dev files
        (4, [1, 1, 1, 1], [1, 1, 1, 1]),
        (2, [1, 1, 1], [1, 1, 0]),  # equal remainders: the earlier files
        (5, [3, 0, 7], [2, 0, 3]),  # 1.5 and 3.5: equal remainders again
        (9, [2, 3], [2, 3]),  # no file gives more than it has
        (0, [2, 3], [0, 0]),
    ],
)
def test_shares_are_proportional_and_add_up(total: int, sizes: list[int], shares: list[int]) -> None:
    assert proportional_shares(total, sizes) == shares


def test_shares_never_exceed_a_part_or_miss_the_total() -> None:
    dice = random.Random(1)
    for _ in range(2000):
        sizes = [dice.randrange(0, 12) for _ in range(dice.randrange(1, 7))]
        total = dice.randrange(0, sum(sizes) + 1)
        shares = proportional_shares(total, sizes)
        assert sum(shares) == total and all(0 <= share <= size for share, size in zip(shares, sizes))
        assert all(abs(share - total * size / max(1, sum(sizes))) < 1 for share, size in zip(shares, sizes))


def test_the_drawn_order_is_fixed() -> None:
    """A study that is continued elsewhere, years later, is selected on the same examples."""
    assert drawn_order(0, 8) == ORDER
    grown = [place for place in drawn_order(0, 100) if place < 8]
    assert grown == ORDER


def test_what_is_skipped_is_never_taken() -> None:
    sizes = [7, 20, 1]
    held_out, trained = draw_places(sizes, 0, 9), draw_places(sizes, 9, None)
    assert [len(a) + len(b) for a, b in zip(held_out, trained)] == sizes
    assert not any(a & b for a, b in zip(held_out, trained))
    limited = draw_places(sizes, 9, 5)
    assert sum(map(len, limited)) == 5 and all(few <= many for few, many in zip(limited, trained))


# --- on files --------------------------------------------------------------------------------------------------------


def write_anli_plus(folder: Path) -> None:
    for part, size in SIZES.items():
        for split in ("train", "dev"):
            names = {"mnli": f"mnli/multinli_1.0_{'dev_matched' if split == 'dev' else split}.jsonl",
                     "snli": f"snli/snli_1.0_{split}.jsonl"}  # fmt: skip
            path = folder / names.get(part, f"anli_v1.0/{part}/{split}.jsonl")
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [_row(part, split, number) for number in range(size)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _row(part: str, split: str, number: int) -> dict[str, Any]:
    premise = f"{part} {split} {number}"
    if part.startswith("R"):
        return {"uid": premise, "context": premise, "hypothesis": "h", "label": "e"}
    return {"pairID": premise, "sentence1": premise, "sentence2": "h", "gold_label": "neutral"}


def data_of(folder: Path, **section: Any) -> Data:
    given = {"intermediate": str(folder / "files"), **section}
    values = {"name": "x", "targets": ["xnli"], "intermediate": {"a": ["anli_plus"]}, "model": {"name_or_path": "toy"},
              "data": given}  # fmt: skip
    return Data(parse_recipe(values, "test"), folder / "run")


def parts_in(records: Iterable[Any]) -> Counter[str]:
    return Counter(record.text_a.split()[0] for record in records)


def test_every_part_of_anli_plus_selects(tmp_path: Path) -> None:
    write_anli_plus(tmp_path / "files")
    split = data_of(tmp_path).dev("anli_plus", SETTING)
    records = split.records()
    assert parts_in(records) == {"R1": 5, "R2": 4, "R3": 5, "mnli": 43, "snli": 43}
    numbers = [int(record.text_a.split()[2]) for record in records if record.text_a.startswith("snli")]
    assert numbers == sorted(numbers) and numbers != list(range(43))  # from the whole file, in its order
    assert [record.text_a for record in data_of(tmp_path).dev("anli_plus", SETTING).records()] == [
        record.text_a for record in records
    ]
    assert len(split.rows(SETTING)) == 100


def test_a_shortened_train_split_has_every_part(tmp_path: Path) -> None:
    write_anli_plus(tmp_path / "files")
    data = data_of(tmp_path, max_train_examples=232)
    records = list(data.train("anli_plus", SETTING).stream())
    assert parts_in(records) == {"R1": 10, "R2": 10, "R3": 12, "mnli": 100, "snli": 100}


@pytest.mark.parametrize(("key", "split"), [("train_split", "dev"), ("dev_split", "train")])
def test_a_split_that_serves_twice_is_divided(tmp_path: Path, key: str, split: str) -> None:
    write_anli_plus(tmp_path / "files")
    data = data_of(tmp_path, **{key: {"anli_plus": split}})
    selects = {record.text_a for record in data.dev("anli_plus", SETTING).records()}
    trains = {record.text_a for record in data.train("anli_plus", SETTING).stream()}
    assert len(selects) == 100 and len(trains) == sum(SIZES.values()) - 100 and not selects & trains
    assert {name.split()[1] for name in selects | trains} == {split}


def test_a_whole_split_keeps_its_cache(tmp_path: Path) -> None:
    """Rows that earlier versions cached of whole splits are found again; those of drawn ones are others."""
    write_anli_plus(tmp_path / "files")
    whole = data_of(tmp_path).train("anli_plus", SETTING)
    assert set(whole.identity) == {"task", "family", "split", "language", "skip", "limit", "labels", "files"}
    assert "drawn" in data_of(tmp_path).dev("anli_plus", SETTING).identity


@pytest.mark.parametrize("most, whole", [(500, False), (928, False), (929, True)])
def test_what_an_earlier_version_selected_on_is_known_to_be_all_or_not(tmp_path: Path, most: int, whole: bool) -> None:
    """It took the first dev examples; 928 are all there are, which its cache says only where it asked for more."""
    write_anli_plus(tmp_path / "files")
    setting, data = TrainingPart(eval_examples=most), data_of(tmp_path)
    assert not data.used_whole("anli_plus", setting)  # no rows yet
    data.train("anli_plus", setting).rows(setting)
    assert not data.used_whole("anli_plus", setting)
    dataclasses.replace(data.dev("anli_plus", setting), drawn=False).rows(setting)
    assert data.used_whole("anli_plus", setting) == whole
    assert not data_of(tmp_path, max_train_examples=9).used_whole("anli_plus", setting)


def test_a_faulty_row_is_found_wherever_it_stands(tmp_path: Path) -> None:
    write_anli_plus(tmp_path / "files")
    path = tmp_path / "files" / "snli" / "snli_1.0_dev.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"snli_1.0_dev.jsonl:401"):
        data_of(tmp_path).dev("anli_plus", SETTING).records()


# --- what decides on a model names its phase --------------------------------------------------------------------------


def phase_ids(**more: Any) -> dict[str, str]:
    values = {"name": "x", "targets": ["xquad", "pawsx"], "intermediate": {"none": []}, **more}
    phases = make_plan(parse_recipe(values, "test"), "0123456789abcdef", lambda task: task).phases
    return {phase.train[0]: phase.id for phase in phases}


@pytest.mark.parametrize("setting", [{"max_answer_length": 3}, {"null_threshold": -5.0}])
def test_settings_that_select_answers_name_the_phases_that_they_select(setting: dict[str, Any]) -> None:
    before, after = phase_ids(), phase_ids(evaluation=setting)
    assert before["squad_v1"] != after["squad_v1"] and before["pawsx"] == after["pawsx"]


def test_the_split_that_selects_names_a_phase() -> None:
    before, after = phase_ids(), phase_ids(data={"dev_split": {"pawsx": "train"}})
    assert before["pawsx"] != after["pawsx"] and before["squad_v1"] == after["squad_v1"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"data": {"dev_split": {"xquad": "train"}}}, "data.dev_split: xquad is trained on squad_v1; give that one"),
        ({"data": {"dev_split": {"pawsx": "test"}}}, "data.dev_split.pawsx: 'test' cannot select a model"),
        ({"data": {"dev_split": {"mlm": "train"}}}, "data.dev_split.mlm: every mlm file has passages of its own"),
        ({"data": {"dev_split": {"mnli": "train"}}, "intermediate": {"a": ["mnli", "mnli.de"]}},
         "data.dev_split.mnli: mnli.de trains on translations of the examples"),
    ],
)  # fmt: skip
def test_a_split_that_cannot_select_is_refused(more: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        phase_ids(**more)


# --- lengths of several tasks -----------------------------------------------------------------------------------------


def test_text_among_several_tasks_has_the_lengths_that_are_set_for_it() -> None:
    values = {"name": "x", "targets": ["tatoeba"], "intermediate": {"a": ["mnli", "qqp", "mlm"]},
              "mlm_training": {"max_seq_length": 128}, "multitask_training": {"max_seq_length": 192}}  # fmt: skip
    plan = make_plan(parse_recipe(values, "test"), "0123456789abcdef", lambda task: task)
    [phase] = [phase for phase in plan.phases if phase.train]
    assert {name: phase.setting(name).max_seq_length for name in phase.train} == {"mnli": 192, "qqp": 192, "mlm": 128}
    assert "max_seq_length" not in phase.training  # rows of several tasks have no common length
    assert get_task("mlm").family == "text"
