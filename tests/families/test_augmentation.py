"""Copies of train examples for robust training: synonyms, noise, and what phases that train on them are called."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from small_recipe import recipe

from stilts_ds.config import Recipe, TrainingPart
from stilts_ds.data.data import Data
from stilts_ds.errors import UserError
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import hash_file

SYNONYMS = "# written for this test\nhouse\thome\tbuilding\nriver\tstream\nold\tancient\tformer\taged\n"
COUNT = 600
SYNONYM_SETTING = {"method": "synonyms", "copies": 3}


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    rows = [
        {
            "gold_label": "neutral",
            "sentence1": "The House by a river.",
            "sentence2": f"Old {n} walls.",
            "pairID": str(n),
        }
        for n in range(COUNT)
    ]
    (tmp_path / "intermediate/mnli").mkdir(parents=True)
    for split in ("train", "dev_matched"):
        path = tmp_path / f"intermediate/mnli/multinli_1.0_{split}.jsonl"
        path.write_text("".join(f"{row}\n" for row in map(json.dumps, rows)))
    (tmp_path / "lists/synonyms").mkdir(parents=True)
    (tmp_path / "lists/synonyms/en.tsv").write_text(SYNONYMS)
    return tmp_path


def study(folder: Path, robust: dict[str, Any] | None, tasks: list[str] | None = None, **data: Any) -> Recipe:
    return recipe(
        intermediate={"none": [], "robust": tasks or ["mnli"]},
        intermediate_training={"robust": robust, "max_steps": 4, "eval_examples": 10},
        data={"source": "local", "intermediate": str(folder / "intermediate"), "noise": str(folder / "lists"), **data},
    )


def copies(folder: Path, robust: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """The examples of MNLI's train file, and what is trained on."""
    setting = TrainingPart(robust=robust)
    split = Data(study(folder, robust), folder / "run").train("mnli", setting)
    clean = list(split.stream())
    return clean, list(split.copied(clean))


def test_a_word_becomes_itself_or_one_of_its_synonyms_alike_and_the_example_is_not_added(folder: Path) -> None:
    clean, made = copies(folder, SYNONYM_SETTING)
    assert len(clean) == COUNT and len(made) == 3 * COUNT
    words = Counter(record.text_a.split()[1] for record in made)
    assert words.keys() == {"House", "Home", "Building"}, "the first letter is as large as it was"
    rivers = Counter(record.text_a.split()[-1] for record in made)
    olds = Counter(record.text_b.split()[0] for record in made)
    assert rivers.keys() == {"river.", "stream."} and olds.keys() == {"Old", "Ancient", "Former", "Aged"}
    for counts in (words, rivers, olds):  # 1,800 draws each, to five standard errors
        share = 1 / len(counts)
        error = (share * (1 - share) / 1800) ** 0.5
        assert all(abs(count / 1800 - share) < 5 * error for count in counts.values()), counts
    assert all(record.label == "neutral" and record.text_a.startswith("The ") for record in made)
    texts = [(record.text_a, record.text_b) for record in made]
    assert texts[:COUNT] != texts[COUNT : 2 * COUNT], "each copy is a draw of its own"
    assert made == copies(folder, SYNONYM_SETTING)[1]


def test_noisy_copies_stand_behind_the_examples(folder: Path) -> None:
    clean, made = copies(folder, {"method": "noise", "noise": "typo-10", "copies": 2})
    assert made[:COUNT] == clean and len(made) == 3 * COUNT
    first, second = made[COUNT : 2 * COUNT], made[2 * COUNT :]
    assert sum(a.text_a != b.text_a for a, b in zip(clean, first)) > COUNT / 2
    assert sum(a.text_a != b.text_a for a, b in zip(first, second)) > COUNT / 2
    assert [record.id for record in first] == [record.id for record in clean]


def test_rows_are_of_the_copies_and_dev_stays_clean(folder: Path) -> None:
    made = study(folder, SYNONYM_SETTING)
    data, setting = Data(made, folder / "run"), made.training("intermediate", {}, "mnli")
    assert len(data.train("mnli", setting).rows(setting)) == 3 * COUNT
    assert len(data.dev("mnli", setting).rows(setting)) == 10
    plain = made.training("target", {}, "mnli")
    assert len(data.train("mnli", plain).rows(plain)) == COUNT
    found = data.find_rows("mnli", setting)
    assert found is not None and len(found[0]) == 3 * COUNT


def ids(made: Recipe, folder: Path) -> dict[str, str]:
    plan = make_plan(made, "model", lambda name: f"files of {name}")
    return {phase.kind + " " + phase.condition: phase.id for phase in plan.phases}


def test_what_changes_the_copies_changes_the_phases_name(folder: Path) -> None:
    plain = ids(study(folder, None), folder)
    settings = [
        SYNONYM_SETTING,
        {"method": "synonyms", "copies": 2},
        {"method": "noise", "noise": "typo-5"},
        {"method": "noise", "noise": "typo-10"},
        {"method": "random", "radius": 0.1},
        {"method": "random", "radius": 0.2},
        {"method": "adversarial"},
        {"method": "adversarial", "steps": 3},
        {"method": "adversarial", "radius": 0.3},
        {"method": "adversarial", "step_size": 0.2},
    ]
    found = [ids(study(folder, setting), folder) for setting in settings]
    names = [plain["intermediate robust"], *(phases["intermediate robust"] for phases in found)]
    assert len(set(names)) == len(names)
    assert {phases["target none"] for phases in found} == {plain["target none"]}
    path = folder / "lists/synonyms/en.tsv"
    before, digest = ids(study(folder, SYNONYM_SETTING), folder), hash_file(path)
    path.write_text(SYNONYMS + "wall\tbarrier\n")
    assert hash_file(path) != digest
    assert ids(study(folder, SYNONYM_SETTING), folder)["intermediate robust"] != before["intermediate robust"]


@pytest.mark.parametrize(
    ("robust", "tasks", "message"),
    [
        (SYNONYM_SETTING, ["mlm"], "synonym noise cannot change the texts of mlm and keep its labels"),
        ({"method": "noise", "noise": "space-5"}, ["ccg"], "space noise cannot change the texts of ccg"),
        ({"method": "noise", "noise": "typo-0"}, ["mnli"], "at rate 0 a noisy copy is the example again"),
        ({"method": "noise", "noise": "typo-5-s2"}, ["mnli"], "each copy is a draw of its own; leave -s2 out"),
        ({"method": "noise", "noise": "typo-101"}, ["mnli"], "a rate is errors in 100 letters; give at most 100"),
        ({"method": "noise", "noise": "tipo-5"}, ["mnli"], "unknown noise 'tipo'; did you mean typo"),
        ({"method": "noise", "noise": "typo-5-context"}, ["mnli"], "mnli has no passages; leave -context out"),
        ({"method": "noise", "noise": "natural-5"}, ["mnli"], "data.noise has no misspellings/en.tsv for the texts"),
        (SYNONYM_SETTING, ["mnli.de"], "data.noise has no synonyms/de.tsv for the texts of mnli.de"),
    ],
    ids=str,
)
def test_copies_that_cannot_be_made_are_refused_when_it_is_planned(
    robust: dict[str, Any], tasks: list[str], message: str, folder: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ids(study(folder, robust, tasks), folder)


@pytest.mark.parametrize(
    ("robust", "message"),
    [
        ({"method": "advers"}, "unknown method 'advers'; did you mean adversarial"),
        ({"steps": 3}, "give a method .synonyms, noise, random, adversarial. and its settings"),
        ({"method": "random", "steps": 2}, "unknown key 'steps': method=random takes radius"),
        ({"method": "random"}, "robust.random.radius' is missing"),
        ({"method": "adversarial", "steps": 1, "step_size": 0.1}, "step_size has no effect with steps=1"),
        ({"method": "adversarial", "radius": 0, "magnitude": 0.1}, "magnitude has no effect with radius=0"),
        ({"method": "adversarial", "radius": -1}, "greater than or equal to 0"),
        ({"method": "adversarial", "steps": 0}, "greater than or equal to 1"),
        ("adversarial", "give a method"),
    ],
    ids=str,
)
def test_settings_that_cannot_act_are_refused(robust: Any, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        study(folder, robust)


def test_a_plan_keeps_the_settings_that_act() -> None:
    setting = TrainingPart(robust={"method": "adversarial", "steps": 1, "radius": 0})
    kept = setting.in_use()["robust"]
    assert kept == {"method": "adversarial", "steps": 1, "radius": 0.0}
    assert TrainingPart(robust=kept).robust == setting.robust
    assert "robust" not in TrainingPart().in_use()
